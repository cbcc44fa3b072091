"""Which VMs a question of `explain` can be about, by their rows as they stand in the store. Pure.

These are judged row by row; of the others, those that run with all of their things as recorded are
left together (:mod:`hvtx.planner.settled`), since no finder of :mod:`hvtx.planner.identify` would
stop at a row of theirs. What is merely possible counts as if it were so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.model.resource import Kind, Link, RawResource, link_called
from hvtx.planner import address_notes
from hvtx.planner.identify_addresses import MAC
from hvtx.planner.identify_ports import PORT

_WITH_ADDRESS = frozenset((Kind.LEASE.value, Kind.ADDRESS.value))
_PUBLISH = Kind.PUBLISH.value


def concerned(
    text: str,
    rows: Iterable[RawResource],
    vms: Iterable[tuple[str, str, str, bool]],
    links: Sequence[Link],
) -> set[str]:
    """VMs (by id) of which something is called ``text``; ``vms``: id, name and more of each."""
    found = {vm for vm, name, *_ in vms if text in (vm, name)}
    names = {text}
    named = link_called(links, text)
    meant = [] if named is None else [named]
    if MAC.fullmatch(text):
        mac = text.lower().replace("-", ":")
        meant += [link for link in links if link.mac == mac]
    for link in meant:  # whatever it is called by now: by its mark, too
        names |= {link.name, link.alias or link.name}
    read = address_notes.read_address(text)
    address = "" if read is None else str(read)
    port = PORT.fullmatch(text)
    number = "" if port is None else str(int(port[2]))
    for _, kind, key, _, mark, spec, _, _, _, vm, _ in rows:
        if vm is not None and (
            key in names
            or mark in names
            or (address and kind in _WITH_ADDRESS and key.partition("/")[0] == address)
            or (number and kind == _PUBLISH and number in spec)
        ):
            found.add(vm)
    return found
