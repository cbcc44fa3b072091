"""The real call, by which the kernel is asked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile

import pytest

from hvtx.host import system_call

NUMBERS = {"x86_64": (39, 257, 8), "aarch64": (172, 56, 62)}  # getpid, openat, lseek


@pytest.mark.skipif(os.uname().machine not in NUMBERS, reason="numbers are another machine's")
@pytest.mark.parametrize("plain", [True, False])
def test_answers_and_errors_arrive(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers as long ones, bytes and None as places in memory; an errno stays until the next."""
    monkeypatch.setattr(system_call, "_known", {})
    if not plain:
        monkeypatch.setattr("_ctypes.dlopen", None)  # as in a Python whose C part is another
    getpid, openat, lseek = NUMBERS[os.uname().machine]
    call, last_error = system_call.found()
    assert system_call.found() == (call, last_error), "its classes are made once"
    assert call(getpid) == os.getpid()
    descriptor = call(openat, -100, b"/dev/null", os.O_RDONLY | os.O_CLOEXEC, 0)
    assert os.path.samestat(os.fstat(descriptor), os.stat("/dev/null"))
    os.close(descriptor)
    with tempfile.TemporaryFile() as file:
        assert call(lseek, file.fileno(), 1 << 33, os.SEEK_SET) == 1 << 33
    assert call(openat, -100, b"/no/such/file", os.O_RDONLY, 0) == -1
    assert last_error() == errno.ENOENT
    assert call(openat, -100, None, os.O_RDONLY, 0) == -1
    assert last_error() == errno.EFAULT


def test_it_loads_no_ctypes() -> None:
    """A fresh process, since anybody may have loaded it in this one."""
    script = (
        "import sys; from hvtx.host import system_call; system_call.found(); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    assert "ctypes" not in done.stdout.split()
