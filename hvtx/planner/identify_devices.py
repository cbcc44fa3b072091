"""The owner of a network device. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.model.resource import DEVICES, Kind, Link, link_called
from hvtx.planner.subjects import ExplainFacts, Subject, foreign_words, of_item, of_row, rules_about

_IFF_TAP = 0x2


def by_device(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """The device of that name."""
    link = link_called(sight.snapshot.links, text)
    if link is not None:
        yield device_subject(sight, link)
    for row in sight.snapshot.rows:
        if row.kind in DEVICES and row.key == text:
            yield of_row(sight, row, () if link else ("the host has no such device",))


def device_subject(sight: ExplainFacts, link: Link) -> Subject:
    """A device, as the plan has it or as it looks."""
    more = tuple(rules_about(sight, link))
    item = next((item for item in sight.plan.items if item.link == link), None)
    if item is None:  # of a row of an earlier life, for instance
        return Subject(_kind(link), link.name, foreign_words(sight, link), evidence=more)
    return of_item(sight, item, foreign_words(sight, link), more)


def _kind(link: Link) -> str:
    if link.kind == "bridge":
        return Kind.BRIDGE
    return Kind.TAP if link.kind == "tun" and link.tun_flags & _IFF_TAP else "device"
