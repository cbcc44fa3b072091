"""The elements of a row as bytes alone: the number of the set, key and data. Pure.

What :func:`hvtx.rulesets.nftables_elements.unplaced` says, in the form in which a plan compares
some hundred thousand of them with what the kernel has. Rows of the kinds that each VM has are put
together here; the test of this module holds them to what that module says.
"""

from __future__ import annotations

from hvtx.model.address import family_of, is_ipv6
from hvtx.model.firewall import FirewallSpec, addresses_in
from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_elements import PROTOCOLS, unplaced
from hvtx.rulesets.packing import link_local, packed, packed_mac

_NUMBERS = {
    (family, name): n.to_bytes(2, "big")
    for n, (family, name) in enumerate(
        (family, name) for family, skeleton in SKELETONS.items() for name in skeleton.sets
    )
}
_UNKNOWN = b"\xff\xff"


def number_of(family: str, name: str) -> bytes:
    """What a set is called here, two bytes; the same for all that are not of the layout."""
    return _NUMBERS.get((family, name), _UNKNOWN)


def numbered(spec: FirewallSpec) -> list[bytes]:
    """The elements that stand for a row; raises what ``unplaced`` raises."""
    what = spec["what"]
    if what == "port":
        return _port(spec)
    if what == "masquerade" and not spec.get("source"):
        address = spec["address"]
        return [_MASQ[family_of(address)] + packed(address)]
    if what == "publish" and not spec.get("host_ip"):
        return _publish(spec)
    return [number_of(p.family, p.set) + p.key + p.data for p in unplaced(spec)]


def _of(family: str, *names: str) -> tuple[bytes, ...]:
    return tuple(number_of(family, name) for name in names)


_PORTS, _MACS, _LLADDRS, _OWN6, _LINKS6, _NEW6, _APART, _GATEWAYS6, _ONLY4 = _of(
    "bridge", "ports", "macs", "lladdrs", "own6", "links6", "new6", "apart", "gateways6", "only4"
)
_OWN = {4: number_of("bridge", "own4"), 6: _OWN6}
_GUESTS = {family: number_of("inet", f"guests{family}") for family in (4, 6)}
_FLOWS = {family: number_of("inet", f"flows{family}") for family in (4, 6)}
_MASQ = {family: number_of("inet", f"masq{family}") for family in (4, 6)}
_ANY = {family: number_of("inet", f"dnat{family}_any") for family in (4, 6)}
_MOST = 15  # characters of a device's name


def _name(name: str) -> bytes | None:
    raw = name.encode()
    return raw.ljust(16, b"\0") if 0 < len(raw) <= _MOST else None


def _port(spec: FirewallSpec) -> list[bytes]:
    device, forward = _name(spec["device"]), bool(spec.get("forward"))
    bridge = _name(spec["bridge"]) if forward else b""
    if device is None or bridge is None:
        return [
            number_of(p.family, p.set) + p.key for p in unplaced(spec)
        ]  # which says what is wrong
    mac, link = device + packed_mac(spec["mac"]) + b"\0\0", link_local(spec["mac"])
    found = [
        _PORTS + device, _MACS + mac, _LLADDRS + mac, _OWN6 + device + link, _LINKS6 + link,
        _NEW6 + device,
    ]  # fmt: skip
    if spec["isolate"]:
        found.append(_APART + device)
    for address in addresses_in(spec):
        raw, family = packed(address), family_of(address)
        found.append(_OWN[family] + device + raw)
        if forward:
            raw += bridge
            found += (_GUESTS[family] + raw, _FLOWS[family] + raw)
    gateway = spec.get("gateway6")
    if gateway:
        found.append(_GATEWAYS6 + device + packed(gateway))
    elif not any(map(is_ipv6, addresses_in(spec))):
        found.append(_ONLY4 + device)
    return found


def _publish(spec: FirewallSpec) -> list[bytes]:
    service = PROTOCOLS[spec["protocol"]] + spec["host_port"].to_bytes(2, "big") + b"\0\0"
    port = spec["guest_port"].to_bytes(2, "big") + b"\0\0"
    return [_ANY[family_of(a)] + service + packed(a) + port for a in addresses_in(spec)]
