"""Whether what a network's dnsmasq says is kept, by who is on record as its logger."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.dnsmasq import serving
from hvtx.drivers.dnsmasq.serving import UNLOGGED, unlogged
from hvtx.engine.damage import Damage, _missing
from hvtx.host import procfs
from hvtx.host.logger import SIGNATURE
from hvtx.model.resource import Kind, Resource
from hvtx.planner.presence import Presence
from tests.planner.scene import Scene


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell as the logger of a network's directory is one; it ends with its input."""
    words = ["/bin/sh", "-c", "echo; read end; :", SIGNATURE, str(tmp_path / "log"), "1", "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # an exec is over later than Popen says
        yield process


def served(directory: Path, logger: int | None) -> Resource:
    """A service that runs (as this very process), and who keeps its log."""
    observed: dict[str, Any] = dict(procfs.identify(os.getpid())._asdict())
    if logger is not None:
        observed["logger"] = logger
    spec = {"hypervisor": "dnsmasq", "directory": str(directory), "key": "dnsmasq net"}
    scene = Scene()
    return scene.row(Kind.PROCESS, network=scene.network(), observed=observed, **spec)


def test_a_logger_that_has_ended_is_missed(tmp_path: Path, logger: subprocess.Popen[bytes]) -> None:
    """A zombie has; so has one whose pid is another's by now."""
    row = served(tmp_path, logger.pid)
    assert unlogged(row) is None
    assert unlogged(served(tmp_path / "other", logger.pid)) == UNLOGGED
    assert logger.stdin is not None
    logger.stdin.close()
    os.waitid(os.P_PID, logger.pid, os.WEXITED | os.WNOWAIT)
    assert unlogged(row) == UNLOGGED
    logger.wait()
    assert unlogged(row) == UNLOGGED


def test_who_is_in_the_middle_of_an_exec_has_not_ended(
    tmp_path: Path, logger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no words for a moment, as one that has ended has none."""
    row = served(tmp_path, logger.pid)
    monkeypatch.setattr(serving.procfs, "command_line", lambda _: ())
    assert unlogged(row) is None
    assert logger.stdin is not None
    logger.stdin.close()
    logger.wait()
    assert unlogged(row) == UNLOGGED


def test_of_what_cannot_be_told_nothing_is_said(
    tmp_path: Path, logger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older record, a logger that lets nothing through, a /proc that hides, a service at its end."""
    assert unlogged(served(tmp_path, None)) is None
    gone = served(tmp_path, 1)
    assert unlogged(gone) == UNLOGGED
    ended = gone._replace(observed={**gone.observed, "start": 1, "inode": 0})
    assert unlogged(ended) is None, "another process has its pid"
    with monkeypatch.context() as patch:
        patch.setattr(serving.procfs, "command_line", lambda _: ("cat",))
        assert unlogged(gone) is None

    def hidden(_: int) -> tuple[str, ...]:
        raise PermissionError

    monkeypatch.setattr(serving.procfs, "command_line", hidden)
    assert unlogged(gone) is None


def test_it_is_a_damage_that_takes_nothing_from_guests(tmp_path: Path) -> None:
    row, seen = served(tmp_path, 1), Presence(True, ())
    assert _missing(row, seen, {}, ()) == UNLOGGED
    assert Damage(row, UNLOGGED, seen).soft
