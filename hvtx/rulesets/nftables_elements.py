"""The elements of hvtx's nftables tables that stand for a row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hvtx.errors import UsageError
from hvtx.model.address import family_of, is_of
from hvtx.model.firewall import FirewallSpec, addresses_in
from hvtx.model.hook import SetElement
from hvtx.model.resource import FLOWS_EACH
from hvtx.rulesets.nftables_base import table_name
from hvtx.rulesets.packing import link_local, packed, packed_mac

# Verdicts as nf_tables has them: NFTA_VERDICT_CODE, and of a goto NFTA_VERDICT_CHAIN.
_ACCEPT = bytes.fromhex("0800010000000001")
_TO_ISOLATED = bytes.fromhex("08000100fffffffc") + b"\x0d\0\x02\0isolated\0\0\0\0"


def _ifname(name: str) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 16:
        raise UsageError(
            f"{name!r} cannot be the name of a network device",
            hint="device names have 1 to 15 characters",
        )
    return raw.ljust(16, b"\0")


def _mac(address: str) -> bytes:
    return packed_mac(address) + b"\0\0"  # key fields are padded to 4 bytes


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


_PROTOCOLS = {"tcp": b"\x06\0\0\0", "udp": b"\x11\0\0\0"}
_ANY = {"0.0.0.0": 4, "::": 6}  # noqa: S104  not bound to: a published port's host address


def pieces(installation: str, spec: FirewallSpec) -> list[SetElement]:
    """The elements that stand for a row; empty for the base row.

    Raises UsageError for a device name that is too long, KeyError for a missing field.
    """
    table = table_name(installation)
    return [piece._replace(table=table) for piece in unplaced(spec)]


def unplaced(spec: FirewallSpec) -> list[SetElement]:
    """The same with an empty table: what is enough to tell them from others."""
    return _COMPILE[spec["what"]](spec)


def _network(spec: FirewallSpec) -> list[SetElement]:
    bridge = _ifname(spec["bridge"])
    within = _TO_ISOLATED if spec["isolate"] else _ACCEPT
    found = [
        SetElement("inet", "", "bridges", bridge),
        SetElement("inet", "", "within", bridge + bridge, within, verdict=True),
        SetElement("inet", "", "flows_link", bridge, flows=spec.get("flows", FLOWS_EACH)),
    ]
    if spec["nat"]:
        found.append(SetElement("inet", "", "nat_bridges", bridge))
    return found


def _forward(spec: FirewallSpec) -> list[SetElement]:
    bridge, flows = _ifname(spec["bridge"]), spec.get("flows", FLOWS_EACH)
    return [
        piece
        for address in addresses_in(spec)
        for piece in (
            SetElement("inet", "", f"guests{family_of(address)}", packed(address) + bridge),
            SetElement(
                "inet", "", f"flows{family_of(address)}", packed(address) + bridge, flows=flows
            ),
        )
    ]


def _guard(spec: FirewallSpec) -> list[SetElement]:
    device, link = _ifname(spec["device"]), link_local(spec["mac"])
    found = [
        SetElement("bridge", "", "ports", device),
        SetElement("bridge", "", "macs", device + _mac(spec["mac"])),
        SetElement("bridge", "", "lladdrs", device + _mac(spec["mac"])),
        SetElement("bridge", "", "own6", device + link),
        SetElement("bridge", "", "links6", link),
        SetElement("bridge", "", "new6", device),
    ]
    if spec["isolate"]:
        found.append(SetElement("bridge", "", "apart", device))
    found += [
        SetElement("bridge", "", f"own{family_of(address)}", device + packed(address))
        for address in addresses_in(spec)
    ]
    gateway = spec.get("gateway6")
    if gateway:
        found.append(SetElement("bridge", "", "gateways6", device + packed(gateway)))
    return found + (_forward(spec) if spec.get("forward") else [])


def _masquerade(spec: FirewallSpec) -> list[SetElement]:
    address = spec["address"]
    return [SetElement("inet", "", f"masq{family_of(address)}", packed(address))]


def _publish(spec: FirewallSpec) -> list[SetElement]:
    host = spec.get("host_ip")
    service = _PROTOCOLS[spec["protocol"]] + _port(spec["host_port"])
    found = []
    for guest in addresses_in(spec):
        family = family_of(guest)
        data = packed(guest) + _port(spec["guest_port"])
        if not host or _ANY.get(host) == family:
            found.append(SetElement("inet", "", f"dnat{family}_any", service, data))
        elif host not in _ANY and is_of(host, family) and host != "::1":
            found.append(SetElement("inet", "", f"dnat{family}_host", packed(host) + service, data))
    return found


_COMPILE: Mapping[str, Callable[[FirewallSpec], list[SetElement]]] = {
    "base": lambda _: [],
    "passage": lambda _: [],  # rules in the tables of others
    "network": _network,
    "port": _guard,
    "forward": _forward,
    "masquerade": _masquerade,
    "publish": _publish,
}
