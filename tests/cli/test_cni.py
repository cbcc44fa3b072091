"""`hvtx cni` as a command: what it prints, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hvtx.cli.main import run
from hvtx.engine import ownership


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("HVTX_CONFIG", "/dev/null")
    monkeypatch.delenv("HVTX_STATE_DIR", raising=False)
    monkeypatch.delenv("HVTX_RUN_DIR", raising=False)
    monkeypatch.setattr(ownership, "problem_of_program", lambda _words: None)
    return ["--dir", str(tmp_path / "bin"), "--conf", str(tmp_path / "10-hvtx.conflist")]


def test_installed_and_removed(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, conf = tmp_path / "bin" / "hvtx", tmp_path / "10-hvtx.conflist"
    more = ["--network", "lan", "--subnet", "10.77.0.0/24"]
    assert run(["cni", "install", *places, *more]) == 0
    assert capsys.readouterr().out == f"written   {program}\nwritten   {conf}\n"
    assert json.loads(conf.read_text())["plugins"][0]["subnets"] == ["10.77.0.0/24"]
    assert run(["cni", "install", *places]) == 4
    assert "--force" in capsys.readouterr().err
    assert run(["cni", "install", *places, "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in told["files"]] == ["unchanged", "written"]
    assert run(["cni", "uninstall", *places]) == 0
    assert capsys.readouterr().out == f"removed   {conf}\nremoved   {program}\n"
    assert not program.exists()
    assert not conf.exists()


def test_what_is_printed_writes_nothing(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cni", "print", *places]) == 0
    text = capsys.readouterr().out
    assert run(["cni", "print", *places, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for file in told["files"]:
        assert f"# {file['path']}\n{file['text']}" in text
    assert [file["mode"] for file in told["files"]] == ["0755", "0644"]
    assert list(tmp_path.iterdir()) == []


def test_what_others_could_change_is_told(
    places: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ownership, "problem_of_program", lambda _words: "/x: mode 0777")
    assert run(["cni", "print", *places]) == 0
    assert "mode 0777; `hvtx cni install` would refuse it" in capsys.readouterr().err
    assert run(["cni", "install", *places]) == 5


@pytest.mark.parametrize(
    "words", [["--conf", ""], ["--dir", ""], ["--network", ""], ["--subnet", "x"], ["--conf", "a"]]
)
def test_usage(words: list[str], places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cni", "install", *places, *words]) == 2
    assert "hint:" in capsys.readouterr().err
