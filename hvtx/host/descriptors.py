"""Descriptors that a command may open: as many as its undo takes must be left before it begins.

With fewer it could make things and not take them back, since taking back opens files too: the
store's, a socket for each part of the kernel, the device itself.
"""

from __future__ import annotations

import errno
import os

from hvtx.errors import HostRefused

TO_MAKE, TO_END, TO_UNDO = 22, 17, 12  # seen at most on either backend, and one or two to spare
USUAL = 1024  # the soft limit of most processes; more would be a surprise to what is started here


def need(number: int) -> None:
    """Raise HostRefused unless this process may open ``number`` descriptors more.

    The soft limit is raised, if it is below the usual one and the hard one lets it.
    """
    if _are_free(number):
        return
    import resource  # a millisecond that hardly anybody needs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USUAL if hard == resource.RLIM_INFINITY else min(USUAL, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if _are_free(number):
            return
    raise HostRefused(
        f"this process may open too few files: {number} more are needed, its limit is {soft}",
        hint="raise the limit on open files (ulimit -n 1024), or close some; nothing was done",
    )


def _are_free(number: int) -> bool:
    try:
        taken = len(os.listdir("/proc/self/fd")) - 1  # the one that lists them
    except OSError as problem:
        return problem.errno not in (errno.EMFILE, errno.ENFILE)
    limit = os.sysconf("SC_OPEN_MAX")  # the soft limit
    return limit < 0 or limit - taken >= number
