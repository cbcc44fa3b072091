"""What hvtx's two nftables tables look like, and which elements stand for a row. All pure.

``table inet hvtx-I`` translates addresses and filters what is routed, ``table bridge hvtx-I``
holds guests to their own addresses. Chains and rules are static; what belongs to a VM or a network
is an element of a set or map that a rule looks up, so a packet costs the same with one VM or with
thousands. Each rule carries the base row's mark, so that copies of it can be told.

Facts that shaped the rules:

- The bridge of a frame (``meta ibrname``) needs CONFIG_NFT_BRIDGE_META, which not every kernel
  has. A frame to the host is known by ``pkttype host`` instead: br_handle_frame sets it before
  the prerouting hook for the bridge's own MAC address (net/bridge/br_input.c).
- With bridge-nf-call-iptables=1 a frame from guest to host that is translated to a guest in the
  same bridge never becomes a routed packet: it is bridged, and leaves with the sender's MAC as
  source (br_nf_pre_routing_finish, ``bridged_dnat``). So isolation cannot drop unicast frames in
  the forward hook; it drops them in prerouting, before the translation, by their destination.
- The same way a guest reaches its own published port only if its bridge port is in hairpin mode,
  and then the bridge would send its broadcasts back to it (duplicate address detection would fail
  on them): the forward chain drops those.
- Frames to 01:80:c2:00:00:0X skip prerouting and go to the input hook, where the bridge learns
  their source address (br_handle_local_finish): the input chain guards them. Those to …:0e (LLDP)
  and, with STP on, …:00 meet no hook at all: only the bridge's own ``no_linklocal_learn`` helps.
- A VLAN tag is taken off before the bridge sees the frame, so ``meta protocol`` shows what is
  inside; ``ether type`` shows the tag.
- Conntrack is not asked in the bridge family: that would switch on nf_conntrack_bridge.
- What came in by another device than ``lo`` with an address of 127.0.0.0/8 is a martian for the
  routing decision, which comes after the translation: translated, it is none any more. So it is
  never translated (any neighbour could send it otherwise: the uplink's, a container on a bridge).
- A set may have a statement (``ct count``, ``limit``) that each element carries for itself; a
  lookup that finds the element goes on only where the statement matches. So what belongs to a
  guest is counted in its own element, which goes with the guest. ``seen6`` is filled by packets;
  how quickly and how far is held by ``new6``.
- Most systems choose the interface part of fe80:: by themselves, so a guest may have any but those
  that follow from the MAC of another (``links6``) and the gateway's.
- ``typeof … @nh,64,128`` makes sets of IPv6 addresses that can be compared with the target of a
  neighbour advertisement, which nft 1.0.6 has no name for. nft prints everything here in a form
  that it reads back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from hvtx.errors import UsageError
from hvtx.host.netlink import attribute_map
from hvtx.host.nfnetlink import ACCEPT, GOTO, Piece, verdict
from hvtx.model.resource import FLOWS_EACH

FAMILIES = ("inet", "bridge")


class Chain(NamedTuple):
    """A static chain: its hook (empty for one that is jumped to) and its rules, in order."""

    name: str
    hook: str
    rules: tuple[str, ...]


class Skeleton(NamedTuple):
    """The static part of one table: declarations of sets by name, and chains."""

    sets: Mapping[str, str]
    chains: tuple[Chain, ...]


_INET = Skeleton(
    {
        "bridges": "set|type ifname;",
        "nat_bridges": "set|type ifname;",
        "within": "map|type ifname . ifname : verdict;",
        "guests4": "set|type ipv4_addr . ifname;",
        "guests6": "set|type ipv6_addr . ifname;",
        "masq4": "set|type ipv4_addr;",
        "masq6": "set|type ipv6_addr;",
        "flows4": "set|type ipv4_addr . ifname; ct count over 16384;",
        "flows6": "set|type ipv6_addr . ifname; ct count over 16384;",
        "flows_link": "set|type ifname; ct count over 16384;",
        "dnat4_any": "map|type inet_proto . inet_service : ipv4_addr . inet_service;",
        "dnat4_host": "map|type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
        "dnat6_any": "map|type inet_proto . inet_service : ipv6_addr . inet_service;",
        "dnat6_host": "map|type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
    },
    (
        Chain(
            "raw",
            "type filter hook prerouting priority -300; policy accept;",
            # route_localnet on our bridges would let guests in to the host's loopback services
            (
                "iifname @bridges ip daddr 127.0.0.0/8 drop",
                "iifname @bridges ip saddr 127.0.0.0/8 drop",
            ),
        ),
        Chain(
            "dnat4",
            "",
            (
                "dnat ip to ip daddr . meta l4proto . th dport map @dnat4_host",
                "dnat ip to meta l4proto . th dport map @dnat4_any",
            ),
        ),
        Chain(
            "dnat6",
            "",
            (
                "dnat ip6 to ip6 daddr . meta l4proto . th dport map @dnat6_host",
                "dnat ip6 to meta l4proto . th dport map @dnat6_any",
            ),
        ),
        Chain(
            "flows",
            "type filter hook prerouting priority -150; policy accept;",
            # what would be tracked beyond its limit ends before it is entered
            (
                "ct state new ip saddr . iifname @flows4 drop",
                "ct state new ip6 saddr . iifname @flows6 drop",
                "ct state new ip6 saddr fe80::/10 iifname @flows_link drop",
            ),
        ),
        Chain(
            "prerouting",
            "type nat hook prerouting priority -100; policy accept;",
            (
                'iifname != "lo" ip daddr 127.0.0.0/8 return',
                'iifname != "lo" ip saddr 127.0.0.0/8 return',
                "fib daddr type != local return",
                "meta nfproto ipv4 goto dnat4",
                "ip6 daddr != ::1 goto dnat6",
            ),
        ),
        # What br_netfilter translates inside a bridge leaves by the bridge's device while its
        # receiver's MAC address is asked for, and has met no later hook yet; see bridge_program.
        Chain(
            "translated",
            "type filter hook prerouting priority -90; policy accept;",
            ("ct status dnat iifname @bridges meta mark set meta mark | 0x10000000",),
        ),
        Chain(
            "output",
            "type nat hook output priority -100; policy accept;",
            (
                "fib daddr type != local return",
                "meta nfproto ipv4 goto dnat4",
                "ip6 daddr != ::1 goto dnat6",
            ),
        ),
        Chain(
            "postrouting",
            "type nat hook postrouting priority 100; policy accept;",
            # a guest that reached one in its own bridge through a host address must get its
            # answers through the host too; other traffic inside a bridge stays as it is
            (
                "ct status dnat ip saddr . oifname @guests4 masquerade",
                "ct status dnat ip6 saddr . oifname @guests6 masquerade",
                "ip saddr . oifname @guests4 accept",
                "ip6 saddr . oifname @guests6 accept",
                "ip saddr @masq4 masquerade",
                "ip6 saddr @masq6 masquerade",
                "ip saddr 127.0.0.0/8 oifname @bridges masquerade",
            ),
        ),
        Chain(
            "seen",
            "type filter hook postrouting priority 1000; policy accept;",
            # after all of the rules here and nearly all of others'; see bridge_program
            ("oifname @nat_bridges meta mark set meta mark | 0x10000000",),
        ),
        Chain(
            "isolated",
            "",
            (
                "ip saddr . iifname @guests4 drop",
                "ip daddr . oifname @guests4 drop",
                "ip6 saddr . iifname @guests6 drop",
                "ip6 daddr . oifname @guests6 drop",
            ),
        ),
        # The host would ask a bridge for each address of a subnet that a guest sends to through
        # it. What is bridged comes here too (br_netfilter), so others' ports are only slowed down.
        Chain(
            "between",
            "",
            (
                "ip daddr . oifname @guests4 goto inward",
                "ip6 daddr . oifname @guests6 goto inward",
                "limit rate over 20/second burst 50 packets drop",
                "goto inward",
            ),
        ),
        Chain(
            "inward",
            "",
            ("iifname . oifname vmap @within", "oifname @nat_bridges drop"),
        ),
        Chain(
            "forward",
            "type filter hook forward priority 0; policy accept;",
            (
                "ct state established,related accept",
                "ct status dnat accept",
                "iifname @bridges oifname @bridges meta pkttype host goto between",
                "goto inward",
            ),
        ),
    ),
)

_BRIDGE = Skeleton(
    {
        "ports": "set|type ifname;",
        "apart": "set|type ifname;",
        "macs": "set|type ifname . ether_addr;",
        "lladdrs": "set|typeof iifname . @th,208,48;",
        "own4": "set|type ifname . ipv4_addr;",
        "own6": "set|typeof iifname . @nh,64,128;",
        "gateways6": "set|typeof iifname . @nh,64,128;",
        "links6": "set|typeof @nh,64,128;",
        "new6": "set|type ifname; limit rate over 10/minute burst 20 packets;",
        "seen6": "set|typeof iifname . @nh,64,128; size 65535; flags dynamic,timeout; timeout 1h;",
    },
    (
        Chain(
            "guard",
            "",
            (
                "iifname . ether saddr != @macs drop",
                "meta pkttype other iifname @apart drop",
                "ether type arp goto guard_arp",
                "ether type ip goto guard_ip4",
                "ether type ip6 goto guard_ip6",
                "drop",
            ),
        ),
        Chain(
            "guard_arp",
            "",
            (
                "arp htype != 1 drop",
                "arp ptype != ip drop",
                "arp hlen != 6 drop",
                "arp plen != 4 drop",
                "iifname . arp saddr ether != @macs drop",
                "iifname . arp saddr ip @own4 accept",
                "arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @own4 accept",
                "drop",
            ),
        ),
        Chain(
            "guard_ip4",
            "",
            (
                # the bridge's route_localnet would let it in to the host's loopback services
                "ip daddr 127.0.0.0/8 drop",
                "udp sport 67 drop",
                "udp dport 68 drop",
                "iifname . ip saddr @own4 accept",
                "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
                "drop",
            ),
        ),
        Chain(
            "guard_ip6",
            "",
            (
                # a later fragment is worth nothing without a first one; what it holds may look
                # like any header
                "frag frag-off != 0 goto guard_source6",
                "meta l4proto icmpv6 goto guard_icmp6",
                "meta l4proto udp goto guard_udp6",
                "meta l4proto ah goto guard_ah6",
                # no upper protocol is known of a broken chain of headers; 255 is never one
                "meta l4proto != 255 goto guard_source6",
                "drop",
            ),
        ),
        # A first fragment that ends before its upper header matches no rule about that header:
        # so advertisements get past guards (RFC 7113). What is let through must show it.
        Chain(
            "guard_icmp6",
            "",
            (
                "icmpv6 type nd-router-advert drop",
                "icmpv6 type nd-neighbor-advert goto guard_advert",
                "ip6 saddr :: goto guard_nobody6",
                "icmpv6 type nd-neighbor-solicit goto guard_solicit6",
                "icmpv6 type nd-router-solicit goto guard_router_solicit6",
                "icmpv6 type != 255 goto guard_source6",
                "drop",
            ),
        ),
        # A link-layer address in an option is where answers are sent: to nobody else, so it is the
        # guest's own, and stands first, where it can be seen. A rule about an option does not match
        # a message without one.
        Chain(
            "guard_solicit6",
            "",
            (
                "@th,192,8 != 1 drop",
                "iifname . @th,208,48 != @lladdrs drop",
                "goto guard_source6",
            ),
        ),
        Chain(
            "guard_router_solicit6",
            "",
            (
                "@th,64,8 != 1 drop",
                "iifname . @th,80,48 != @lladdrs drop",
                "goto guard_source6",
            ),
        ),
        # Nothing is looked at behind an authentication header, so only TCP and ESP may be there. By
        # its first byte: "ah nexthdr tcp" ends libnftables 1.0.6 by an assertion.
        Chain(
            "guard_ah6",
            "",
            (
                "@th,0,8 6 goto guard_source6",
                "@th,0,8 50 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_udp6",
            "",
            (
                "udp sport 547 drop",
                "udp dport 546 drop",
                "udp length != 0 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_source6",
            "",
            (
                "iifname . @nh,64,128 @own6 accept",
                "iifname . @nh,64,128 @gateways6 drop",
                "@nh,64,128 @links6 drop",
                "ip6 saddr != fe80::/10 drop",
                "iifname . @nh,64,128 @seen6 accept",
                # each may become a neighbour of the host, whose table all networks share
                "iifname @new6 drop",
                "add @seen6 { iifname . @nh,64,128 } accept",
                "drop",
            ),
        ),
        Chain(
            "guard_advert",
            "",
            (
                "@th,192,8 != 2 drop",
                "iifname . @th,208,48 != @lladdrs drop",
                "iifname . @th,64,128 @own6 goto guard_source6",
                "iifname . @th,64,128 @gateways6 drop",
                "@th,64,128 @links6 drop",
                "@th,64,16 & 0xffc0 == 0xfe80 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_nobody6",
            "",
            (
                "icmpv6 type mld-listener-report accept",
                "icmpv6 type mld-listener-done accept",
                "icmpv6 type mld2-listener-report accept",
                "icmpv6 type != nd-neighbor-solicit drop",
                "iifname . @th,64,128 @own6 accept",
                "iifname . @th,64,128 @gateways6 drop",
                "@th,64,128 @links6 drop",
                "@th,64,16 & 0xffc0 == 0xfe80 accept",
                "drop",
            ),
        ),
        Chain(
            "prerouting",
            "type filter hook prerouting priority -300; policy accept;",
            ("iifname @ports jump guard",),
        ),
        Chain(
            "input",
            "type filter hook input priority -300; policy accept;",
            ("ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 iifname @ports jump guard",),
        ),
        Chain(
            "forward",
            "type filter hook forward priority -300; policy accept;",
            (
                "ether daddr & 01:00:00:00:00:00 != 01:00:00:00:00:00 accept",
                "oifname . ether saddr @macs drop",
                "iifname @apart drop",
            ),
        ),
    ),
)

SKELETONS: Mapping[str, Skeleton] = {"inet": _INET, "bridge": _BRIDGE}
PASSING = frozenset({("bridge", "seen6")})  # sets that packets fill: nothing in them is a row's


def table_name(installation: str) -> str:
    """The name of an installation's tables, in both families."""
    return f"hvtx-{installation}"


