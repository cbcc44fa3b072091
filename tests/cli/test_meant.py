"""A word that is unknown where it stands: the hint says which was probably meant, or where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.cli.main import run


def err(capsys: pytest.CaptureFixture[str], place: Path, *words: str) -> str:
    """What is said on standard error by a command line that is refused (2), with no store made."""
    assert run(["--state-dir", str(place / "state"), "--run-dir", str(place), *words]) == 2
    assert not (place / "state").exists()
    return capsys.readouterr().err


MEANT = [
    (("statr",), "`hvtx vm start`"),
    (("net", "ls"), "`hvtx network`"),
    (("ls",), "`hvtx vm ls`"),
    (("list",), "`hvtx vm ls`"),
    (("ps",), "`hvtx vm ls`"),
    (("help",), "`hvtx --help`"),
    (("version",), "`hvtx --version`"),
    (("vm", "star"), "`hvtx vm start`"),
    (("apply",), "`hvtx vm apply`"),
    (("vm", "aply"), "`hvtx vm apply`"),
    (("vm", "list"), "`hvtx vm ls`"),
    (("vm", "help"), "`hvtx vm --help`"),
    (("network", "lst"), "`hvtx network ls`"),
    (("vm", "stop", "--forse", "web"), "--force"),
    (("vm", "run", "web", "--port", "80:80"), "--publish"),
    (("vm", "run", "web", "--ram", "512"), "--memory"),
    (("vm", "create", "web", "--image", "a.qcow2"), "--disk"),
    (("vm", "ls", "--format", "json"), "--json"),
    (("gc", "--dry-run"), "--plan"),
    (("network", "create", "lab", "10.77.0.0/24"), "--subnet 10.77.0.0/24"),
]


@pytest.mark.parametrize(("words", "likely"), MEANT)
def test_a_command_that_was_meant_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], likely: str
) -> None:
    """Exit 2, and the hint asks."""
    assert f"did you mean {likely}?" in err(capsys, tmp_path, *words).splitlines()[1]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--json", "vm", "ls"), "--json belongs after the command: hvtx vm ls --json"),
        (("vm", "--json", "ls"), "--json belongs after the command: hvtx vm ls --json"),
        (
            ("network", "set", "lab", "--mtu", "1400"),
            "--mtu is given once, when a network is made: `hvtx network create --help` describes it",
        ),
        (
            ("vm", "set", "web", "--ip", "10.77.0.9"),
            "--ip is given once, when a VM is made: `hvtx vm create --help` describes it",
        ),
        (
            ("vm", "ls", "--state-dir", "X"),
            "--state-dir belongs before the command: hvtx --state-dir DIR vm ls",
        ),
        (("vm", "ls", "--debug"), "--debug belongs before the command: hvtx --debug vm ls"),
    ],
)
def test_an_option_in_another_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """The hint says where it belongs."""
    assert hint in err(capsys, tmp_path, *words)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("vm", "create", "web", "--name", "x"), "hint: `hvtx vm create --help` shows its options"),
        (("import", "libvirt"), "hint: `hvtx import --help` shows its commands"),
        (("gc",), "hint: hvtx gc --plan shows the plan, hvtx gc --apply carries it out"),
        (
            ("gc", "--heuristic"),
            (
                "hint: hvtx gc --heuristic --plan shows the plan,"
                " hvtx gc --heuristic --apply --yes carries it out"
            ),
        ),
        (
            ("gc", "old.plan"),
            "hint: hvtx gc --plan shows the plan, hvtx gc --apply old.plan carries it out",
        ),
        (
            ("gc", "--installation", "abcdefghij"),
            (
                "hint: hvtx gc --installation abcdefghij --plan shows the plan,"
                " hvtx gc --installation abcdefghij --apply --yes carries it out"
            ),
        ),
    ],
)
def test_a_hint_names_nothing_that_was_not_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    """An argument is no option, one letter is like no word, and what was given is kept."""
    assert err(capsys, tmp_path, *words).splitlines()[1] == hint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("log", "-n", "-1"), "-1 is not between 1 and 1000000000"),
        (("log", "-n", "9" * 5000), "it is too long for a number"),
        (("network", "create", "a", "--subnet", "10.77.0.1/24"), "not a subnet: it has host bits"),
        (
            ("network", "create", "a", "--subnet", "10.77.0.0/33"),
            "not a subnet: it does not appear",
        ),
        (
            ("vm", "create", "a", "-p", "8080-8090:80", "--", "true"),
            "host and guest ports are not equally many: 11 and 1",
        ),
    ],
)
def test_what_is_wrong_is_said_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert says in err(capsys, tmp_path, *words).splitlines()[0]


def test_a_path_is_taken_for_no_subnet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = err(capsys, tmp_path, "network", "create", "lab", "/etc")
    assert "`hvtx network create --help`" in told
    assert "--subnet" not in told
