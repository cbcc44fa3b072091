"""Runs a part of a test in namespaces of processes, mounts and network of its own.

What is killed on purpose leaves processes behind; here they have a parent of their own (pid 1 of
the namespace), which sees nobody else's processes, and with which everything ends. Scans of `/proc`
meet a handful of processes instead of all that the machine runs, and take as many system calls
every time.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from integration import lab

CLONE_NEWPID = 0x20000000
_PDEATHSIG = 1
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_LIBC = ctypes.CDLL(None, use_errno=True)


def run_alone(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``part`` returns (JSON); AssertionError with its traceback if it raised."""
    read, write = os.pipe()
    outer = os.fork()
    if outer == 0:
        _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)  # whoever ends the tests ends these too
        os.close(read)
        lab.unshare(CLONE_NEWPID | lab.CLONE_NEWNS)
        inner = os.fork()
        if inner == 0:
            _become(part, write)
        os.close(write)
        os.waitpid(inner, 0)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(outer, 0)
    result: dict[str, Any] = json.loads(said or b'{"failed": "it ended without a word"}')
    if "failed" in result:
        raise AssertionError(result["failed"])
    return result


def _become(part: Callable[[], dict[str, Any]], write: int) -> None:
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    try:
        _mount(b"none", b"/", None, _PRIVATE | _RECURSIVE)
        _mount(b"proc", b"/proc", b"proc", 0)
        with lab.private_network():
            result = part()
    except BaseException:
        result = {"failed": traceback.format_exc()}
    with os.fdopen(write, "wb") as pipe:
        pipe.write(json.dumps(result).encode())
    os._exit(0)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    if _LIBC.mount(source, target, kind, flags, None):
        code = ctypes.get_errno()
        raise OSError(code, f"mount {target!r}: {os.strerror(code)}")
