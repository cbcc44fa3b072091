"""What a process says of where it serves from: anybody's may name any path."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hvtx.commands import gc_installation
from hvtx.host import mounts, paths

LOST = "bbbbbbbbbb"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(gc_installation, "_WELL_KNOWN", ("", str(tmp_path / "usual")))
    made = SimpleNamespace(nftables=lambda: SimpleNamespace(traces=dict))
    made.settings = SimpleNamespace(run_directory=str(tmp_path / "own"))
    return made


def serves_from(monkeypatch: pytest.MonkeyPatch, *places: Path | str) -> None:
    told = [SimpleNamespace(run_directory=str(place)) for place in places]
    monkeypatch.setattr(gc_installation, "_services", lambda _: told)


def test_what_it_says_is_no_trace_where_it_cannot_be_read(
    runtime: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / LOST).mkdir()
    (tmp_path / LOST / "marker").mkdir()
    serves_from(monkeypatch, tmp_path / "file", tmp_path / "loop", tmp_path, "/none", "x" * 5000)
    assert gc_installation._traces(runtime, LOST) == {}
    for place in ("own", "other"):
        marker = tmp_path / place / LOST / "marker"
        marker.parent.mkdir(parents=True)
        marker.write_text(f"x\n1:1:/{place}\n")
    serves_from(monkeypatch, tmp_path / "other", tmp_path / "file")
    found = {f"{tmp_path}/{place}/{LOST}/marker": f"1:1:/{place}" for place in ("own", "other")}
    assert gc_installation._traces(runtime, LOST) == found


def test_what_is_not_of_this_host_is_not_looked_at(
    runtime: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of a user's, or one whose server is gone, would keep gc waiting."""
    monkeypatch.setattr(paths, "read_believed", lambda path, _: pytest.fail(f"{path} is read"))
    monkeypatch.setattr(mounts, "find_mount", lambda _text, path: _mounts(path))
    serves_from(monkeypatch, "/home/a/x", "/srv/../mnt/nfs", "/nowhere")
    assert gc_installation._traces(runtime, LOST) == {}


def _mounts(path: str) -> tuple[str, str]:
    kinds = {"/home/a/x": "fuse.sshfs", "/mnt/nfs": "nfs4"}
    return kinds.get(path, ""), "/"
