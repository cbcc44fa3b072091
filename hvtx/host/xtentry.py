"""Entries of legacy iptables tables, built from the words of ``iptables-save``. All pure.

A rule is one ``struct ipt_entry`` (``ip6t_entry``): addresses, interfaces and protocol, then
matches, then a target. The matches and targets that this project's rules use are few, and what the
kernel takes of them is fixed for good (a new shape gets a new revision), so they are built here,
the same for every version of libxtables, whose parser is a private matter of iptables.

Families are 4 and 6. Sources: include/uapi/linux/netfilter/x_tables.h, xt_addrtype.h, xt_comment.h,
xt_connlimit.h, xt_conntrack.h, xt_mark.h, xt_tcpudp.h, nf_nat.h, nf_conntrack_common.h;
netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h. Each revision named here is in every
kernel since Linux 4.18.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

from hvtx.model.typed import NamedTuple

OFFSETS = struct.Struct("=HH")  # target_offset and next_offset
TARGET = 32  # struct xt_entry_target: size u16, name char[29], revision u8; xt_entry_match too
_HEADER = struct.Struct("=H29sB")
_IP4 = struct.Struct("=4s4s4s4s16s16s16s16sHBB")  # struct ipt_ip
_IP6 = struct.Struct("=16s16s16s16s16s16s16s16sHBBBxxx")  # struct ip6t_ip6
_F_PROTO = 1  # of ip6t_ip6.flags: there is a protocol
_VIA_IN, _VIA_OUT, _SRCIP, _DSTIP, _PROTO = 0x01, 0x02, 0x08, 0x10, 0x40  # invflags
_PROTOCOLS = {
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "icmp": socket.IPPROTO_ICMP,
    "ipv6-icmp": socket.IPPROTO_ICMPV6,
}
_IFNAMSIZ = 16
_COMMENT_LENGTH = 256
_BARE = frozenset({"--connlimit-saddr"})  # options without a value


class Layout(NamedTuple):
    """Where things stand in struct ipt_entry and struct ip6t_entry."""

    domain: int
    level: int
    match: int  # length of the address part
    offsets: int  # of target_offset and next_offset
    size: int


LAYOUTS = {
    4: Layout(socket.AF_INET, 0, 84, 88, 112),
    6: Layout(socket.AF_INET6, 41, 136, 140, 168),
}


def build(family: int, text: str, comment: str) -> bytes:
    """The entry for a rule in the words of ``iptables-save``, with ``comment`` as last match.

    Knows the words that this project's rules use; ValueError for others.
    """
    layout, words = LAYOUTS[family], _Words(text)
    addresses = _Addresses(layout.domain)
    matches, target = b"", b""
    for word in words:
        inverted = word == "!"
        if inverted:
            word = words.value()  # noqa: PLW2901 - the word that is inverted
        if word in ("-s", "-d", "-i", "-o", "-p"):
            addresses.take(word, words.value(), inverted=inverted)
        elif word == "-m" and not inverted:
            name = words.value()
            matches += _of_several(layout, name, words) or _match(name, words)
        elif word == "-j" and not inverted:
            target = _target(layout, words.value(), list(words))
        else:
            raise words.unknown(word)
    matches += _part("comment", 0, _comment(comment))
    at = layout.size + len(matches)
    head = addresses.packed().ljust(layout.offsets, b"\0") + OFFSETS.pack(at, at + len(target))
    if not target:
        raise ValueError(f"cannot build a rule without a target: {text!r}")
    return head.ljust(layout.size, b"\0") + matches + target


def with_comment(family: int, entry: bytes, comment: str) -> bytes:
    """An entry with one more match, ``comment``, as its last."""
    layout = LAYOUTS[family]
    match = _part("comment", 0, _comment(comment))
    target, following = OFFSETS.unpack_from(entry, layout.offsets)
    offsets = OFFSETS.pack(target + len(match), following + len(match))
    whole = entry[:target] + match + entry[target:]
    return whole[: layout.offsets] + offsets + whole[layout.offsets + 4 :]


def _part(name: str, revision: int, data: bytes) -> bytes:
    """A match or a target: both have the same header, and end on a multiple of 8 (XT_ALIGN)."""
    data += bytes(-len(data) % 8)
    return _HEADER.pack(TARGET + len(data), name.encode(), revision) + data


def _comment(comment: str) -> bytes:
    """The match comment: struct xt_comment_info."""
    raw = comment.encode()
    if len(raw) >= _COMMENT_LENGTH:
        raise ValueError(f"cannot build a comment of {len(raw)} bytes")
    return raw.ljust(_COMMENT_LENGTH, b"\0")


def _packed(domain: int, host: str) -> bytes:
    try:
        return socket.inet_pton(domain, host)
    except OSError as problem:
        raise ValueError(f"cannot build a rule for {host!r}") from problem


class _Words:
    """The words of a rule, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = text.split(" ")[::-1]

    def __iter__(self) -> Iterator[str]:
        while self._left:
            yield self._left.pop()

    def value(self) -> str:
        """The next word, which must be there."""
        if not self._left:
            raise ValueError(f"cannot build a rule that breaks off: {self._text!r}")
        return self._left.pop()

    def options(self, *known: str) -> Iterator[tuple[str, str, bool]]:
        """The options of the match just named, with their values and whether they are inverted."""
        while self._left:
            inverted = self._left[-1] == "!"
            name = self._left[-2] if inverted and len(self._left) > 1 else self._left[-1]
            if not name.startswith("--") or name in _BARE:
                return
            if name not in known:
                raise self.unknown(name)
            del self._left[-2 if inverted else -1 :]
            yield name, self.value(), inverted

    def flags(self, *known: str) -> Iterator[str]:
        """Options without a value, as far as the next words are such."""
        while self._left and self._left[-1] in known:
            yield self._left.pop()

    def unknown(self, word: str) -> ValueError:
        """The error for a word that is not among ours."""
        return ValueError(f"cannot build a rule with {word!r}: {self._text!r}")