def declarations(family: str, bare: Collection[str] = ()) -> str:
    """The sets, maps and empty chains of a table, as the inside of an nft table block.

    Chains of ``bare`` are without their hooks.
    """
    skeleton = SKELETONS[family]
    lines = []
    for name, declared in skeleton.sets.items():
        what, definition = declared.split("|")
        lines.append(f" {what} {name} {{ {definition} }}")
    lines += [
        f" chain {chain.name} {{ {'' if chain.name in bare else chain.hook} }}"
        for chain in skeleton.chains
    ]
    return "\n".join(lines)


def layout(family: str) -> str:
    """What changes when the static part of a table does, with a version of hvtx or another."""
    from hashlib import sha256

    return sha256(repr(SKELETONS[family]).encode()).hexdigest()[:20]


def rule_lines(family: str, table: str, mark: str, chain: Chain) -> list[str]:
    """The commands that append a chain's rules, each with ``mark`` as its comment."""
    return [
        f'add rule {family} {table} {chain.name} {rule} comment "{mark}"' for rule in chain.rules
    ]


def table_text(family: str, installation: str, mark: str) -> str:
    """The commands that make one table whole; ``create`` fails if it exists."""
    table = table_name(installation)
    lines = [
        f'create table {family} {table} {{ comment "{mark}"; }}',
        f"table {family} {table} {{",
        declarations(family),
        "}",
    ]
    for chain in SKELETONS[family].chains:
        lines += rule_lines(family, table, mark, chain)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- rows to elements


