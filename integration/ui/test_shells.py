"""Completion in a zsh and a fish, as a person meets it: Tab after a beginning; bash is with its words.

The shells are Debian's, taken apart and not installed. zsh is typed at, on a terminal; fish is asked
by its own `complete --do-complete`, which is what its Tab shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lab import packages
from integration.lab.program import Program
from tests.cli.test_completion import at_terminal

# What is typed, and what stands there after a Tab.
TYPED = {
    "hvtx vm cre": "hvtx vm create",
    "hvtx vm create web --kernel vml": "hvtx vm create web --kernel vmlinuz-of-mine",
    "hvtx vm create web --kernel=vml": "hvtx vm create web --kernel=vmlinuz-of-mine",
    "hvtx vm create web --kernel=./vml": "hvtx vm create web --kernel=./vmlinuz-of-mine",
    "hvtx vm create web --hypervisor fire": "hvtx vm create web --hypervisor firecracker",
    "hvtx vm create web --hypervisor=fire": "hvtx vm create web --hypervisor=firecracker",
    "hvtx vm create web --initr": "hvtx vm create web --initrd",
    "hvtx gc --apply vml": "hvtx gc --apply vmlinuz-of-mine",
    "hvtx --state-dir pla": "hvtx --state-dir place-of-mine",
    "hvtx --state-dir=pla": "hvtx --state-dir=place-of-mine",
    "hvtx network show la": "hvtx network show lan",
    "hvtx vm start w": "hvtx vm start web",
    "hvtx log --reason vm-d": "hvtx log --reason vm-dead",
    "hvtx explain fd77:": "hvtx explain fd77::2",
}


@pytest.fixture(scope="module")
def zsh_root() -> Path:
    return taken(packages.ZSH)


@pytest.fixture(scope="module")
def fish_root() -> Path:
    return taken(packages.FISH)


def taken(names: tuple[str, ...]) -> Path:
    try:
        return packages.taken_apart(names)
    except packages.Unavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture
def home(netns: None, tmp_path: Path) -> Iterator[Path]:
    """Where the shells are: with a file, a directory, and a VM on record."""
    (tmp_path / "vmlinuz-of-mine").write_text("")
    (tmp_path / "place-of-mine").mkdir()
    hvtx = Program()
    hvtx("network", "create", "lan", "--subnet", "fd77::/64")
    hvtx("vm", "create", "web", "--network", "lan", "--", "sleep", "1")
    yield tmp_path
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "lan")


def environment(home: Path, **more: str) -> dict[str, str]:
    ours = {name: os.environ[name] for name in os.environ if name.startswith("HVTX_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**ours, "PATH": path, "TERM": "dumb", "HOME": str(home), "LC_ALL": "C.UTF-8", **more}


_ZSHENV = """
unsetopt GLOBAL_RCS
module_path=({root}/usr/lib/*/zsh/*(/))
fpath=({root}/usr/share/zsh/functions/**/*(/))
"""
_ZSHRC = """
PS1= RPS1=
autoload -Uz compinit
compinit -u -D
source <(hvtx completion zsh)
bindkey -e
"""


def in_zsh(root: Path, home: Path, lines: list[str]) -> list[str]:
    """What stands on the command line after each of ``lines`` was typed, with a Tab behind."""
    (home / ".zshenv").write_text(_ZSHENV.format(root=root))
    (home / ".zshrc").write_text(_ZSHRC)
    # the line's beginning becomes a command that prints what it was completed to
    show = "\t\x01print -r -- said-{}: \x05\r"
    # /usr/bin in Debian 13, whose packages have nothing in /bin
    (zsh,) = (path for path in (root / "bin/zsh", root / "usr/bin/zsh") if path.exists())
    argv = [zsh, "-d", "-i"]
    return at_terminal(argv, environment(home, ZDOTDIR=str(home)), home, lines, show)


def test_a_real_zsh(zsh_root: Path, home: Path) -> None:
    """Commands, names on record, words, files and directories, behind a space and behind ``=``."""
    assert in_zsh(zsh_root, home, list(TYPED)) == list(TYPED.values())


def in_fish(root: Path, home: Path, lines: list[str]) -> list[list[str]]:
    """What is offered for the last word of each of ``lines``, without descriptions."""
    if not (root / "usr/etc").exists():  # by which fish knows that it lies somewhere else
        (root / "usr/etc").symlink_to("../etc")
    libraries = ":".join(map(str, root.glob("usr/lib/*-linux-gnu")))
    asked = "\n".join(f"echo ---; complete --do-complete '{line}'" for line in lines)
    done = subprocess.run(
        [root / "usr/bin/fish", "-c", f"hvtx completion fish | source\n{asked}"],
        capture_output=True, text=True, check=False, timeout=300, cwd=home,
        env=environment(home, LD_LIBRARY_PATH=libraries),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.split("---\n")[1:]
    return [[one.partition("\t")[0] for one in answer.splitlines()] for answer in answers]


def test_a_real_fish(fish_root: Path, home: Path) -> None:
    """The same; of a directory it offers the slash, too."""
    offered = in_fish(fish_root, home, list(TYPED))
    words = [whole.rpartition(" ")[2] for whole in TYPED.values()]
    assert [[word.rstrip("/") for word in some] for some in offered] == [[w] for w in words]
