"""What others have standing on a device that is to go: with it that would go, so it keeps it.

Each device is asked for by itself, right before it goes and while it is held: which devices stand
on it, its own addresses, its own queues. That takes the same however many others there are. Where
the kernel does not tell which devices stand on one, all of them are listed, once for all that go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from hvtx.host.links import Links, silence
from hvtx.host.uppers import look_up
from hvtx.model.resource import Address, Link, Outcome, filters_on, put_by_others
from hvtx.model.typed import NamedTuple

Above = Callable[[Link], Sequence[str]]  # names of the devices that stand on one; OSError


class Standing(NamedTuple):
    """What stands on one device: names of devices, its addresses, whether tc is at its packets."""

    upper: Sequence[str]
    addresses: Sequence[Address]
    filtered: bool


@contextlib.contextmanager
def devices_above(links: Links) -> Iterator[Above]:
    """How it is learnt what stands on a device. Raises OSError, DumpInterrupted."""
    uppers = look_up()
    if uppers is None:
        yield _listed(links.all())
        return
    with contextlib.closing(uppers):
        yield lambda seen: uppers.on(seen.ifindex, seen.name)


def _listed(everything: Sequence[Link]) -> Above:
    """The same of a list of all devices (pure)."""
    above: dict[int, list[str]] = {}
    for link in everything:
        if link.lower:
            above.setdefault(link.lower, []).append(link.name)
    return lambda seen: above.get(seen.ifindex, [])


def standing_on(seen: Link, links: Links, above: Above, *, queues: bool = True) -> Standing:
    """What stands on a device now. Raises OSError, DumpInterrupted."""
    index = seen.ifindex
    return Standing(above(seen), links.addresses(index), links.controlled(index, queues=queues))


def kept_by_others(
    seen: Link, links: Links, above: Above, known: Sequence[str] = (), *, queues: bool = True
) -> Outcome | None:
    """What of others keeps a device of ours, which gets no more addresses of its own.

    Without ``queues`` a queue of others at tc's root does not count. Raises OSError,
    DumpInterrupted.
    """
    found = standing_on(seen, links, above, queues=queues)
    silence(links, seen.ifindex, found.addresses, known)
    return dependents(seen, found, known)


def dependents(seen: Link, found: Standing, known: Sequence[str] = ()) -> Outcome | None:
    """Others' things that would go with the device; ``known`` addresses are nobody's (pure)."""
    own = put_by_others(seen.ifindex, found.addresses, known)
    filters = filters_on(seen, {seen.ifindex} if found.filtered else ())
    if not found.upper and not own and not filters:
        return None
    things = ", ".join([*found.upper, *own, *filters])
    return Outcome(False, "foreign-dependents", f"foreign resources use {seen.name}: {things}")
