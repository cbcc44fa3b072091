"""The elements of hvtx's nftables tables that stand for a row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from sys import byteorder

from hvtx.errors import UsageError
from hvtx.model.address import family_of, is_ipv6, is_of
from hvtx.model.firewall import FirewallSpec, addresses_in
from hvtx.model.hook import SetElement
from hvtx.model.policy import EgressRule, names_in
from hvtx.model.resource import FLOWS_EACH
from hvtx.rulesets.nftables_layout import table_name
from hvtx.rulesets.packing import link_local, packed, packed_mac

# Verdicts as nf_tables has them: NFTA_VERDICT_CODE, and of a goto NFTA_VERDICT_CHAIN.
_ACCEPT = bytes.fromhex("0800010000000001")
_GOTO = bytes.fromhex("08000100fffffffc")


def _goto(chain: str) -> bytes:
    """The verdict ``goto``: its code, then an attribute with the chain's name."""
    name = chain.encode() + b"\0"
    body = (len(name) + 4).to_bytes(2, byteorder) + b"\x02\0" + name
    return _GOTO + body.ljust((len(body) + 3) & ~3, b"\0")


_TO_ISOLATED = _goto("isolated")


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


PROTOCOLS = {"tcp": b"\x06\0\0\0", "udp": b"\x11\0\0\0"}
_ANY = {"0.0.0.0": 4, "::": 6}  # noqa: S104  not bound to: a published port's host address


def pieces(installation: str, spec: FirewallSpec) -> list[SetElement]:
    """The elements that stand for a row; empty for the base row.

    Raises UsageError for a device name that is too long, KeyError for a missing field.
    """
    return _COMPILE[spec["what"]](spec, table_name(installation))


def unplaced(spec: FirewallSpec) -> list[SetElement]:
    """The same with an empty table: what is enough to tell them from others."""
    return _COMPILE[spec["what"]](spec, "")


def _network(spec: FirewallSpec, table: str) -> list[SetElement]:
    bridge = _ifname(spec["bridge"])
    within = _TO_ISOLATED if spec["isolate"] else _ACCEPT
    found = [
        SetElement("inet", table, "bridges", bridge),
        SetElement("inet", table, "within", bridge + bridge, within, verdict=True),
        SetElement("inet", table, "flows_link", bridge, flows=spec.get("flows", FLOWS_EACH)),
    ]
    if spec["nat"]:
        found.append(SetElement("inet", table, "nat_bridges", bridge))
    if spec.get("uplink"):
        found.append(SetElement("inet", table, "bound", bridge))
        found += [
            SetElement("inet", table, "uplinks", bridge + to)
            for to in (bridge, _ifname(spec["uplink"]))
        ]
    return found


def _forward(spec: FirewallSpec, table: str) -> list[SetElement]:
    bridge, flows = _ifname(spec["bridge"]), spec.get("flows", FLOWS_EACH)
    found = []
    for address in addresses_in(spec):
        family, key = family_of(address), packed(address) + bridge
        found += [
            SetElement("inet", table, f"guests{family}", key),
            SetElement("inet", table, f"flows{family}", key, flows=flows),
        ]
    return found


def _guard(spec: FirewallSpec, table: str) -> list[SetElement]:
    device, link, mac = _ifname(spec["device"]), link_local(spec["mac"]), _mac(spec["mac"])
    found = [
        SetElement("bridge", table, "ports", device),
        SetElement("bridge", table, "macs", device + mac),
        SetElement("bridge", table, "lladdrs", device + mac),
        SetElement("bridge", table, "own6", device + link),
        SetElement("bridge", table, "links6", link),
        SetElement("bridge", table, "new6", device),
    ]
    if spec["isolate"]:
        found.append(SetElement("bridge", table, "apart", device))
    found += [
        SetElement("bridge", table, f"own{family_of(address)}", device + packed(address))
        for address in addresses_in(spec)
    ]
    gateway = spec.get("gateway6")
    if gateway:
        found.append(SetElement("bridge", table, "gateways6", device + packed(gateway)))
    elif not any(map(is_ipv6, addresses_in(spec))):
        found.append(SetElement("bridge", table, "only4", device))
    return found + (_forward(spec, table) if spec.get("forward") else [])


