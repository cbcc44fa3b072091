"""Processes as the kernel shows them in ``/proc/PID/stat``."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import fcntl, os, signal, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
print(flush=True)
signal.pause()
"""


@contextmanager
def stopped_with_lock_of(path: Path) -> Iterator[int]:
    """A process that has flock(2) of a file and is stopped; its pid."""
    words = (sys.executable, "-I", "-c", _HOLD, str(path))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            holder.send_signal(signal.SIGSTOP)
            yield holder.pid
        finally:
            holder.kill()


def letter(pid: int) -> str:
    """The state of a process, as proc_pid_stat(5) names it; empty where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]  # a name may have brackets of its own


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    return letter(pid) not in ("", "Z", "X")
