"""What a new TAP has, by what the kernel refused of it: errors that no kernel can be made to give."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from hvtx.host.new_ports import Given, NewPort, equip, guard

PROGRAM = bytes(8)
PORT = NewPort(7, "hvtx:1:a:1.b", 2, "fe:00:00:00:00:01", 1500, program=PROGRAM, sums=5)
# of the messages of one device: no fe80::, what it has, hairpin, its queue, two filters
QUIET, LINK, HAIRPIN, QUEUE, FILTER, SUMS = range(6)


def equipped(refused: dict[int, int], *ports: NewPort) -> list[Given | OSError]:
    """What is said where the kernel refuses messages, by position, with an errno."""
    seen: list[Any] = []

    def refusals(wanted: list[Any]) -> dict[int, OSError]:
        seen.extend(wanted)
        return {n: OSError(number, "refused") for n, number in refused.items()}

    links: Any = SimpleNamespace(channel=SimpleNamespace(refusals=refusals))
    found = equip(links, ports or (PORT,))
    assert len(seen) > max(refused, default=0)
    return found


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ({}, Given(True, True)),
        ({QUIET: errno.EAFNOSUPPORT}, Given(True, True)),
        ({QUEUE: errno.EEXIST}, Given(True, True)),
        ({SUMS: errno.EINVAL}, Given(True, False)),
        ({FILTER: errno.ENOENT, SUMS: errno.ENOENT}, Given(False, False)),
        ({QUEUE: errno.EOPNOTSUPP, FILTER: errno.EINVAL, SUMS: errno.EINVAL}, Given(False, False)),
    ],
)
def test_what_a_kernel_lacks_is_told(refused: dict[int, int], expected: Given) -> None:
    assert equipped(refused) == [expected]


@pytest.mark.parametrize(
    ("message", "number"),
    [
        (QUIET, errno.EPERM),
        (LINK, errno.EAFNOSUPPORT),
        (LINK, errno.EINVAL),
        (HAIRPIN, errno.EBUSY),
        (QUEUE, errno.EPERM),
        (FILTER, errno.EINVAL),
        (SUMS, errno.EPERM),
    ],
)
def test_what_is_refused_is_the_error_of_that_device(message: int, number: int) -> None:
    """Of the second of three; the others have what they were given."""
    bare = PORT._replace(ifindex=6, program=None)  # three messages
    before, own, after = equipped({3 + message: number}, bare, PORT, bare)
    assert (before, after) == (Given(False, False), Given(False, False))
    assert isinstance(own, OSError)
    assert own.errno == number


def test_the_first_refusal_is_told() -> None:
    """What follows from it, a filter without its queue, is not."""
    (own,) = equipped({LINK: errno.EXFULL, QUEUE: errno.EPERM})
    assert isinstance(own, OSError)
    assert own.errno == errno.EXFULL


def guarded(refused: dict[int, int], *, apart: bool) -> Given:
    """A device that is there, where the kernel refuses messages, by position."""
    answers = {n: OSError(number, "refused") for n, number in reversed(refused.items())}
    links: Any = SimpleNamespace(channel=SimpleNamespace(refusals=lambda wanted: answers))
    return guard(links, 7, PROGRAM, 5, apart=apart)


def test_one_that_is_there_is_told_as_a_new_one() -> None:
    """Of its messages: its queue, two filters; before them what keeps it apart."""
    assert guarded({0: errno.EEXIST}, apart=False) == Given(True, True)
    assert guarded({1: errno.EEXIST, 3: errno.EINVAL}, apart=True) == Given(True, False)
    with pytest.raises(OSError, match="refused") as told:
        guarded({0: errno.ENODEV, 1: errno.EPERM}, apart=True)
    assert told.value.errno == errno.ENODEV
