"""A link that somebody else made leads no guest to what its maker may not open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.kernel.test_vm_process import needs_qemu
from integration.lab import unprivileged, witness
from integration.lab.program import Forked, Ran, preload
from integration.lab.waiting import until

STRANGER = 54321
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24")
KINDS = ("disk", "kernel", "initrd", "user-data")


@pytest.fixture
def hvtx(netns: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forked]:
    preload()
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    made = Forked()
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        made("vm", "rm", vm["name"], "--force", code=None)


@pytest.fixture
def place(netns: None) -> Iterator[Path]:
    """A directory of root's that every user may pass."""
    with unprivileged.open_home() as path:
        yield path


@pytest.fixture
def theirs(place: Path) -> Path:
    """A stranger's directory."""
    made = place / "theirs"
    made.mkdir()
    os.chown(made, STRANGER, STRANGER)
    return made


@pytest.fixture
def target(place: Path) -> Path:
    """A file that only root may open."""
    made = place / "target"
    made.write_bytes(b"secret" + bytes(1 << 20))
    made.chmod(0o600)
    return made


def link(at: Path, to: Path, owner: int = STRANGER) -> Path:
    at.unlink(missing_ok=True)
    at.symlink_to(to)
    os.lchown(at, owner, owner)
    return at


def file(at: Path) -> Path:
    at.write_bytes(bytes(1 << 20))
    at.chmod(0o600)
    os.chown(at, STRANGER, STRANGER)
    return at


def words(what: str, path: Path, place: Path) -> tuple[str, ...]:
    """The options of a VM that has it."""
    kernel = place / "kernel"
    kernel.touch()
    files = {"kernel": str(kernel), what: str(path)}
    return tuple(word for name, value in files.items() for word in (f"--{name}", value))


def refused(ran: Ran, at: Path) -> None:
    assert ran.code == 5, ran
    assert f"{at} is a link that user {STRANGER} could make" in ran.err, ran.err
    assert "hint: name what it leads to, if that is meant" in ran.err, ran.err


@pytest.mark.parametrize("what", KINDS)
def test_no_vm_is_made_of_what_a_strangers_link_leads_to(
    hvtx: Forked, place: Path, theirs: Path, target: Path, what: str
) -> None:
    hvtx(*NETWORK)
    at = link(theirs / what, target)
    with witness.unchanged():
        for verb in ("create", "run"):
            ran = hvtx("vm", verb, "web", "--network", "net", *words(what, at, place), code=None)
            refused(ran, at)
    hvtx("vm", "create", "web", "--network", "net", *words(what, file(theirs / "own"), place))
    refused(hvtx("vm", "set", "web", f"--{what}", str(at), code=None), at)


@needs_qemu
@pytest.mark.parametrize("what", KINDS)
def test_what_is_swapped_between_create_and_start_is_refused(
    hvtx: Forked, place: Path, theirs: Path, target: Path, what: str
) -> None:
    hvtx(*NETWORK)
    at = file(theirs / what)
    hvtx("vm", "create", "web", "--network", "net", *words(what, at, place))
    link(at, target)
    refused(hvtx("vm", "start", "web", code=None), at)
    assert hvtx.vm("web")["state"] == "defined"


@needs_qemu
def test_what_is_meant_goes_on(hvtx: Forked, place: Path, theirs: Path, target: Path) -> None:
    """A stranger's own file, their link to it, and root's link to a dated file of root's."""
    own = file(theirs / "own.raw")
    disks = (
        own,
        link(theirs / "link.raw", file(theirs / "dated.raw")),
        link(place / "current.raw", target, 0),
    )
    more = [word for disk in disks for word in ("--disk", str(disk))]
    vm = hvtx("vm", "run", "web", "--json", *more).json()
    opened = {os.readlink(path) for path in Path(f"/proc/{vm['pid']}/fd").iterdir()}
    assert {str(own), str(theirs / "dated.raw"), str(target)} <= opened


def test_a_command_is_shown_nothing_of_a_shut_directory(
    hvtx: Forked, place: Path, theirs: Path
) -> None:
    """Neither by a word of its own, nor by the directory that it was made in."""
    shut = place / "shut"
    (shut / "work").mkdir(parents=True)
    (shut / "work/secret").write_text("nobody else's\n")
    shut.chmod(0o700)
    at = link(theirs / "word", shut / "work/secret")
    hvtx("vm", "create", "web", "--", "cat", str(at))
    refused(hvtx("vm", "start", "web", code=None), at)
    work = theirs / "work"
    work.mkdir()
    os.chown(work, STRANGER, STRANGER)
    with contextlib.chdir(work):
        hvtx("vm", "create", "here", "--", "sh", "-c", "pwd; cat secret; sleep 600")
    hvtx("vm", "start", "here")
    until("its words", lambda: f"{work}\n" in hvtx("vm", "logs", "here").out)
    hvtx("vm", "stop", "here", "--force")
    work.rmdir()
    link(work, shut / "work")
    refused(hvtx("vm", "start", "here", code=None), work)
    assert "nobody" not in hvtx("vm", "logs", "here").out
