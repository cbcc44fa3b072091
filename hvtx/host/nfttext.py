"""Elements of hvtx's nftables tables as people read them. Pure."""

from __future__ import annotations

import _socket as socket
from collections.abc import Callable, Collection, Iterator, Mapping

from hvtx.host.netlink import attribute_map
from hvtx.host.nfnumbers import ACCEPT, GOTO

_PROTOCOL_NAMES = {6: "tcp", 17: "udp"}


# ---------------------------------------------------------------- elements to text


def _name(raw: bytes) -> str:
    """A device's or chain's name; an empty one is shown in quotes, as nft(8) shows it."""
    return raw.rstrip(b"\0").decode(errors="replace") or '""'


_ntop, _V4, _V6 = socket.inet_ntop, socket.AF_INET, socket.AF_INET6


def _service(raw: bytes) -> str:
    return f"{_PROTOCOL_NAMES.get(raw[0], raw[0])} {raw[4] << 8 | raw[5]}"


def _to4(data: bytes) -> str:
    return f"{_ntop(_V4, data[:4])}:{data[4] << 8 | data[5]}"


def _to6(data: bytes) -> str:
    return f"[{_ntop(_V6, data[:16])}]:{data[16] << 8 | data[17]}"


def _verdict(data: bytes) -> str:
    fields = attribute_map(data)
    code = int.from_bytes(fields.get(1, b""), "big", signed=True)
    chain = _name(fields[2]) if 2 in fields else ""
    return (
        f"{'accept' if code == ACCEPT else code} {chain}".strip()
        if code != GOTO
        else (f"goto {chain}")
    )


def _mac(raw: bytes) -> str:
    return raw[:6].hex(":")


def _span(first: str, last: str) -> str:
    return first if first == last else f"{first}-{last}"


