"""Runs commands and tells what each took: a process of its own, because it stays small.

A child begins with the peak of memory of the process that made it, so one that holds 5,000 VMs in
memory would tell its own size as that of every command. One request a line on standard input::

    {"argv": [...], "environment": {...}, "terminal": false}

and one answer a line: ``ms`` by the clock, ``processor`` in ms, ``peak`` in MiB, ``code``,
``error`` (the end of standard error), and with ``terminal`` ``first``: ms until the first byte.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
from typing import IO, Any


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        found = _terminal(asked) if asked.get("terminal") else _plain(asked)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    nothing = os.open(os.devnull, os.O_RDWR)
    errors = os.memfd_create("errors")
    actions = [(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, nothing, 1)]
    actions += [(os.POSIX_SPAWN_DUP2, errors, 2)]
    argv = asked["argv"]
    begun = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, asked["environment"], file_actions=actions)
    _, status, used = os.wait4(pid, 0)
    taken = time.perf_counter() - begun
    size = os.fstat(errors).st_size
    told = os.pread(errors, 2000, max(0, size - 2000)).decode(errors="replace")
    os.close(errors)
    os.close(nothing)
    return {**_figures(taken, used, status), "error": told}


def _terminal(asked: dict[str, Any]) -> dict[str, Any]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = {**asked["environment"], "TERM": "xterm"}  # one that progress is drawn on
    actions = [(os.POSIX_SPAWN_DUP2, slave, number) for number in (0, 1, 2)]
    actions += [(os.POSIX_SPAWN_CLOSE, master)]
    argv = asked["argv"]
    begun = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions)
    os.close(slave)
    first, told = None, b""
    ended = os.pidfd_open(pid)  # what it started may hold the terminal for longer
    while True:
        ready, _, _ = select.select([master, ended], [], [])
        if master in ready:
            try:
                told = (told + os.read(master, 65536))[-2000:]
            except OSError:  # EIO: nobody has the other end any more
                break
            first = first or time.perf_counter() - begun
        elif ended in ready:
            break
    _, status, used = os.wait4(pid, 0)
    os.close(ended)
    taken = time.perf_counter() - begun
    os.close(master)
    found = _figures(taken, used, status)
    return {**found, "first": first and first * 1000, "error": told.decode(errors="replace")}


def _figures(taken: float, used: Any, status: int) -> dict[str, Any]:
    return {
        "ms": taken * 1000,
        "processor": (used.ru_utime + used.ru_stime) * 1000,
        "peak": used.ru_maxrss / 1024,
        "code": os.waitstatus_to_exitcode(status),
    }


class Spawner:
    """The other side: a spawner in the namespaces of the calling thread."""

    def __init__(self, environment: dict[str, str]) -> None:
        """``environment``: of the commands."""
        self.environment = environment
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", os.path.abspath(__file__)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *argv: str, may_fail: bool = False, **more: Any) -> dict[str, Any]:
        """What a command took. Raises RuntimeError if it failed."""
        to, answers = _pipes(self._process)
        to.write(json.dumps({"argv": argv, "environment": self.environment, **more}) + "\n")
        to.flush()
        found: dict[str, Any] = json.loads(answers.readline())
        if found["code"] != 0 and not may_fail:
            raise RuntimeError(f"{' '.join(argv)}: exit {found['code']}: {found['error']}")
        return found

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


if __name__ == "__main__":
    main()
