"""What is kept while VMs are started, by whom, and until when."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvtx.host import capabilities, once, procfs, program
from hvtx.host.own_thread import in_own_thread


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were looked at for whether they are believed."""
    found: list[str] = []

    def believed(path: str) -> bool:
        found.append(path)
        return True

    monkeypatch.setattr(program, "_believed", believed)
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of /proc that were read whole."""
    found: list[str] = []
    read = procfs.read_whole

    def noted(path: str, *most: int) -> bytes:
        found.append(path)
        return read(path, *most)

    monkeypatch.setattr(procfs, "read_whole", noted)
    return found


def test_a_program_is_looked_for_once(walks: list[str]) -> None:
    with once.kept():
        first = program.find(("sh",))
        assert [program.find(("sh",)) for _ in range(3)] == [first] * 3
        assert len(walks) == 1
        with once.kept():  # the same, where one who keeps calls another
            program.find(("sh",))
        program.find(("cat",))
        assert len(walks) == 2
    program.find(("sh",))
    program.find(("sh",))
    assert len(walks) == 4  # nothing is kept outside


def test_by_another_path_it_is_another(
    walks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").touch(0o755)
    with once.kept():
        first = program.find(("sh",))
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert program.find(("sh",)) == f"{tmp_path}/sh" != first


def test_what_is_not_there_is_looked_for_again(walks: list[str], tmp_path: Path) -> None:
    wanted = str(tmp_path / "comes")
    with once.kept():
        assert program.find((wanted,)) is None
        (tmp_path / "comes").touch(0o755)
        assert program.find((wanted,)) == wanted


def test_another_thread_looks_for_itself(reads: list[str]) -> None:
    """It may have other capabilities, and stays within no verb of ours."""
    with once.kept():
        own = capabilities.sets()
        assert capabilities.sets() == own
        assert len(reads) == 1
        in_own_thread(capabilities.sets)
        in_own_thread(capabilities.sets)
        assert len(reads) == 3


def test_capabilities_that_were_changed_are_read_again(
    reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_prctl", lambda what, number: None)
    with once.kept():
        capabilities.sets()
        capabilities._ambient(0)
        capabilities.sets()
        capabilities.sets()
    assert len(reads) == 2
    capabilities.sets()
    assert len(reads) == 3


def test_it_is_forgotten_where_a_verb_fails(reads: list[str]) -> None:
    @once.kept()
    def verb() -> None:
        capabilities.sets()
        capabilities.sets()
        raise OSError(12, "no memory")

    for _ in range(2):
        with pytest.raises(OSError, match="no memory"):
            verb()
    assert len(reads) == 2