def _ifname(name: str) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 16:
        raise UsageError(
            f"{name!r} cannot be the name of a network device",
            hint="device names have 1 to 15 characters",
        )
    return raw.ljust(16, b"\0")


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", "")) + b"\0\0"  # key fields are padded to 4 bytes


def _link_local(address: str) -> bytes:
    """The fe80 address that follows from a MAC (RFC 4291, appendix A)."""
    raw = bytes.fromhex(address.replace(":", ""))
    return b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]


def _ip(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


_PROTOCOLS = {"tcp": b"\x06\0\0\0", "udp": b"\x11\0\0\0"}
_PROTOCOL_NAMES = {6: "tcp", 17: "udp"}
_ANY = {"0.0.0.0": "4", "::": "6"}  # noqa: S104  not bound to: a published port's host address


def pieces(installation: str, spec: Mapping[str, Any]) -> list[Piece]:
    """The elements that stand for a row; empty for the base row.

    Raises UsageError for a device name that is too long, KeyError for a missing field.
    """
    table = table_name(installation)
    return [piece._replace(table=table) for piece in unplaced(spec)]


def unplaced(spec: Mapping[str, Any]) -> list[Piece]:
    """The same with an empty table: what is enough to tell them from others."""
    return _COMPILE[spec["what"]](spec)


def _network(spec: Mapping[str, Any]) -> list[Piece]:
    bridge = _ifname(spec["bridge"])
    within = verdict(GOTO, "isolated") if spec["isolate"] else verdict(ACCEPT)
    found = [
        Piece("inet", "", "bridges", bridge),
        Piece("inet", "", "within", bridge + bridge, within, verdict=True),
        Piece("inet", "", "flows_link", bridge, flows=spec.get("flows", FLOWS_EACH)),
    ]
    if spec["nat"]:
        found.append(Piece("inet", "", "nat_bridges", bridge))
    return found


def _forward(spec: Mapping[str, Any]) -> list[Piece]:
    bridge, flows = _ifname(spec["bridge"]), spec.get("flows", FLOWS_EACH)
    return [
        piece
        for family in "46"
        if (address := spec.get(f"ipv{family}"))
        for piece in (
            Piece("inet", "", f"guests{family}", _ip(address) + bridge),
            Piece("inet", "", f"flows{family}", _ip(address) + bridge, flows=flows),
        )
    ]


def _guard(spec: Mapping[str, Any]) -> list[Piece]:
    device, link = _ifname(spec["device"]), _link_local(spec["mac"])
    found = [
        Piece("bridge", "", "ports", device),
        Piece("bridge", "", "macs", device + _mac(spec["mac"])),
        Piece("bridge", "", "lladdrs", device + _mac(spec["mac"])),
        Piece("bridge", "", "own6", device + link),
        Piece("bridge", "", "links6", link),
        Piece("bridge", "", "new6", device),
    ]
    if spec["isolate"]:
        found.append(Piece("bridge", "", "apart", device))
    for family in "46":
        address = spec.get(f"ipv{family}")
        if address:
            found.append(Piece("bridge", "", f"own{family}", device + _ip(address)))
    gateway = spec.get("gateway6")
    if gateway:
        found.append(Piece("bridge", "", "gateways6", device + _ip(gateway)))
    return found + (_forward(spec) if spec.get("forward") else [])


def _masquerade(spec: Mapping[str, Any]) -> list[Piece]:
    address = spec["address"]
    return [Piece("inet", "", "masq6" if ":" in address else "masq4", _ip(address))]


def _publish(spec: Mapping[str, Any]) -> list[Piece]:
    host = spec.get("host_ip")
    service = _PROTOCOLS[spec["protocol"]] + _port(spec["host_port"])
    found = []
    for family in "46":
        guest = spec.get(f"ipv{family}")
        if not guest:
            continue
        data = _ip(guest) + _port(spec["guest_port"])
        if not host or _ANY.get(host) == family:
            found.append(Piece("inet", "", f"dnat{family}_any", service, data))
        elif host not in _ANY and (":" in host) == (family == "6") and host != "::1":
            found.append(Piece("inet", "", f"dnat{family}_host", _ip(host) + service, data))
    return found


_COMPILE: Mapping[str, Callable[[Mapping[str, Any]], list[Piece]]] = {
    "base": lambda _: [],
    "network": _network,
    "port": _guard,
    "forward": _forward,
    "masquerade": _masquerade,
    "publish": _publish,
}


# ---------------------------------------------------------------- elements to text


def _name(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


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
    chain = _name(fields.get(2, b""))
    return (
        f"{'accept' if code == ACCEPT else code} {chain}".strip()
        if code != GOTO
        else (f"goto {chain}")
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
    ("inet", "dnat4_any"): lambda k, d: f"{_service(k)} -> {_to4(d)}",
    ("inet", "dnat6_any"): lambda k, d: f"{_service(k)} -> {_to6(d)}",
    ("inet", "dnat4_host"): lambda k, d: f"{_ntop(_V4, k[:4])} {_service(k[4:])} -> {_to4(d)}",
    ("inet", "dnat6_host"): lambda k, d: f"[{_ntop(_V6, k[:16])}] {_service(k[16:])} -> {_to6(d)}",
    ("bridge", "ports"): lambda k, _: _name(k),
    ("bridge", "apart"): lambda k, _: _name(k),
    ("bridge", "macs"): lambda k, _: f"{_name(k[:16])} {k[16:22].hex(':')}",
    ("bridge", "lladdrs"): lambda k, _: f"{_name(k[:16])} {k[16:22].hex(':')}",
    ("bridge", "own4"): lambda k, _: f"{_name(k[:16])} {_ntop(_V4, k[16:])}",
    ("bridge", "own6"): lambda k, _: f"{_name(k[:16])} {_ntop(_V6, k[16:])}",
    ("bridge", "links6"): lambda k, _: _ntop(_V6, k),
    ("bridge", "new6"): lambda k, _: _name(k),
    ("bridge", "gateways6"): lambda k, _: f"{_name(k[:16])} {_ntop(_V6, k[16:])}",
}


def _hex(key: bytes, data: bytes) -> str:
    return f"{key.hex()} -> {data.hex()}" if data else key.hex()


def renderer(family: str, name: str) -> Callable[[bytes, bytes], str]:
    """How the elements of a set of our layout are written; hexadecimal for other sets."""
    return _RENDER.get((family, name), _hex)


def render(family: str, name: str, key: bytes, data: bytes) -> str:
    """An element as people read it; hexadecimal if a stranger's set only has the name of ours."""
    try:
        return renderer(family, name)(key, data)
    except (ValueError, IndexError, OSError):
        return _hex(key, data)
