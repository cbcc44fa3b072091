"""What a host is given, to the letter as it was when each file in golden/ was written.

Rows on record hold digests of these rules, and a host keeps the tables of the version that made
them: a change here is a change of every running host, and wants a version of the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from hvtx.model.resource import Resource
from hvtx.rulesets.bridge_filter import bridge_program
from hvtx.rulesets.iptables_rules import made_chains, rules_of
from hvtx.rulesets.nftables_base import layout, table_text
from hvtx.rulesets.nftables_elements import pieces
from hvtx.rulesets.nftables_layout import FAMILIES
from hvtx.rulesets.port_filter import port_program

_ID, _MARK = "0123456789ab", "hvtx:1:0123456789ab:7:42"
_GOLDEN = Path(__file__).parent / "golden"
_MAC = "02:00:00:00:00:05"
_ADDRESSES: tuple[dict[str, str | None], ...] = (
    {"ipv4": "10.77.0.5", "ipv6": "fd77::5"},
    {"ipv4": "10.77.0.5", "ipv6": None},
    {"ipv4": None, "ipv6": "fd77::5"},
)


def _specs() -> Iterator[dict[str, Any]]:
    """Specifications of firewall rows, of each kind and with each of its choices."""
    for isolate, nat, subnets in product(
        (False, True), (False, True), (["10.77.0.0/24"], ["10.77.0.0/24", "fd77::/64"])
    ):
        network = {"what": "network", "bridge": "hvbr0", "subnets": subnets}
        whole = network | {"nat": nat, "isolate": isolate, "gateway6": "fe80::1", "flows": 4096}
        yield whole
        if not isolate and len(subnets) > 1:
            yield whole | {"uplink": "wg0"}
    for both, isolate, forward in product(_ADDRESSES, (False, True), (False, True)):
        port = {"what": "port", "device": "hv0", "mac": _MAC, "bridge": "hvbr0", **both}
        yield port | {"gateway6": "fe80::1", "isolate": isolate, "forward": forward}
        if both["ipv6"] is None:
            yield port | {"gateway6": None, "isolate": isolate, "forward": forward}
    for both in _ADDRESSES:
        yield {"what": "forward", "bridge": "hvbr0", **both}
    for address in ("10.77.0.5", "fd77::5"):
        yield {"what": "masquerade", "address": address, "bridge": "hvbr0"}
    for both, host, protocol in product(
        _ADDRESSES, (None, "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1"), ("tcp", "udp")
    ):
        ports = {"protocol": protocol, "host_ip": host, "host_port": 8080, "guest_port": 80}
        yield {"what": "publish", "bridge": "hvbr0", **both, **ports}


def _policies() -> Iterator[dict[str, Any]]:
    """Specifications of egress policies."""
    rules = [
        ["deny", "10.0.0.0/8", None, None, None],
        ["allow", "192.0.2.1/32", 443, 443, None],
        ["allow", "2001:db8::/32", 8000, 8010, "udp"],
        ["allow", "example.org", 443, 443, None],
    ]
    for whose, alone in product(({}, {"mac": _MAC}), (False, True)):
        base = {"what": "egress", "bridge": "hvbr0", "alone": alone, **whose}
        if whose:
            yield base
            yield base | {"egress": None, "rules": rules}
        for mode, listed in product(("open", "internet", "none"), ([], rules)):
            yield base | {"egress": mode, "rules": listed}


def _shown(spec: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in spec.items())


def _elements() -> Iterator[str]:
    for spec in (*_specs(), *_policies()):
        yield f"# {_shown(spec)}"
        for piece in pieces(_ID, spec):
            where = f"{piece.family} {piece.table} {piece.set}"
            data = f": {piece.data.hex()}" if piece.data else ""
            more = f" over {piece.flows}" if piece.flows else ""
            yield f"{where} {{ {piece.key.hex()}{more}{data} }} verdict={piece.verdict}"


def _rules() -> Iterator[str]:
    for table in ("filter", "mangle", "nat", "raw"):
        yield f"# {table}: {' '.join(made_chains(_ID, table))}"
    passes = [{"what": "pass", "family": n, "uplinks": ["eth0", "eth1"]} for n in (4, 6)]
    for spec in ({"what": "base"}, *passes, *_specs()):
        if spec["what"] == "port":
            continue
        yield f"# {_shown(spec)}"
        row = Resource(1, "filter", "k", "committed", _MARK, spec, {}, 1, 1, None, None)
        for rule in rules_of(_ID, row):
            yield f"{rule.place} {'-I' if rule.first else '-A'} {rule.text}"


def _programs() -> Iterator[str]:
    apart = {"bridge": "02:aa:bb:cc:dd:ee", "addresses": ["10.77.0.1/24", "fd77::1/64"]}
    for both, gateway, kept in product(_ADDRESSES, (None, "fe80::1"), (None, apart)):
        guard = {"mac": _MAC, **both, "gateway6": gateway, "apart": kept}
        yield f"# {_shown(guard)}"
        yield _told(port_program(guard))
    for gateways in ((), ("10.77.0.1",), ("10.77.0.1", "fd77::1", "fe80::1")):
        yield f"# bridge {' '.join(gateways)}"
        yield _told(bridge_program(gateways))


def _told(program: bytes) -> str:
    return f"{len(program) // 8} steps, {sha256(program).hexdigest()}"


def _base(family: str) -> Iterator[str]:
    yield f"# layout {layout(family)}"
    yield from table_text(family, _ID, _MARK).splitlines()


GOLDEN = {
    **{f"{family}.nft": lambda family=family: _base(family) for family in FAMILIES},
    "elements.txt": _elements,
    "iptables.txt": _rules,
    "programs.txt": _programs,
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_what_a_host_is_given_is_as_it_was(name: str) -> None:
    made = "".join(f"{line}\n" for line in GOLDEN[name]())
    assert made == (_GOLDEN / name).read_text()