def _masquerade(spec: FirewallSpec, table: str) -> list[SetElement]:
    address, source = spec["address"], spec.get("source")
    if source:
        name = f"snat{family_of(address)}"
        return [SetElement("inet", table, name, packed(address), packed(source))]
    return [SetElement("inet", table, f"masq{family_of(address)}", packed(address))]


def _publish(spec: FirewallSpec, table: str) -> list[SetElement]:
    host = spec.get("host_ip")
    service = PROTOCOLS[spec["protocol"]] + _port(spec["host_port"])
    found = []
    for guest in addresses_in(spec):
        family = family_of(guest)
        data = packed(guest) + _port(spec["guest_port"])
        if not host or _ANY.get(host) == family:
            found.append(SetElement("inet", table, f"dnat{family}_any", service, data))
        elif host not in _ANY and is_of(host, family) and host != "::1":
            key = packed(host) + service
            found.append(SetElement("inet", table, f"dnat{family}_host", key, data))
    return found


def _egress(spec: FirewallSpec, table: str) -> list[SetElement]:
    """A policy's element in the map of who has one, its rules, and where refusals are counted."""
    bridge, mac = _ifname(spec["bridge"]), spec.get("mac")
    owner, key = ("vm", bridge + _mac(mac)) if mac else ("network", bridge)
    found = []
    if mac:
        found.append(SetElement("inet", table, "refused_of", key))
    if spec["alone"] and mac:
        found.append(SetElement("inet", table, "own_network", key + bridge))
    elif spec["alone"]:
        found.append(SetElement("inet", table, "within", bridge + bridge, _ACCEPT, verdict=True))
    if "egress" not in spec:
        return found
    for name, chain in _led_to(owner, spec):
        found.append(SetElement("inet", table, f"{owner}_{name}", key, _goto(chain), verdict=True))
    rules = [EgressRule(*rule) for rule in spec.get("rules", ())]  # type: ignore[arg-type]
    if names_in(rules):
        found.append(SetElement("inet", table, f"{owner}_named", key))
    return found + list(_egress_rules(owner, key, rules, table))


def _led_to(owner: str, spec: FirewallSpec) -> Iterator[tuple[str, str]]:
    """The chains of a policy, by the end of the name of the map that leads there."""
    mode, rules = spec.get("egress"), bool(spec.get("rules"))
    limited = mode in ("internet", "none")
    if mode is None:
        yield "policies", f"{owner}_more"
        yield "input", f"{owner}_more_input"
        return
    yield "policies", f"{owner}_{mode}" if rules else mode
    if limited and not rules:
        yield "input", "limited"
    elif rules or owner == "vm":  # that of a VM goes before its network's
        yield "input", f"{owner}_{'limited' if limited else 'open'}_input"


def _egress_rules(
    owner: str, key: bytes, rules: Sequence[EgressRule], table: str
) -> Iterator[SetElement]:
    from hvtx.rulesets.egress_boxes import boxes

    for action in ("deny", "allow") if rules else ():
        for family, size in ((4, 4), (6, 16)):
            for box in boxes(rules, family, action):
                first = key + box.first.to_bytes(size, "big")
                last = key + box.last.to_bytes(size, "big")
                name = f"{owner}_{action}{family}"
                if box.ports is not None and box.protocol is not None:
                    name = f"{name}_ports"
                    first += PROTOCOLS[box.protocol] + _port(box.ports[0])
                    last += PROTOCOLS[box.protocol] + _port(box.ports[1])
                yield SetElement("inet", table, name, first + last, interval=True)


_COMPILE: Mapping[str, Callable[[FirewallSpec, str], list[SetElement]]] = {
    "base": lambda *_: [],
    "passage": lambda *_: [],  # rules in the tables of others
    "network": _network,
    "port": _guard,
    "forward": _forward,
    "masquerade": _masquerade,
    "publish": _publish,
    "egress": _egress,
}