class _Addresses:
    """The first part of an entry: struct ipt_ip or struct ip6t_ip6."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._length = 4 if domain == socket.AF_INET else 16
        self._hosts = {"-s": (bytes(self._length),) * 2, "-d": (bytes(self._length),) * 2}
        self._devices = {"-i": (b"", b""), "-o": (b"", b"")}
        self._protocol = self._inverted = 0

    def take(self, word: str, value: str, *, inverted: bool) -> None:
        """One of ``-s -d -i -o -p`` with its value."""
        if word in self._hosts:
            self._hosts[word] = self._network(value)
        elif word in self._devices:
            name = value.encode()
            if not 0 < len(name) < _IFNAMSIZ or name.endswith(b"+"):
                raise ValueError(f"cannot build a rule for the device {value!r}")
            # The name with the zero that ends it, so that no longer name matches.
            self._devices[word] = (name, b"\xff" * (len(name) + 1))
        elif value in _PROTOCOLS:
            self._protocol = _PROTOCOLS[value]
        else:
            raise ValueError(f"cannot build a rule with the protocol {value!r}")
        if inverted:
            bits = {"-s": _SRCIP, "-d": _DSTIP, "-i": _VIA_IN, "-o": _VIA_OUT, "-p": _PROTO}
            self._inverted |= bits[word]

    def _network(self, value: str) -> tuple[bytes, bytes]:
        """Address and mask of ``ADDRESS[/LENGTH]``."""
        host, _, length = value.partition("/")
        bits = self._length * 8
        ones = int(length) if length else bits
        if not 0 <= ones <= bits:
            raise ValueError(f"cannot build a rule for {value!r}")
        mask = ((1 << bits) - (1 << bits - ones)).to_bytes(self._length, "big")
        address = _packed(self._domain, host)
        return bytes(a & b for a, b in zip(address, mask, strict=True)), mask

    def packed(self) -> bytes:
        """The structure's bytes."""
        source, destination = self._hosts["-s"], self._hosts["-d"]
        entering, leaving = self._devices["-i"], self._devices["-o"]
        hosts = (source[0], destination[0], source[1], destination[1])
        devices = (entering[0], leaving[0], entering[1], leaving[1])
        if self._length == 4:
            return _IP4.pack(*hosts, *devices, self._protocol, 0, self._inverted)
        flags = _F_PROTO if self._protocol else 0
        return _IP6.pack(*hosts, *devices, self._protocol, 0, flags, self._inverted)


# Matches ----------------------------------------------------------------------------------------


def _of_several(layout: Layout, name: str, words: _Words) -> bytes:
    """A match of several options; empty for others."""
    if name == "connlimit":
        return _connlimit(layout, words)
    if name == "addrtype":
        found = list(words.options("--src-type", "--dst-type"))
        value, inverted = _only(name, iter(found))
        return _part(name, 1, _addrtype(value, inverted, source=found[0][0] == "--src-type"))
    return _conntrack_of(words) if name == "conntrack" else b""


