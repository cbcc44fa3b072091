"""What becomes of each answer of bpf(2)."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from hvtx.host import bpf


def kernel(monkeypatch: pytest.MonkeyPatch, *answers: int) -> list[int]:
    """A kernel that answers with an errno (below 0) or a descriptor each; the commands asked."""
    left, asked, last = list(answers), [], [0]

    def syscall(number: int, command: int, wanted: bytes, size: int) -> int:
        asked.append(command)
        answer = left.pop(0)
        last[0] = max(0, -answer)
        return answer if answer >= 0 else -1

    monkeypatch.setattr("hvtx.host.system_call.found", lambda: (syscall, lambda: last[0]))
    monkeypatch.setattr("hvtx.host.capabilities.has", lambda name: name == "CAP_BPF")
    return asked


def test_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel(monkeypatch, 7) == []
    assert bpf.load(bytes(16), "x") == 7


@pytest.mark.parametrize("name", ["EPERM", "EACCES", "ENOSYS", "EINVAL", "E2BIG", "EOPNOTSUPP"])
def test_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = kernel(monkeypatch, -getattr(errno, name))
    assert bpf.load(bytes(16), "x") is None
    assert asked == [5]


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOMEM"])
def test_what_this_process_lacks_is_no_lack_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kernel(monkeypatch, -getattr(errno, name))
    with pytest.raises(OSError, match=r".") as told:
        bpf.load(bytes(16), "x")
    assert told.value.errno == getattr(errno, name)


def test_a_signal_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel(monkeypatch, *[-errno.EAGAIN] * 4, 9) == []
    assert bpf.load(bytes(16), "x") == 9
    asked = kernel(monkeypatch, *[-errno.EAGAIN] * 9)
    with pytest.raises(BlockingIOError):
        bpf.load(bytes(16), "x")
    assert len(asked) == 5


def test_without_the_capability_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = kernel(monkeypatch)
    monkeypatch.setattr("hvtx.host.capabilities.has", lambda name: False)
    assert bpf.load(bytes(16), "x") is None
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="another"))
    assert bpf.load(bytes(16), "x") is None
    assert asked == []
