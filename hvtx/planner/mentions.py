"""Devices and addresses that the text of a rule mentions. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from hvtx.model.typed import NamedTuple

_QUOTED = r'"(?:[^"\\]|\\.)*"'
SAID = re.compile(
    rf"--(?:comment|log-prefix|nflog-prefix) (?:{_QUOTED}|\S+)|(?<!-)\b(?:comment|prefix) {_QUOTED}"
)
_DEVICE = re.compile(
    r"(?:(?:^| )(?:-i|-o|--physdev-in|--physdev-out)"
    r"|\b(?:iifname|oifname|iif|oif|ibrname|obrname|sdifname))"
    r' "?([^\s"{},]+)"?'
)
_ADDRESS = re.compile(
    r"(?<![\w.:])(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)(/[\d.]+)?"
)
_VAGUE = (
    (re.compile(r"(?:^| )! |!= "), "it says what it is not about"),
    (re.compile(r"\{| @|-set |vmap|\bmap\b"), "it mentions a set of things"),
    (
        re.compile(r"[0-9a-fA-F]-[0-9a-fA-F.:]*[.:]|/\d+\.\d+"),
        "it mentions a range of addresses",
    ),
    (re.compile(r"& 0x|& \d|& \("), "it masks what it compares"),
)


class Mentions(NamedTuple):
    """What a rule's text speaks of."""

    hosts: tuple[str, ...]  # single addresses inside the subnets
    ranges: tuple[str, ...]  # prefixes that overlap the subnets
    devices: tuple[str, ...]
    vague: str  # why the rule may be about more than that; empty if it is not


Span = ipaddress.IPv4Network | ipaddress.IPv6Network


def mentions(text: str, spans: Sequence[tuple[Span, str]]) -> Mentions:
    """Read a rule in the words of nft or of iptables-save; what is in comments does not count."""
    said = SAID.sub("", text)
    hosts: list[str] = []
    ranges: list[str] = []
    for found in _ADDRESS.finditer(said):
        try:
            network = ipaddress.ip_network(found[1] + (found[2] or ""), strict=False)
        except ValueError:
            continue
        if not network.prefixlen:
            continue
        if any(network.version == s.version and network.overlaps(s) for s, _ in spans):
            one = network.prefixlen == network.max_prefixlen
            (hosts if one else ranges).append(str(network.network_address if one else network))
    devices = tuple(dict.fromkeys(found[1] for found in _DEVICE.finditer(said)))
    vague = next((words for pattern, words in _VAGUE if pattern.search(said)), "")
    if any(name[-1] in "+*" for name in devices):
        vague = vague or "it mentions many devices"
    return Mentions(tuple(dict.fromkeys(hosts)), tuple(dict.fromkeys(ranges)), devices, vague)
