"""What is asked of rows by network."""

from __future__ import annotations

from hvtx.model.mark import make_mark
from hvtx.model.resource import Kind
from hvtx.store import intents, records
from hvtx.store.database import Store
from tests.store.shelf import add_network, claim, enter, network


def taps(store: Store, net: str, *names: str, life: int = 1) -> None:
    """A device on record of each of these VMs."""
    operation = enter(store)
    with store.transaction() as sql:
        for name in names:
            intents.intend(
                sql,
                [
                    intents.NewRow(Kind.TAP, f"hv-{net}-{name}", {}, f"id-{name}", net),
                    intents.NewRow(Kind.FILTER, f"hv-{net}-{name}", {}, f"id-{name}", net),
                ],
                operation=operation,
                life=life,
                mark=lambda row: make_mark(store.installation, row, b"a" * 10),
            )


def test_devices_are_counted_where_more_vms_are_on_record_than_fit(store: Store) -> None:
    """Of one network and one life of the host; VMs without a device are none."""
    lan, dmz = network("lan", "10.77.0.0/24"), network("dmz", "10.78.0.0/24")
    add_network(store, lan, dmz)
    for name in ("a", "b", "c"):
        claim(store, name, lan, dmz)
    taps(store, lan.id, "a", "b")
    taps(store, dmz.id, "c")
    both = (lan.id, dmz.id)
    with store.transaction() as sql:
        assert records.taps_in_networks(sql, both, 1, 2) == {lan.id: 2, dmz.id: 1}
        assert records.taps_in_networks(sql, both, 1, 3) == {}, "they fit, whoever runs"
        assert records.taps_in_networks(sql, both, 2, 2) == {lan.id: 0, dmz.id: 0}
        assert records.taps_in_networks(sql, (lan.id,), 1, 0) == {lan.id: 2}
