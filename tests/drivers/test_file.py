"""Run-time directories of VMs: made whole, removed whole, whenever somebody is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.file import FileDriver, Marks, mark_of, marks_beside
from hvtx.host.paths import NotRegularError
from hvtx.model.resource import GONE, Kind, Resource, State
from hvtx.model.seed import SEED

MARK = "hvtx:1:aaaaaaaaaa:7.bbbbbbbbbbbbbbbb"


class Killed(BaseException):
    """What ends the driver in the middle."""


@pytest.mark.parametrize("call", range(1, 7))
def test_a_removal_that_was_killed_is_carried_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Before each of its changes: the next release knows the directory as ours, and removes it."""
    path = tmp_path / "vms" / "id"
    driver = FileDriver(Host("aaaaaaaaaa", str(tmp_path), str(tmp_path), 1.0))
    row = Resource(
        7, Kind.FILE, str(path), State.RELEASING, MARK, {"path": str(path)}, {}, 1, 1, "id", None
    )
    driver.create([row])
    (path / "qmp").touch()
    calls = 0

    def deadly(name: str) -> None:
        real = getattr(os, name)

        def one(*values: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return real(*values, **more)

        monkeypatch.setattr(os, name, one)

    with monkeypatch.context() as patched:
        monkeypatch = patched
        for name in ("unlink", "rmdir", "rename"):
            deadly(name)
        try:
            driver.release([row])
        except Killed:
            assert calls == call
        else:
            assert calls < call, "every change was met"
    assert driver.release([row]) == {7: GONE}
    assert [p for name in ("vms", "marks") for p in (tmp_path / name).iterdir()] == []


def test_a_directory_of_an_earlier_version_goes_too(tmp_path: Path) -> None:
    """Its mark is in it; one that has another mark, or none, stays."""
    path = tmp_path / "vms" / "id"
    driver = FileDriver(Host("aaaaaaaaaa", str(tmp_path), str(tmp_path), 1.0))
    row = Resource(
        7, Kind.FILE, str(path), State.RELEASING, MARK, {"path": str(path)}, {}, 1, 1, "id", None
    )
    for carried in ("hvtx:1:aaaaaaaaaa:8.other", None):
        path.mkdir(parents=True)
        if carried is not None:
            (path / "mark").write_text(carried)
        assert driver.release([row])[7].reason == "mark-mismatch"
        assert path.is_dir()
        (path / "mark").unlink(missing_ok=True)
        path.rmdir()
    path.mkdir()
    (path / "mark").write_text(MARK)
    (path / "qmp.sock").touch()
    assert driver.release([row]) == {7: GONE}
    assert not path.exists()


def test_another_file_system_in_it_is_not_entered(tmp_path: Path) -> None:
    """Somebody mounted a directory there: it is told, and nothing behind it is touched."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a mount")
    path, kept = tmp_path / "run" / "vms" / "id", tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    script = f"""
import subprocess, sys
from hvtx.drivers.base import Host
from hvtx.drivers.file import FileDriver, Marks, mark_of, marks_beside
from hvtx.host.paths import NotRegularError
from hvtx.model.resource import Resource
driver = FileDriver(Host("aaaaaaaaaa", "/", "/", 1.0))
row = Resource(7, "file", "{path}", "releasing", "{MARK}", {{"path": "{path}"}}, {{}}, 1, 1, "id", None)
driver.create([row])
import os
import subprocess
import sys
os.mkdir("{path}/there")
subprocess.run(["mount", "--bind", "{kept}", "{path}/there"], check=True)
kept = driver.release([row])[7]
assert not kept.gone and kept.reason == "host-refused", kept
assert os.listdir("{kept}") == ["file"]
where = "{path}" if os.path.exists("{path}") else "{path}.new"
subprocess.run(["umount", "-l", where + "/there"], check=True)
assert driver.release([row])[7].gone
"""
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (kept / "file").exists()


def test_a_removal_ends_though_somebody_writes_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a VM process left running puts a file in for each that is removed: it is kept, and said."""
    path = tmp_path / "vms" / "id"
    driver = FileDriver(Host("aaaaaaaaaa", str(tmp_path), str(tmp_path), 1.0))
    row = Resource(
        7, Kind.FILE, str(path), State.RELEASING, MARK, {"path": str(path)}, {}, 1, 1, "id", None
    )
    driver.create([row])
    (path / "file").touch()
    real, looks = os.unlink, 0

    def again(name: str, dir_fd: int | None = None) -> None:
        real(name, dir_fd=dir_fd)
        if dir_fd is not None:
            os.close(os.open(name, os.O_CREAT, dir_fd=dir_fd))

    def later() -> float:
        nonlocal looks
        looks += 1
        assert looks < 1000, "it goes on for ever"
        return float(looks)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", again)
        patched.setattr("time.monotonic", later)
        kept = driver.release([row])[7]
    assert (kept.gone, kept.reason) == (False, "host-refused")
    assert "another program keeps creating files in it" in kept.message
    assert driver.release([row]) == {7: GONE}


def test_what_is_no_file_in_a_marks_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A pipe is not waited for, and no more is read than a mark may have."""
    path = tmp_path / "vms" / "id"
    path.mkdir(parents=True)
    assert mark_of(str(path)) is None
    (path / "mark").write_text(MARK)
    assert mark_of(str(path)) == MARK
    (path / "mark").write_text("x" * 5000)
    with pytest.raises(OSError, match="larger than"):
        mark_of(str(path))
    (path / "mark").unlink()
    os.mkfifo(path / "mark")
    with pytest.raises(NotRegularError):
        mark_of(str(path))


def test_marks_beside_the_known_ones_are_read(tmp_path: Path) -> None:
    """Of a seed and of a network's directory too; what is being written is none yet."""
    for name in ("vms/one", "networks/two"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "marks").mkdir()
    for name in ("one", "one.seed.iso", "two", "gone", "four.new"):
        (tmp_path / "marks" / name).write_text(name)
    vms, networks = f"{tmp_path}/vms", f"{tmp_path}/networks"
    found = {f"{vms}/one": "one", f"{vms}/one/seed.iso": "one.seed.iso", f"{vms}/gone": "gone",
             f"{networks}/two": "two"}  # fmt: skip
    assert marks_beside(str(tmp_path), set()) == found
    known = {f"{vms}/one", f"{networks}/two"}
    assert marks_beside(str(tmp_path), known) == {k: v for k, v in found.items() if k not in known}


def _kinds(base: Path) -> list[str]:
    """Paths of directories whose marks are of every kind that a mark can be."""
    marks, vms = base / "marks", base / "vms"
    for directory in (marks, vms):
        directory.mkdir()
    (marks / "plain").write_text(MARK)
    (marks / "plain.seed.iso").write_text(MARK)
    (marks / "empty").write_text("")
    (marks / "binary").write_bytes(b"\xff\0mark")
    (marks / "long").write_text("x" * 4096)
    (marks / "longer").write_text("x" * 4097)
    (marks / "directory").mkdir()
    (marks / "link").symlink_to(marks / "plain")
    (marks / "nowhere").symlink_to(marks / "none")
    (marks / "loop").symlink_to(marks / "loop")
    (marks / "null").symlink_to("/dev/null")
    os.mkfifo(marks / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(marks / "socket"))
    (vms / "old").mkdir()
    (vms / "old" / "mark").write_text(MARK)  # of an earlier version, in the directory
    (vms / "file").write_text("no directory")
    (base / "else" / "vms").mkdir(parents=True)
    names = [*(path.name for path in marks.iterdir()), "old", "file", "none"]
    return [*(str(vms / name) for name in names), str(vms / "plain" / SEED),
            str(base / "else" / "vms" / "id"), str(base / "none" / "vms" / "id")]  # fmt: skip


def test_many_are_read_as_each_alone(tmp_path: Path) -> None:
    """And nobody waits for the writer of a pipe."""

    def told(read: Callable[[str], str | None], path: str) -> object:
        try:
            return read(path)
        except OSError as problem:
            return type(problem), problem.errno, str(problem)

    paths = _kinds(tmp_path)
    with Marks() as marks:
        found = {path: told(marks.of, path) for path in paths}
    assert found == {path: told(mark_of, path) for path in paths}
    assert [found[str(tmp_path / "vms" / name)] for name in ("plain", "old")] == [MARK, MARK]


def test_a_mark_takes_four_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marks").mkdir()
    names = [f"vm{number}" for number in range(100)]
    for name in names:
        (tmp_path / "marks" / name).write_text(MARK)
    calls: list[str] = []

    def counting(name: str) -> None:
        real = getattr(os, name)

        def one(*values: object, **more: object) -> object:
            calls.append(name)
            return real(*values, **more)

        monkeypatch.setattr(os, name, one)

    for name in ("open", "fstat", "read", "close", "fdopen", "stat", "lstat"):
        counting(name)
    with Marks() as marks:
        found = [marks.of(str(tmp_path / "vms" / name)) for name in names]
    assert found == [MARK] * 100
    assert len(calls) == 4 * 100 + 2  # the directory is opened and closed once
