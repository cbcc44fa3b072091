"""Eight writers at one store: each gets its turn, however busy the others are."""

from __future__ import annotations

import os

import pytest

from hvtx.engine.runtime import Runtime, Settings
from hvtx.host import queued_lock
from hvtx.host.locks import LockFile
from hvtx.store import database
from integration import lab

WRITERS, WRITES = 8, 40
MOST = 3 * WRITERS  # writes of others while one waits; in turn there are seven, or a few more


def settings() -> Settings:
    return Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"])


def seq(runtime: Runtime) -> int:
    """How many writes there have been."""
    with runtime.reading() as sql:
        found: int = sql.execute("SELECT seq FROM meta").fetchone()[0]
    return found


def write(start: int, report: int) -> None:
    """Write without a pause; report how many writes of others came in between, each time.

    Counted from when it stands in the line: before that, it may have had no processor.
    """
    runtime = Runtime(settings(), writable=True)
    asked: list[int] = []
    line_up = queued_lock._line_up

    def lined_up(file: LockFile) -> int:
        place = line_up(file)
        asked.append(seq(runtime))
        return place

    queued_lock._line_up = lined_up
    os.read(start, 1)
    for _ in range(WRITES):
        asked.clear()
        with runtime.store.transaction() as sql:
            now = sql.execute("SELECT seq FROM meta").fetchone()[0]
        os.write(report, f"{now - asked[0] if asked else 0}\n".encode())
    runtime.close()


def overtaken() -> list[int]:
    """What all writers report."""
    Runtime(settings(), writable=True).close()
    start, begin = os.pipe()
    answers, report = os.pipe()
    children = []
    for _ in range(WRITERS):
        pid = os.fork()
        if pid == 0:
            try:
                write(start, report)
            finally:
                os._exit(0)
        children.append(pid)
    os.write(begin, b"." * WRITERS)
    for end in (begin, start, report):
        os.close(end)
    with os.fdopen(answers) as lines:
        found = [int(line) for line in lines]
    for pid in children:
        os.waitpid(pid, 0)
    return found


def test_nobody_is_overtaken_without_end() -> None:
    """How many others wrote while one waited: never more than some rounds of all of them."""
    found = overtaken()
    assert len(found) == WRITERS * WRITES
    lab.tell(writers=WRITERS, writes=len(found), longest_wait_in_writes_of_others=max(found))
    assert max(found) <= MOST, sorted(found)[-10:]


def test_without_turns_somebody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a lock that goes to whoever comes when it is free: what the test can find."""

    def snatch(file: LockFile, offset: int, seconds: float, what: str) -> None:
        file.unlock(queued_lock._line_up(file))  # it is counted from here, and has no turn
        file.lock(offset, seconds, what)

    monkeypatch.setattr(database.queued_lock, "take", snatch)
    worst = max(max(overtaken()) for _ in range(3))
    lab.tell(longest_wait_without_turns=worst)
    assert worst > MOST
