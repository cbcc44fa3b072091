"""What the kernel asks to be asked again is; nothing else, and not for ever."""

from __future__ import annotations

import errno

import pytest

from hvtx.host.netlink import DumpInterrupted
from hvtx.host.retry import TRANSIENT, retry_transient, transient


class Asked:
    """Fails with each of the errors in turn, then answers."""

    def __init__(self, *problems: BaseException) -> None:
        self.left, self.times = list(problems), 0

    def __call__(self) -> str:
        self.times += 1
        if self.left:
            raise self.left.pop(0)
        return "answer"


def test_transient_is_told_by_the_errno() -> None:
    assert all(transient(OSError(code, "")) for code in TRANSIENT)
    assert not transient(OSError(errno.EPERM, ""))
    assert not transient(ValueError())


def test_a_transient_error_is_asked_again_until_there_is_an_answer() -> None:
    asked = Asked(OSError(errno.EINTR, ""), OSError(errno.ENOBUFS, ""), OSError(errno.EAGAIN, ""))
    assert retry_transient(asked) == "answer"
    assert asked.times == 4


def test_any_other_error_is_raised_at_once_also_after_a_transient_one() -> None:
    for before in ((), (OSError(errno.EINTR, ""),)):
        asked = Asked(*before, OSError(errno.EPERM, "no"))
        with pytest.raises(OSError, match="no") as caught:
            retry_transient(asked)
        assert caught.value.errno == errno.EPERM
        assert asked.times == 1 + len(before)


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    asked = Asked(*(OSError(errno.EAGAIN, str(number)) for number in range(9)))
    with pytest.raises(OSError, match="3"):
        retry_transient(asked, attempts=3)
    assert asked.times == 4  # the first is direct


def test_an_interrupted_dump_is_transient() -> None:
    assert issubclass(DumpInterrupted, Exception)
    assert transient(DumpInterrupted.__new__(DumpInterrupted))
