"""Shell completion: the scripts of the shells, and the words that they are given."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from hvtx.cli.completion import joined
from hvtx.cli.main import run
from hvtx.cli.root import COMMANDS
from hvtx.engine.vm_options import HYPERVISORS
from hvtx.model.history_terms import EVENTS, KINDS, REASONS, VERBS
from hvtx.store.opening import open_store
from tests.store.shelf import add_network, network


def completed(words: str, tmp_path: Path) -> list[str]:
    """What is offered for the last word of a command line."""
    lines = answer(words, tmp_path, "bash").splitlines()
    return [line.partition(",")[2] for line in lines if line]


def kinds(words: str, tmp_path: Path, shell: str) -> set[str]:
    """How a shell is to complete the last word itself: ``file``, ``dir``; ``plain``: not at all."""
    lines = [line for line in answer(words, tmp_path, shell).split("\n") if line]
    return set(lines[::3]) if shell == "zsh" else {line.partition(",")[0] for line in lines}


def answer(words: str, tmp_path: Path, shell: str, line: tuple[str, ...] = ()) -> str:
    """What the program tells a shell's completion script, which may hand it the whole line, too."""
    environment = {
        **os.environ,
        "HVTX_STATE_DIR": str(tmp_path / "state"),
        "HVTX_RUN_DIR": str(tmp_path / "run"),
        "HVTX_CONFIG": os.devnull,
        "_HVTX_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": words.rpartition(" ")[2] if shell == "fish" else str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", *line],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_line_that_is_completed_is_not_run(tmp_path: Path) -> None:
    """Nor is one that scripts say a thousand times."""
    assert answer("hvtx vm l", tmp_path, "bash", ("vm", "ls", "--json")) == "plain,logs\nplain,ls\n"
    assert not (tmp_path / "state").exists()


def test_commands_options_and_names(tmp_path: Path) -> None:
    """Of VMs and networks on record, also where the store is named before the command."""
    store = open_store(str(tmp_path / "state"), str(tmp_path / "run"), writable=True)
    add_network(store, network("lan"))
    store.close()
    assert completed("hvtx ", tmp_path) == list(COMMANDS)
    assert completed("hvtx net", tmp_path) == ["network"]
    assert "create" in completed("hvtx vm ", tmp_path)
    assert "--publish" in completed("hvtx vm create web --p", tmp_path)
    assert completed("hvtx network show ", tmp_path) == ["lan"]
    assert completed("hvtx network rm x", tmp_path) == []
    assert completed("hvtx vm create web --network l", tmp_path) == ["lan"]
    assert completed("hvtx repair ", tmp_path) == ["lan"]
    elsewhere = f"hvtx --state-dir {tmp_path}/none network show "
    assert completed(elsewhere, tmp_path) == []


FILES = [
    "hvtx vm create web --kernel ", "hvtx vm run web --initrd ", "hvtx vm set web --disk ",
    "hvtx gc --plan --out ", "hvtx gc --plan --html ", "hvtx gc --apply ", "hvtx --config ",
    "hvtx import my-hypervisor ", "hvtx metrics --textfile ",
]  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("words", FILES)
def test_files_are_left_to_the_shell(words: str, shell: str, tmp_path: Path) -> None:
    """Each shell is told to complete names of files itself."""
    assert kinds(words, tmp_path, shell) == {"file"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_directories_are_left_to_the_shell(shell: str, tmp_path: Path) -> None:
    """For the places of store and locks."""
    assert kinds("hvtx --state-dir ", tmp_path, shell) == {"dir"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hvtx vm create web --hypervisor ", HYPERVISORS),
        ("hvtx vm create web --hypervisor f", ("firecracker",)),
        ("hvtx --firewall ", ("auto", "nftables", "iptables")),
        ("hvtx log --kind ", KINDS),
        ("hvtx log --event ", EVENTS),
        ("hvtx log --reason ", REASONS),
        ("hvtx log --verb ", VERBS),
        ("hvtx log --reason vm-d", ("vm-dead",)),
    ],
)
def test_words_of_options(words: str, offered: tuple[str, ...], tmp_path: Path) -> None:
    """All that an option takes, where that is a list."""
    assert completed(words, tmp_path) == list(offered)


@pytest.mark.parametrize(
    ("words", "word"),
    [("hvtx vm create web --hypervisor fi", "firecracker"), ("hvtx log --kind mas", "masquerade"),
     ("hvtx log --reason vm-d", "vm-dead"), ("hvtx explain l", "lo"), ("hvtx vm resta", "restart")],
)  # fmt: skip
def test_words_in_every_shell(words: str, word: str, tmp_path: Path) -> None:
    """zsh has three lines a word: what it is, itself, its help; fish the help behind a tab."""
    zsh = answer(words, tmp_path, "zsh").splitlines()
    assert (zsh[0], word in zsh[1::3]) == ("plain", True)
    fish = answer(words, tmp_path, "fish").splitlines()
    assert f"plain,{word}" in [line.partition("\t")[0] for line in fish]
    assert word in completed(words, tmp_path)


def test_objects_and_vms(tmp_path: Path) -> None:
    """`explain` is offered devices and what is on record, `adopt` devices; --vm is a VM's name."""
    store = open_store(str(tmp_path / "state"), str(tmp_path / "run"), writable=True)
    add_network(store, network("lan"))
    store.close()
    assert {"lo", "lan"} <= set(completed("hvtx explain ", tmp_path))
    assert completed("hvtx explain la", tmp_path) == ["lan"]
    assert "lo" in completed("hvtx adopt ", tmp_path)
    assert "lan" not in completed("hvtx adopt ", tmp_path)
    assert completed("hvtx adopt lo --vm ", tmp_path) == []
    for verb in ("create", "set"):
        assert completed(f"hvtx network {verb} lan --uplink l", tmp_path) == ["lo"]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["explain", "hvtx", ":", "1", ":", "ab"], ["explain", "hvtx:1:ab"]),
        (["--kernel", "=", "/bo"], ["--kernel=/bo"]),
        (["a", "b", ""], ["a", "b", ""]),
        (["--kernel", "="], ["--kernel="]),
        (["explain", "fd77", "::", "1"], ["explain", "fd77::1"]),
    ],
)
def test_what_bash_breaks_is_one_word_again(pieces: list[str], words: list[str]) -> None:
    """It breaks at = and at colons."""
    assert joined(pieces) == words


