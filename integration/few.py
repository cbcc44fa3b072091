"""The program with few descriptors: nothing but the standard ones is open when it begins."""

from __future__ import annotations

import os
import resource

from integration import program
from integration.program import Forked, Ran


class Few(Forked):
    """The same command line in a forked child that may have ``limit`` descriptors.

    ``hard`` is what it may raise that to, by default nothing.
    """

    def __init__(self, limit: int, hard: int = 0, **environment: str) -> None:
        super().__init__(**environment)
        self.limit = limit
        self.hard = hard

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run it; ``code`` is the exit code to insist on (None: any)."""
        out, err = os.memfd_create("out"), os.memfd_create("err")
        pid = os.fork()
        if pid == 0:
            os.dup2(out, 3)
            os.dup2(err, 4)
            os.closerange(5, 65536)
            own = 3  # descriptors that `child` keeps besides the standard ones
            limit = self.limit + own
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, self.hard)))
            program.child(arguments, {**self.environment, **environment}, 3, 4)
        _, status = os.waitpid(pid, 0)
        ran = Ran(os.waitstatus_to_exitcode(status), program.text_of(out), program.text_of(err))
        if code is not None and ran.code != code:
            words = " ".join(arguments)
            raise AssertionError(f"hvtx {words}: exit {ran.code}, not {code}\n{ran.out}{ran.err}")
        return ran
