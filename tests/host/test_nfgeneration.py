"""What is read and done under one generation of the ruleset: again, until nothing came between."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.host import nfgeneration
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.nfgeneration import (
    ATTEMPTS,
    Acted,
    Listing,
    Stale,
    StillChanging,
    consistently,
    settled,
)
from hvtx.model.resource import GONE

ROOT = Path(nfgeneration.__file__).parents[1]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    found: list[float] = []
    monkeypatch.setattr("hvtx.host.nfgeneration.time.sleep", found.append)
    return found


class Ruleset:
    """A ruleset whose generation moves as told; the last number stays."""

    def __init__(self, *generations: int) -> None:
        self.left = list(generations)

    def generation(self) -> int:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def raising(*problems: BaseException | None) -> Callable[[int], str]:
    """An action that fails so, one after the other, and then reads."""
    each = iter(problems)

    def action(_: int) -> str:
        problem = next(each, None)
        if problem is not None:
            raise problem
        return "read"

    return action


def test_a_reading_of_one_generation_is_given_at_once(pauses: list[float]) -> None:
    assert consistently(Ruleset(7), lambda generation: generation) == 7
    assert pauses == []


def test_a_reading_of_two_generations_is_read_again() -> None:
    seen: list[int] = []
    assert consistently(Ruleset(1, 2, 2, 2), lambda n: seen.append(n) or len(seen)) == 2
    assert seen == [1, 2]


def test_what_carried_the_generation_itself_is_not_asked_after() -> None:
    """A batch was taken, so its generation was the current one; it is another one since."""
    ruleset = Ruleset(1, 2)
    assert consistently(ruleset, lambda _: Acted({7: GONE})) == Acted({7: GONE})
    assert ruleset.left == [2]


@pytest.mark.parametrize(
    "problem",
    [
        DumpInterrupted(),
        Stale(),
        *(OSError(code, "") for code in (errno.ERESTART, errno.ENOBUFS, errno.EINTR)),
    ],
)
def test_a_change_in_between_is_no_error(problem: BaseException) -> None:
    assert consistently(Ruleset(1), raising(problem)) == "read"


def test_what_is_gone_is_an_error_only_if_nothing_changed() -> None:
    gone = OSError(errno.ENOENT, "")
    assert consistently(Ruleset(1, 2, 2), raising(gone)) == "read"
    with pytest.raises(OSError) as raised:
        consistently(Ruleset(1), raising(gone))
    assert raised.value is gone


def test_another_refusal_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(PermissionError):
        consistently(Ruleset(1), raising(PermissionError(errno.EPERM, "")))
    assert pauses == []


def test_a_ruleset_that_never_rests_ends_the_attempts(pauses: list[float]) -> None:
    def counted() -> Iterator[int]:
        yield from range(10_000)

    ruleset: Any = type("Restless", (), {"generation": counted().__next__})
    with pytest.raises(StillChanging):
        consistently(ruleset, lambda n: n)
    assert len(pauses) == ATTEMPTS
    assert max(pauses) <= 0.01
    assert sum(pauses) < 1


class Listed(Ruleset):
    """One that is dumped, too; what is dumped says how often it was."""

    def __init__(self, *generations: int) -> None:
        super().__init__(*generations)
        self.dumps = 0

    def dump_all(self, number: int) -> list[bytes]:
        self.dumps += 1
        return [bytes((number, self.dumps))]


def test_what_did_not_change_is_listed_once() -> None:
    """Another kind is listed when it is asked for; all that is given is of one generation."""
    ruleset, listing = Listed(7), Listing()
    assert listing.of(ruleset, 1) == [[b"\1\1"]]
    assert listing.of(ruleset, 1) == [[b"\1\1"]]
    assert listing.of(ruleset, 1, 2) == [[b"\1\1"], [b"\2\2"]]
    assert ruleset.dumps == 2


def test_what_changed_is_listed_anew() -> None:
    """All of it: what was listed of the generation before is not mixed with what is now."""
    ruleset, listing = Listed(7, 7, 8, 8), Listing()
    assert listing.of(ruleset, 1) == [[b"\1\1"]]
    assert listing.of(ruleset, 1, 2) == [[b"\1\2"], [b"\2\3"]]


def test_what_changes_while_it_is_listed_is_not_kept() -> None:
    """Neither given nor remembered, though the number comes back: numbers only rise."""
    ruleset, listing = Listed(7, 8, 8, 8), Listing()
    with pytest.raises(Stale):
        listing.of(ruleset, 1)
    assert settled(lambda: listing.of(ruleset, 1)) == [[b"\1\2"]]


def test_a_listing_that_never_settles_ends(pauses: list[float]) -> None:
    with pytest.raises(StillChanging):
        settled(lambda: Listing().of(Listed(*range(9)), 1))
    assert len(pauses) == ATTEMPTS


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT])
def test_what_is_no_change_is_raised(number: int) -> None:
    def refused() -> None:
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        settled(refused)


def test_there_is_one_such_loop() -> None:
    """Whoever else asks for the generation makes sure that it still holds, and loops over nothing."""
    asking = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if ".generation()" in path.read_text()
    }
    assert asking == {"drivers/nftables/session.py", "host/nfgeneration.py"}