def _match(name: str, words: _Words) -> bytes:
    if name not in _MATCHES:
        raise words.unknown(name)
    revision, known, pack = _MATCHES[name]
    return _part(name, revision, pack(*_only(name, words.options(known))))


def comment_data(comment: str) -> bytes:
    """What the match comment holds, as nf_tables takes it, too. Raises ValueError."""
    return _comment(comment)


def match_data(name: str, option: str, value: str) -> tuple[int, bytes]:
    """The revision of a match, and what it holds, as nf_tables takes it, too. Raises ValueError."""
    revision, known, pack = _MATCHES.get(name, (0, "", _icmp))
    if option != known:
        raise ValueError(f"cannot build a match {name} with {option!r}")
    data = pack(value, False)
    return revision, data + bytes(-len(data) % 8)


def states_of(data: bytes) -> str | None:
    """What a match conntrack that asks for states only was built of; None for another (pure)."""
    for states in _ASKED:
        if data.ljust(168, b"\0") == _conntrack(states, False).ljust(168, b"\0"):
            return states
    return None


_ASKED = ("RELATED,ESTABLISHED", "RELATED,ESTABLISHED,DNAT")


def _only(name: str, options: Iterator[tuple[str, str, bool]]) -> tuple[str, bool]:
    found = [(value, inverted) for _, value, inverted in options]
    if len(found) != 1:
        raise ValueError(f"cannot build a match {name} with {len(found)} options")
    return found[0]


_LOCAL, _INVERT_SOURCE, _INVERT_DEST = 1 << 2, 1, 2


def _addrtype(value: str, inverted: bool, *, source: bool = False) -> bytes:
    """The match addrtype: struct xt_addrtype_info_v1."""
    if value != "LOCAL":
        raise ValueError(f"cannot build a match of the address type {value!r}")
    if source:
        return struct.pack("=HHI", _LOCAL, 0, _INVERT_SOURCE if inverted else 0)
    return struct.pack("=HHI", 0, _LOCAL, _INVERT_DEST if inverted else 0)


# enum ip_conntrack_info, as bits: XT_CONNTRACK_STATE_BIT and the three after it
_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "SNAT": 64, "DNAT": 128}
_STATE_FLAG = 1
_BEFORE_FLAGS = 128 + 8 + 10  # eight addresses, two times, the protocol and four ports


_DIRECTION_FLAG = 1 << 12


def _conntrack_of(words: _Words) -> bytes:
    """The match conntrack: struct xt_conntrack_mtinfo3; of it the states and the direction."""
    found = {n: (v, inverted) for n, v, inverted in words.options("--ctstate", "--ctdir")}
    state, direction = found.get("--ctstate"), found.get("--ctdir")
    if state is None or direction not in (None, ("REPLY", False)):
        raise ValueError("cannot build such a match conntrack")
    return _part("conntrack", 3, _conntrack(*state, _DIRECTION_FLAG if direction else 0))


def _conntrack(value: str, inverted: bool, direction: int = 0) -> bytes:
    mask = 0
    for state in value.split(","):
        if state not in _STATES:
            raise ValueError(f"cannot build a match of the state {state!r}")
        mask |= _STATES[state]
    # the reply's direction is the other one, inverted
    inverse = (_STATE_FLAG if inverted else 0) | direction
    flags = struct.pack("=HHHH", _STATE_FLAG | direction, inverse, mask, 0)
    return (bytes(_BEFORE_FLAGS) + flags).ljust(164, b"\0")


_ANY_PORT = (0, 0xFFFF)
_INVERT_DPORT = 2


def _ports(value: str, inverted: bool) -> tuple[int, int, int, int, int]:
    number = int(value)
    if not 0 <= number <= _ANY_PORT[1]:
        raise ValueError(f"cannot build a match of the port {value!r}")
    return (*_ANY_PORT, number, number, _INVERT_DPORT if inverted else 0)


def _tcp(value: str, inverted: bool) -> bytes:
    """The match tcp: struct xt_tcp, of which only the ports are used."""
    *ports, invert = _ports(value, inverted)
    return struct.pack("=HHHHBBBB", *ports, 0, 0, 0, invert)


def _udp(value: str, inverted: bool) -> bytes:
    """The match udp: struct xt_udp."""
    return struct.pack("=HHHHBx", *_ports(value, inverted))


