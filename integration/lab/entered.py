"""Commands in the namespaces of a host that a test made."""

from __future__ import annotations

import shlex
import subprocess
from typing import ClassVar

COMMAND_SECONDS = 120
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", "HVTX_VERIFY": "1"}


class Entered:
    """A host whose process 1 is ``pid``, as this machine numbers it."""

    namespaces: ClassVar[tuple[str, ...]]  # options of nsenter(1)

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def argv(self, *argv: str) -> list[str]:
        """``argv`` as it must be called to run in there."""
        return ["nsenter", "-t", str(self.pid), *self.namespaces, "--", *argv]

    def ran(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end; whatever its exit code is."""
        return subprocess.run(
            self.argv(*argv), capture_output=True, text=True, check=False, input=stdin,
            env=CLEAN, timeout=COMMAND_SECONDS,
        )  # fmt: skip

    def run(self, *argv: str, code: int | None = 0, stdin: str = "") -> str:
        """Its standard output. ``code`` is the exit code to insist on; None: any."""
        done = self.ran(*argv, stdin=stdin)
        if code is not None and done.returncode != code:
            words = f"{shlex.join(argv)}: exit {done.returncode}, not {code}"
            raise AssertionError(f"{words}\n{done.stdout}{done.stderr}{self.journal()}")
        return done.stdout

    def journal(self) -> str:
        """What the host can tell of a failure beside the program's own words."""
        return ""
