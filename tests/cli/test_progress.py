"""How far a command is: a bar, lines in the journal, the status of the unit; or nothing at all."""

from __future__ import annotations

import io
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from hvtx.cli.progress import progress

STEPS = [(64, 200, "web"), (128, 200, "db"), (192, 200, "mail"), (200, 200, "last")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(label: str = "VMs started") -> None:
    with ExitStack() as stack:
        update = progress(stack, label)
        for step in STEPS:
            update(*step)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOURNAL_STREAM", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_told_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read it."""
    run()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of what was done last; one that is done at once has none."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    run()
    assert "last" in screen.getvalue()
    again = Terminal()
    monkeypatch.setattr("sys.stderr", again)
    with ExitStack() as stack:
        progress(stack, "VMs started")(2, 2, "web")
    assert again.getvalue() == ""


def test_the_journal_has_a_line_at_each_tenth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten at most, of a thousand VMs as of twenty."""
    seen = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{seen.st_dev}:{seen.st_ino}")
    run()
    assert capsys.readouterr().err.splitlines() == [
        f"VMs started: {done} of 200" for done in (64, 128, 192, 200)
    ]
    with ExitStack() as stack:
        update = progress(stack, "VMs started")
        for done in range(1, 1001):
            update(done, 1000, "web")
    assert len(capsys.readouterr().err.splitlines()) == 10


@pytest.mark.parametrize("abstract", [False, True])
def test_the_unit_has_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    """As `systemctl status` shows it: sd_notify(3)."""
    name = f"hvtx-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind("\0" + name if abstract else str(tmp_path / "notify"))
        link.setblocking(False)
        where = "@" + name if abstract else str(tmp_path / "notify")
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        run()
        told = [link.recv(4096).decode() for _ in STEPS]
    assert told == [f"STATUS=VMs started: {done} of 200" for done, _, _ in STEPS]


def test_a_manager_that_does_not_listen_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in (str(tmp_path / "nobody"), "vsock:2:1", ""):
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        run()
