"""The log's own file, and what a child of posix_spawn is not to inherit."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from hvtx.host import children, logger, paths
from hvtx.host.logger import closing


def test_a_log_is_a_regular_file(tmp_path: Path) -> None:
    """A pipe in its place is not waited for, and a link is not followed."""
    log, fifo, link = tmp_path / "log", tmp_path / "fifo", tmp_path / "link"
    assert logger.made(str(log)) == 0
    assert log.stat().st_mode & 0o777 == 0o600
    log.write_text("words")
    assert logger.made(str(log)) == 5
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(paths.NotRegularError):
            logger.made(str(fifo))
    finally:
        os.close(reader)
    link.symlink_to(log)
    with pytest.raises(OSError, match="link"):
        logger.made(str(link))


def test_what_is_open_above_the_limit_is_not_inherited_either() -> None:
    """As under a shell that lowered it: glibc refuses to close such a number in the child."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = os.open("/dev/null", os.O_RDONLY)
    low, high = os.dup2(source, 90), os.dup2(source, 200)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
        argv = ["sh", "-c", f"test ! -e /proc/self/fd/{low} && test ! -e /proc/self/fd/{high}"]
        with children.spawning:
            pid = os.posix_spawn("/bin/sh", argv, {}, file_actions=closing(2))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in (source, low, high):
            os.close(descriptor)
