"""What TAPs that were just made are given: all messages of several devices in one call.

Each device still gets its own messages, in their order. The kernel handles them one after another,
and says of each what it refuses; of what it does not refuse it says nothing but of the last. A
device that is there already is given its filters alone, by the same messages.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from hvtx.host import checksum_filter, link_changes, tc
from hvtx.host.link_changes import Message
from hvtx.host.links import Links
from hvtx.model.typed import NamedTuple


class NewPort(NamedTuple):
    """A device, and what it is given."""

    ifindex: int
    mark: str
    master: int  # index of its bridge
    mac: str
    mtu: int
    apart: bool = False  # see `link_changes.apart`
    program: bytes | None = None  # see `TrafficControl.guard`; None: no filters
    sums: int | None = None  # a descriptor of the checksum filter's program; None: no such filter


class Given(NamedTuple):
    """Which filters a device has."""

    guarded: bool
    summed: bool


def equip(links: Links, ports: Sequence[NewPort]) -> list[Given | OSError]:
    """Give each what it is given, and bring it up; the filters of each, or why not.

    Raises OSError where the kernel cannot be asked.
    """
    parts = [_messages(port) for port in ports]
    refused = links.channel.refusals([one for part in parts for _, one in part])
    found = []
    at = 0
    for port, part in zip(ports, parts, strict=True):
        own = [(part[n - at][0], refused[n]) for n in range(at, at + len(part)) if n in refused]
        found.append(_given(port.program, port.sums, own))
        at += len(part)
    return found


def _messages(port: NewPort) -> list[tuple[str, Message]]:
    """The messages of one device by what they are for (pure)."""
    index = port.ifindex
    made = [
        ("quiet6", link_changes.quiet6(index)),
        (
            "link",
            link_changes.changed(
                index, alias=port.mark, master=port.master, mac=port.mac, mtu=port.mtu, up=True
            ),
        ),
        ("link", link_changes.hairpin(index)),
    ]
    return made + _filters(index, port.program, port.sums, apart=port.apart)


def guard(
    links: Links, ifindex: int, program: bytes, sums: int | None, *, apart: bool = False
) -> Given:
    """Give a device that is there its filters, as a new one has them; which of them it has.

    Raises OSError.
    """
    part = _filters(ifindex, program, sums, apart=apart)
    refused = links.channel.refusals([one for _, one in part])
    given = _given(program, sums, [(part[n][0], refused[n]) for n in sorted(refused)])
    if isinstance(given, OSError):
        raise given
    return given


def _filters(
    ifindex: int, program: bytes | None, sums: int | None, *, apart: bool
) -> list[tuple[str, Message]]:
    """The messages of a device's filters by what they are for (pure)."""
    made = [("link", link_changes.apart(ifindex))] if apart else []
    if program is not None:
        made += [("filter", one) for one in tc.guard_messages(ifindex, program)]
        if sums is not None:
            made.append(("sums", checksum_filter.put_message(ifindex, sums)))
    return made


def _given(
    program: bytes | None, sums: int | None, refused: Sequence[tuple[str, OSError]]
) -> Given | OSError:
    """What came of one device, by what of it was refused in the order of its messages (pure)."""
    guarded = program is not None
    summed = guarded and sums is not None
    for name, problem in refused:
        if name == "quiet6" and problem.errno == errno.EAFNOSUPPORT:
            continue  # a kernel without IPv6 gives no address of its own either
        if name == "filter" and problem.errno == errno.EEXIST:
            continue  # others were faster: the queue is there
        if name == "filter" and (not guarded or problem.errno in tc.NO_SUCH_KIND):
            guarded = False
        elif name == "sums" and (not guarded or problem.errno in checksum_filter.CANNOT):
            summed = False
        else:
            return problem
    return Given(guarded, guarded and summed)
