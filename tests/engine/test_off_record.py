"""Which addresses guests off the record have."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from hvtx.engine.off_record import OffRecord, addresses_of
from hvtx.errors import Conflict
from hvtx.model.place import Place
from hvtx.model.resource import Entry
from hvtx.model.vm import Network

OWN, OTHER = "aaaaaaaaaa", "bbbbbbbbbb"
LOST, KNOWN = f"hvtx:1:{OWN}:7.{'a' * 16}", f"hvtx:1:{OWN}:3.{'b' * 16}"
STRANGE = f"hvtx:1:{OTHER}:7.{'c' * 16}"
LAN = Network(
    "n1", "lan", "hvbr0", "02:00:00:00:00:01", 1500, True, False, "nftables",
    ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), None,
)  # fmt: skip


def entry(text: str, mark: str | None = LOST) -> Entry:
    return Entry("nftables", Place("nft", "inet", "hvtx", "guests4"), text, mark)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.77.0.3 hvbr0", ["10.77.0.3"]),
        ("fd77::3", ["fd77::3"]),
        ("-s 10.77.0.3/32 -i hv3 -j ACCEPT", ["10.77.0.3"]),
        ("-s FD77::3/128 -j RETURN".lower(), ["fd77::3"]),
        ("fd77:0:0:0:0:0:0:3", ["fd77::3"]),
        ("tcp 8080 : 10.77.0.3 80", ["10.77.0.3"]),
        ("10.77.0.3:80", []),  # no firewall writes it so
        ("10.77.0.1 hvbr0", []),  # the gateway's, which nobody is leased
        ("192.0.2.3 hvbr0", []),
        ("02:00:00:00:00:07 hvbr0", []),
        ("10.77.0.300 hvbr0", []),
    ],
)
def test_an_address_is_what_an_entry_names(text: str, found: list[str]) -> None:
    """In whatever firewall's words; of the network's subnets alone."""
    assert addresses_of([entry(text)], (), LAN) == dict.fromkeys(found, LOST)


def test_marks_that_are_known_and_none_do_not_count() -> None:
    """What is on record, or not marked at all, is nobody's off the record."""
    entries = [entry("10.77.0.3", KNOWN), entry("10.77.0.4", None)]
    assert addresses_of(entries, {KNOWN}, LAN) == {}
    assert addresses_of(entries, (), LAN) == {"10.77.0.3": KNOWN}


class _Firewall:
    def __init__(self, *entries: Entry) -> None:
        self.entries, self.asked = entries, 0

    def observe(self) -> tuple[Entry, ...]:
        self.asked += 1
        return self.entries


def off_record(firewall: Any, *known: str) -> OffRecord:
    def of(marks: Collection[str]) -> set[str]:
        return set(marks) & set(known)

    return OffRecord(OWN, lambda name: firewall, of, lambda: None)


def test_a_firewall_is_read_once() -> None:
    """However many guests are asked about; other installations' entries are theirs."""
    firewall = _Firewall(entry("10.77.0.3"), entry("10.77.0.4", STRANGE), entry("10.77.0.5", KNOWN))
    asked = off_record(firewall, KNOWN)
    assert asked.guests([LAN]) == {"10.77.0.3": LOST}
    asked.refuse(["10.77.0.4", "10.77.0.5", None], [LAN])
    with pytest.raises(Conflict, match=r"has the address 10\.77\.0\.3") as refused:
        asked.refuse([None, "10.77.0.4", "10.77.0.3"], [LAN])
    assert LOST in refused.value.message
    assert refused.value.hint is not None
    assert "hvtx gc --apply --unrecorded" in refused.value.hint
    assert firewall.asked == 1
