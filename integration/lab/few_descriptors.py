"""The program with few descriptors: nothing but the standard ones is open when it begins."""

from __future__ import annotations

import os
import resource

from integration.lab.program import Forked

_OWN = 3  # descriptors that the child keeps besides the standard ones


class Few(Forked):
    """The same command line in a forked child that may have ``limit`` descriptors.

    ``hard`` is what it may raise that to, by default nothing.
    """

    def __init__(self, limit: int, hard: int = 0, **environment: str) -> None:
        super().__init__(**environment)
        self.limit = limit + _OWN
        self.hard = max(hard, self.limit)

    def enter(self, out: int, err: int) -> tuple[int, int]:
        """Close everything else, and be limited."""
        os.dup2(out, 3)
        os.dup2(err, 4)
        os.closerange(5, 65536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit, self.hard))
        return 3, 4
