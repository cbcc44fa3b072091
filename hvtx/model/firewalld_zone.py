"""firewalld's zone `hvtx`, which bridges of networks are put into (docs/adr/0065).

Its description says who put an interface there, ``<interface>=<mark>``, since firewalld keeps that
text when somebody else changes the zone. As libvirt's zone of the same kind, it lets pass what is
forwarded, and of the host reach only DHCP, DNS and ICMP: the last rule refuses all else that comes
in, and concerns nothing that is forwarded (firewalld.richlanguage(5)).
"""

from __future__ import annotations

import re

from hvtx.model.mark import FAMILY
from hvtx.model.resource import Resource
from hvtx.model.typed import Any, NamedTuple

ZONE = "hvtx"
BACKEND = "firewalld"
PACKAGED = "/usr/lib/firewalld/zones"  # where a distribution's package has its zones
_ABOUT = "Bridges of VM networks, kept by hvtx."
_STAYS = "It stays without them: `hvtx systemd install` put it here."


class Zone(NamedTuple):
    """What hvtx changes of a zone."""

    interfaces: tuple[str, ...]
    description: str


def zone_settings(zone: Zone) -> dict[str, Any]:
    """The settings of the zone as ``config.addZone2`` takes them."""
    return {
        "short": ZONE,
        "description": zone.description,
        "target": "ACCEPT",
        "forward": True,
        "interfaces": list(zone.interfaces),
        "protocols": ["icmp", "ipv6-icmp"],
        "services": ["dhcp", "dhcpv6", "dns"],
        "rules_str": ['rule priority="32767" reject'],
    }


def is_waiting(row: Resource) -> bool:
    """Whether firewalld did not know the zone when the row was made: it lasts, and counts later.

    ``elements``: of what lasts and of what is in force, how many were made.
    """
    return row.observed == {"elements": 1}


def marks_in(description: str) -> dict[str, str]:
    """The mark of each interface that a description names."""
    found = {}
    for word in description.split():
        interface, equals, mark = word.rpartition(f"={FAMILY}")
        if equals and interface:
            found[interface] = FAMILY + mark
    return found


def described(zone: Zone) -> bool:
    """Whether the zone is one that hvtx made."""
    return zone.description.startswith(_ABOUT)


def stays(zone: Zone) -> bool:
    """Whether the zone is there for networks to come, and does not go with the last of them."""
    return described(zone) and _STAYS in zone.description


def staying(zone: Zone | None) -> Zone:
    """The zone as one that stays; one that is not there yet is empty."""
    words = _ABOUT if zone is None else zone.description
    interfaces = () if zone is None else zone.interfaces
    return Zone(interfaces, words.replace(_ABOUT, f"{_ABOUT} {_STAYS}", 1))


def passing(zone: Zone) -> Zone:
    """The zone as one that goes with the last network."""
    return zone._replace(description=" ".join(zone.description.replace(_STAYS, "").split()))


def is_others(zone: Zone) -> bool:
    """Whether somebody else says that the zone is his.

    One without a description is none of these: `hvtx doctor` has commands that make it so.
    """
    words = zone.description.strip()
    return bool(words) and not described(zone) and not marks_in(words)


def with_interface(zone: Zone | None, interface: str, mark: str) -> Zone:
    """The zone with an interface of a network; a zone that is not there yet begins with it."""
    before = Zone((), _ABOUT) if zone is None else zone
    interfaces = tuple(dict.fromkeys((*before.interfaces, interface)))
    return Zone(interfaces, f"{before.description} {interface}={mark}".strip())


def without(zone: Zone, mark: str, interface: str = "") -> Zone:
    """The zone without what carries a mark, and without an ``interface`` that carries none."""
    marks = marks_in(zone.description)
    gone = {name for name in (*marks, interface) if marks.get(name, mark) == mark}
    words = [word for word in zone.description.split() if not word.endswith(f"={mark}")]
    return Zone(tuple(name for name in zone.interfaces if name not in gone), " ".join(words))


# -- as firewalld writes it into its file ----------------------------------------------------------

_DESCRIPTION = re.compile(r"<description>(.*?)</description>", re.DOTALL)
_INTERFACE = re.compile(r'[ \t]*<interface name="([^"]*)"\s*/>\n?')
_ELEMENT = re.compile(r"<([^/!?][^>]*?)\s*/?>")
_PLAIN = frozenset({
    'zone target="ACCEPT"', "short", "description", "forward", 'service name="dhcp"',
    'service name="dhcpv6"', 'service name="dns"', 'protocol value="icmp"',
    'protocol value="ipv6-icmp"', 'rule priority="32767"', "reject",
})  # fmt: skip


def zone_text(zone: Zone | None = None, by: str = "") -> str:
    """A file of the zone, as hvtx makes it, without interfaces; ``by`` says whose the file is."""
    settings = zone_settings(Zone((), _ABOUT) if zone is None else zone)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        *((f"<!-- {by} -->",) if by else ()),
        f'<zone target="{settings["target"]}">',
        f"  <short>{settings['short']}</short>",
        f"  <description>{settings['description']}</description>",
        *(f'  <service name="{name}"/>' for name in settings["services"]),
        *(f'  <protocol value="{name}"/>' for name in settings["protocols"]),
        '  <rule priority="32767">',
        "    <reject/>",
        "  </rule>",
        "  <forward/>",
        "</zone>",
    ]
    return "\n".join(lines) + "\n"


def described_as(text: str, zone: Zone) -> str:
    """A file with the description of ``zone``, and else as it is."""
    new = f"<description>{zone.description}</description>"
    return _DESCRIPTION.sub(lambda _: new, text, count=1)


def zone_in(text: str) -> Zone:
    """The zone in a file."""
    found = _DESCRIPTION.search(text)
    return Zone(tuple(_INTERFACE.findall(text)), found[1] if found else "")


def text_without(text: str, mark: str, interface: str = "") -> str | None:
    """A file as :func:`without` has it; None where only what hvtx makes of a zone is left."""
    zone = zone_in(text)
    left = without(zone, mark, interface)
    gone = set(zone.interfaces) - set(left.interfaces)
    text = _INTERFACE.sub(lambda found: "" if found[1] in gone else found[0], text)
    if is_bare(text, left) and not stays(left):
        return None
    return described_as(text, left)


def is_bare(text: str, zone: Zone) -> bool:
    """Whether a file that is to have ``zone`` would say only what hvtx makes of one."""
    own = described(zone) and not zone.interfaces and not marks_in(zone.description)
    return own and set(_ELEMENT.findall(text)) == _PLAIN
