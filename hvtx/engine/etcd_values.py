"""What stands below etcd's prefix, read: whoever reaches etcd may have written anything there.

A value that hvtx would not have written is None, and the caller names its key.
"""

from __future__ import annotations

import ipaddress
import json

from hvtx.model.address import without_zone
from hvtx.model.block import Held, Member, Pool
from hvtx.model.typed import Any, NamedTuple
from hvtx.planner.blocks import FORGOTTEN, is_of

_LONGEST = 253  # of a host's name, as DNS has it


class About(NamedTuple):
    """What a host says of itself."""

    host: str = ""
    address: str | None = None  # by which its guests are reached


def block_of_key(rest: str, value: str) -> Held | None:
    """A key below ``blocks/``: ``lab/10.64.1.0_26``, with whose it is."""
    network, _, place = rest.partition("/")
    cidr = _block(place.replace("_", "/", 1))
    installation, _, token = value.partition(" ")
    if not (_is_word(network) and cidr and _is_word(installation)):
        return None
    return Held(network, cidr, installation, token)


def claim_of_value(value: str) -> tuple[str, str] | None:
    """The network and the block of a claim: ``lab 10.64.1.0/26``."""
    network, _, place = value.partition(" ")
    cidr = _block(place)
    return (network, cidr) if _is_word(network) and cidr else None


def granted(value: str, pool: Pool) -> str | None:
    """The block of a claim, if it is one of the pool."""
    found = claim_of_value(value)
    return found[1] if found and found[0] == pool.network and is_of(pool, found[1]) else None


def number_of(text: str) -> int | None:
    """The number of a claim."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def about_of(text: str) -> About:
    """What a host says of itself; of what is no name and no address nothing."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return About()
    if not isinstance(said, dict):
        return About()
    host, address = said.get("host"), said.get("address")
    named = isinstance(host, str) and host.isprintable() and len(host) <= _LONGEST
    return About(str(host) if named else "", _address(address))


def members_of(found: dict[str, str]) -> list[Member]:
    """The hosts of all keys below ``hosts/``, by what follows: ``INSTALLATION/machine``."""
    hosts: dict[str, dict[str, str]] = {}
    for rest, value in found.items():
        installation, _, what = rest.partition("/")
        if _is_word(installation) and what in ("machine", "last", "about"):
            hosts.setdefault(installation, {})[what] = value
    return [
        Member(installation, known.get("machine") == FORGOTTEN, *about_of(known.get("about", "")))
        for installation, known in hosts.items()
    ]


def _is_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def _block(text: str) -> str | None:
    """A prefix as hvtx writes it."""
    try:
        found = str(ipaddress.ip_network(without_zone(text)))
    except ValueError:
        return None
    return text if found == text else None


def _address(said: Any) -> str | None:
    """An address; one with a zone (``fe80::1%eth0``) means nothing on another host."""
    if not isinstance(said, str):
        return None
    try:
        return str(ipaddress.ip_address(without_zone(said)))
    except ValueError:
        return None