def _icmp(value: str, inverted: bool) -> bytes:
    """The matches icmp and icmp6: struct ipt_icmp, struct ip6t_icmp; every code of a type."""
    number = int(value)
    if not 0 <= number <= 0xFF:
        raise ValueError(f"cannot build a match of the ICMP type {value!r}")
    return struct.pack("=BBBB", number, 0, 0xFF, int(inverted))


_CONNLIMIT = struct.Struct("=16sIIQ")  # struct xt_connlimit_info, revision 1


def _connlimit(layout: Layout, words: _Words) -> bytes:
    """The match connlimit: so many more than that of one source address, or of one prefix."""
    known = ("--connlimit-above", "--connlimit-mask")
    found = {name: (value, inverted) for name, value, inverted in words.options(*known)}
    whole = 32 if layout.domain == socket.AF_INET else 128
    above, _ = found.get("--connlimit-above", ("", False))
    bits, _ = found.get("--connlimit-mask", ("0", False))
    if list(words.flags("--connlimit-saddr")) != ["--connlimit-saddr"] or found != {
        "--connlimit-above": (above, False), "--connlimit-mask": (bits, False)
    } or not 0 < int(bits) <= whole:  # fmt: skip
        raise ValueError("cannot build such a match connlimit")
    mask = ((1 << whole) - (1 << whole - int(bits))).to_bytes(whole // 8, "big").ljust(16, b"\0")
    return _part("connlimit", 1, _CONNLIMIT.pack(mask, int(above), 0, 0))


def _mark(value: str, inverted: bool) -> bytes:
    """The match mark: struct xt_mark_mtinfo1."""
    mark, slash, mask = value.partition("/")
    if not slash:
        raise ValueError(f"cannot build a match of the mark {value!r}")
    return struct.pack("=IIB", int(mark, 16), int(mask, 16), inverted)


# name: revision, the option that it must have, its payload
_MATCHES: dict[str, tuple[int, str, Callable[[str, bool], bytes]]] = {
    "addrtype": (1, "--dst-type", _addrtype),
    "conntrack": (3, "--ctstate", _conntrack),
    "icmp": (0, "--icmp-type", _icmp),
    "icmp6": (0, "--icmpv6-type", _icmp),
    "mark": (1, "--mark", _mark),
    "tcp": (0, "--dport", _tcp),
    "udp": (0, "--dport", _udp),
}


# Targets ----------------------------------------------------------------------------------------

_MAP_IPS, _PROTO_SPECIFIED = 1, 2


def _target(layout: Layout, name: str, options: list[str]) -> bytes:
    """A verdict, a chain, MASQUERADE, DNAT, SNAT or MARK.

    Shapes: struct xt_standard_target with its verdict as a name (libiptc resolves it); MASQUERADE
    and SNAT: struct nf_nat_ipv4_multi_range_compat or, in IPv6, nf_nat_range (of SNAT revision 1);
    DNAT: nf_nat_range2, MARK: xt_mark_tginfo2 (revision 2). iptables-save prints what it prefers.
    """
    if name == "MASQUERADE" and not options:
        four = layout.domain == socket.AF_INET
        return _part(name, 0, struct.pack("=I", 1) + bytes(16) if four else bytes(40))
    if name == "DNAT" and options[:1] == ["--to-destination"] and len(options) == 2:
        host, _, number = options[1].rpartition(":")
        address = _packed(layout.domain, host.strip("[]")).ljust(16, b"\0")
        ports = struct.pack("!HHH", int(number), int(number), 0)
        flags = struct.pack("=I", _MAP_IPS | _PROTO_SPECIFIED)
        return _part(name, 2, flags + address * 2 + ports)
    if name == "SNAT" and options[:1] == ["--to-source"] and len(options) == 2:
        address, flags = _packed(layout.domain, options[1]), struct.pack("=I", _MAP_IPS)
        if layout.domain == socket.AF_INET:
            return _part(name, 0, struct.pack("=I", 1) + flags + address * 2 + bytes(4))
        return _part(name, 1, flags + address * 2 + bytes(4))
    if name == "MARK" and options[:1] == ["--set-xmark"] and len(options) == 2:
        value, _, mask = options[1].partition("/")
        return _part(name, 2, struct.pack("=II", int(value, 16), int(mask, 16)))
    if name in ("DNAT", "MARK") or options:
        raise ValueError(f"cannot build a {name} with {options!r}")
    return _part(name, 0, bytes(8))