def test_a_real_bash(tmp_path: Path) -> None:
    """Tab, in an interactive bash: a file after an option, after =, and a list's word."""
    (tmp_path / "vmlinuz-of-mine").write_text("")
    shown = in_bash(
        tmp_path,
        f"hvtx vm create web --kernel {tmp_path}/vml\t",
        f"hvtx vm create web --kernel={tmp_path}/vml\t",
        "hvtx vm create web --hypervisor fire\t",
        "hvtx gc --apply vml\t",
        "hvtx vm cre\t",
    )
    assert f"hvtx vm create web --kernel {tmp_path}/vmlinuz-of-mine" in shown
    assert f"hvtx vm create web --kernel={tmp_path}/vmlinuz-of-mine" in shown
    assert "hvtx vm create web --hypervisor firecracker" in shown
    assert "hvtx gc --apply vmlinuz-of-mine" in shown
    assert "hvtx vm create" in shown


def in_bash(directory: Path, *lines: str) -> list[str]:
    """What stands on the command line after each of ``lines`` was typed, Tab included."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        "PATH": path, "TERM": "dumb", "PS1": "", "HOME": str(directory), "INPUTRC": os.devnull,
        "HVTX_STATE_DIR": str(directory / "state"), "HVTX_RUN_DIR": str(directory / "run"),
        "HVTX_CONFIG": os.devnull, "COLUMNS": "400",
    }  # fmt: skip
    argv = ["bash", "--norc", "--noprofile", "-i"]
    show = "\x01echo -E said-{}: \r"  # its beginning becomes an echo, which prints the line
    return at_terminal(
        argv, environment, directory, lines, show, first="source <(hvtx completion bash)\r"
    )


def at_terminal(
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    directory: Path,
    lines: Iterable[str],
    show: str,
    first: str = "",
) -> list[str]:
    """What a shell at a wide terminal says of each of ``lines`` that is typed, ``first`` before all.

    ``show`` are the keys that have it print ``said-NUMBER: `` with the line behind, for ``{}``.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
    shell = subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=directory,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        os.write(master, first.encode())
        said = ""
        for number, line in enumerate(lines):
            os.write(master, line.encode())
            os.write(master, show.format(number).encode())
            said += until(master, rf"(?m)^said-{number}: .*$")
        return re.findall(r"(?m)^said-[0-9]+: (.*?) *\r?$", said)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


def until(descriptor: int, pattern: str) -> str:
    """What a terminal shows until a pattern is there; at most a minute."""
    shown, end = "", time.monotonic() + 60
    while time.monotonic() < end:
        ready, _, _ = select.select([descriptor], [], [], 1)
        if ready:
            shown += os.read(descriptor, 1 << 16).decode(errors="replace").replace("\r", "")
        if re.search(pattern + r"\n", shown):
            return shown
    raise AssertionError(f"no {pattern} in {shown!r}")


def test_a_store_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    """No error disturbs the prompt."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "hvtx.db").write_text("no store")
    assert completed("hvtx vm show ", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_their_shells_own(shell: str) -> None:
    """Printed for each; those shells that are here take them without a word."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", "completion", shell],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_HVTX_COMPLETE" in done.stdout
    if shutil.which(shell):
        flag = "--no-execute" if shell == "fish" else "-n"
        checked = subprocess.run(
            [shell, flag], input=done.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_as_an_object(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert run(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "hvtx/completion/1", "shell": shell, "script": script,
    }  # fmt: skip
