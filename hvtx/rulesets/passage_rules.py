"""The accepts that let a network's traffic pass the filters of others, in words. Pure.

Each is as narrow as it can be (docs/adr/0047): one bridge, out by the devices where the world is,
back what belongs to a known flow or was translated for a published port; to the host only what the
network's own service is asked for, and what the host itself began. What hvtx drops itself stays
dropped: its tables are asked at the same hook, and a drop anywhere is the end.

The words are those of ``iptables-save``, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hvtx.model.traffic import DHCP_SERVER

_KNOWN = "-m conntrack --ctstate RELATED,ESTABLISHED"
# of neighbour discovery, and a guest that asks for a router (RFC 4861)
_DISCOVERY = (133, 135, 136)
_ECHO = {4: "-p icmp -m icmp --icmp-type 8", 6: "-p ipv6-icmp -m icmp6 --icmpv6-type 128"}
_DNS = 53


def forward_rules(
    bridge: str, *, nat: bool, isolate: bool, uplinks: Sequence[str]
) -> tuple[str, ...]:
    """What of a network is to pass FORWARD."""
    found = [f"-i {bridge} {_KNOWN} -j ACCEPT", f"-o {bridge} {_KNOWN},DNAT -j ACCEPT"]
    if not isolate:
        found.append(f"-i {bridge} -o {bridge} -j ACCEPT")
    for device in uplinks:
        found.append(f"-i {bridge} -o {device} -j ACCEPT")
        if not nat:  # its guests are reached by their own addresses
            found.append(f"-i {device} -o {bridge} -j ACCEPT")
    return tuple(found)


def input_rules(family: int, bridge: str, *, dhcp: bool) -> tuple[str, ...]:
    """What of a network is to pass INPUT."""
    return tuple(f"-i {bridge} {match} -j ACCEPT" for match in _inputs(family, dhcp=dhcp))


def _inputs(family: int, *, dhcp: bool) -> Iterator[str]:
    yield _KNOWN
    if family == 6:  # of IPv4 a filter does not see how neighbours find each other
        yield from (f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind}" for kind in _DISCOVERY)
    yield _ECHO[family]
    if dhcp:
        yield f"-p udp -m udp --dport {DHCP_SERVER[family]}"
        yield from (f"-p {name} -m {name} --dport {_DNS}" for name in ("udp", "tcp"))