def _to(key: bytes, at: int, family: int, *, ports: bool) -> str:
    """Where a rule of an egress policy leads, behind its owner, which is ``at`` bytes long."""
    kind, size, half = (_V4, 4, len(key) // 2) if family == 4 else (_V6, 16, len(key) // 2)
    first, last = key[at:half], key[half + at :]
    words = _span(_ntop(kind, first[:size]), _ntop(kind, last[:size]))
    if not ports:
        return words
    low, high = first[size:], last[size:]
    name = _PROTOCOL_NAMES.get(low[0], low[0])
    return f"{words} {name} {_span(str(low[4] << 8 | low[5]), str(high[4] << 8 | high[5]))}"


def _egress() -> Iterator[tuple[tuple[str, str], Callable[[bytes, bytes], str]]]:
    for action in ("deny", "allow"):
        for family in (4, 6):
            for tail in ("", "_ports"):
                more = {"family": family, "ports": bool(tail)}
                name = f"{action}{family}{tail}"
                yield (
                    ("inet", f"vm_{name}"),
                    lambda k, _, m=more: (  # type: ignore[misc]
                        f"{_name(k[:16])} {_mac(k[16:])} {_to(k, 24, **m)}"
                    ),
                )
                yield (
                    ("inet", f"network_{name}"),
                    lambda k, _, m=more: f"{_name(k[:16])} {_to(k, 16, **m)}",  # type: ignore[misc]
                )


_RENDER: Mapping[tuple[str, str], Callable[[bytes, bytes], str]] = {
    ("inet", "bridges"): lambda k, _: _name(k),
    ("inet", "nat_bridges"): lambda k, _: _name(k),
    ("inet", "within"): lambda k, d: f"{_name(k[:16])} {_name(k[16:])} -> {_verdict(d)}",
    ("inet", "guests4"): lambda k, _: f"{_ntop(_V4, k[:4])} {_name(k[4:])}",
    ("inet", "guests6"): lambda k, _: f"{_ntop(_V6, k[:16])} {_name(k[16:])}",
    ("inet", "flows4"): lambda k, _: f"{_ntop(_V4, k[:4])} {_name(k[4:])}",
    ("inet", "flows6"): lambda k, _: f"{_ntop(_V6, k[:16])} {_name(k[16:])}",
    ("inet", "flows_link"): lambda k, _: _name(k),
    ("inet", "masq4"): lambda k, _: _ntop(_V4, k),
    ("inet", "masq6"): lambda k, _: _ntop(_V6, k),
    ("inet", "bound"): lambda k, _: _name(k),
    ("inet", "uplinks"): lambda k, _: f"{_name(k[:16])} {_name(k[16:])}",
    ("inet", "snat4"): lambda k, d: f"{_ntop(_V4, k)} -> {_ntop(_V4, d)}",
    ("inet", "snat6"): lambda k, d: f"{_ntop(_V6, k)} -> {_ntop(_V6, d)}",
    ("inet", "dnat4_any"): lambda k, d: f"{_service(k)} -> {_to4(d)}",
    ("inet", "dnat6_any"): lambda k, d: f"{_service(k)} -> {_to6(d)}",
    ("inet", "dnat4_host"): lambda k, d: f"{_ntop(_V4, k[:4])} {_service(k[4:])} -> {_to4(d)}",
    ("inet", "dnat6_host"): lambda k, d: f"[{_ntop(_V6, k[:16])}] {_service(k[16:])} -> {_to6(d)}",
    ("inet", "refused_of"): lambda k, _: f"{_name(k[:16])} {_mac(k[16:])}",
    ("inet", "vm_named"): lambda k, _: f"{_name(k[:16])} {_mac(k[16:])}",
    ("inet", "network_named"): lambda k, _: _name(k),
    ("inet", "own_network"): lambda k, _: f"{_name(k[:16])} {_mac(k[16:])} {_name(k[24:])}",
    ("inet", "vm_policies"): lambda k, d: f"{_name(k[:16])} {_mac(k[16:])} -> {_verdict(d)}",
    ("inet", "vm_input"): lambda k, d: f"{_name(k[:16])} {_mac(k[16:])} -> {_verdict(d)}",
    ("inet", "network_policies"): lambda k, d: f"{_name(k)} -> {_verdict(d)}",
    ("inet", "network_input"): lambda k, d: f"{_name(k)} -> {_verdict(d)}",
    **dict(_egress()),
    ("bridge", "ports"): lambda k, _: _name(k),
    ("bridge", "apart"): lambda k, _: _name(k),
    ("bridge", "only4"): lambda k, _: _name(k),
    ("bridge", "macs"): lambda k, _: f"{_name(k[:16])} {k[16:22].hex(':')}",
    ("bridge", "lladdrs"): lambda k, _: f"{_name(k[:16])} {k[16:22].hex(':')}",
    ("bridge", "own4"): lambda k, _: f"{_name(k[:16])} {_ntop(_V4, k[16:])}",
    ("bridge", "own6"): lambda k, _: f"{_name(k[:16])} {_ntop(_V6, k[16:])}",
    ("bridge", "links6"): lambda k, _: _ntop(_V6, k),
    ("bridge", "new6"): lambda k, _: _name(k),
    ("bridge", "gateways6"): lambda k, _: f"{_name(k[:16])} {_ntop(_V6, k[16:])}",
}


CATCH_ALL = "*"  # the element without a key, which only others put into our sets


def _hex(key: bytes, data: bytes) -> str:
    words = key.hex() or CATCH_ALL
    return f"{words} -> {data.hex()}" if data else words


def renderer(family: str, name: str) -> Callable[[bytes, bytes], str]:
    """How elements with a key are written in a set of our layout; hexadecimal for other sets."""
    return _RENDER.get((family, name), _hex)


def rendered(
    family: str, name: str, elements: Collection[tuple[bytes, bytes, object]]
) -> list[str]:
    """The elements of a set as people read them; hexadecimal if the set is foreign.

    Each is a key (empty: the catch-all element), data, and whatever the caller knows of it.
    """
    write = renderer(family, name)
    try:
        return [write(key, data) if key else _hex(key, data) for key, data, _ in elements]
    except (ValueError, IndexError, OSError):  # of a foreign set with a name of our layout
        return [render(family, name, key, data) for key, data, _ in elements]


def render(family: str, name: str, key: bytes, data: bytes) -> str:
    """One element as people read it: see :func:`rendered`."""
    write = renderer(family, name) if key else _hex
    try:
        return write(key, data)
    except (ValueError, IndexError, OSError):
        return _hex(key, data)
