"""A disk without free inodes: what ends, frees or reads works, and nothing new begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, preload
from integration.ui.test_input import small_disk

SLEEP = ("--", "sleep", "600")
READING = (("vm", "ls"), ("vm", "show", "up"), ("network", "ls"), ("log",), ("intents",),
           ("gc", "--plan"), ("metrics",), ("vm", "logs", "up"))  # fmt: skip
MAKING = (
    ("vm", "create", "new", "--network", "net", *SLEEP),
    ("vm", "run", "new", "--network", "net", *SLEEP),
    ("network", "create", "other", "--subnet", "10.78.0.0/24"),
)
ENDING = (
    ("vm", "stop", "up", "--force"),
    ("gc", "--apply"),
    ("recover",),
    ("repair",),
    ("vm", "rm", "two", "--force"),
    ("vm", "rm", "dead"),
    ("vm", "rm", "up"),
    ("network", "rm", "net"),
)


class Disk(Forked):
    """The program where a small disk is mounted, which has 120 inodes."""

    def __init__(self, path: Path, keeper: int) -> None:
        super().__init__(HVTX_FIREWALL="nftables")
        self.path = Path(f"/proc/{keeper}/root{path}")  # as seen from outside
        self.place = path
        self._keeper = keeper

    def enter(self, out: int, err: int) -> tuple[int, int]:
        """Go where it is mounted."""
        there = os.open(f"/proc/{self._keeper}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        lab.setns(there, lab.CLONE_NEWNS)
        os.chdir("/")
        return out, err

    def free(self) -> int:
        """Inodes that are left."""
        return os.statvfs(self.path).f_ffree

    def leave(self, number: int) -> None:
        """Make files until so many are left; the store is as its last writer closed it."""
        for suffix in ("wal", "shm"):
            (self.path / f"state/hvtx.db-{suffix}").unlink(missing_ok=True)
        for count in range(self.free() - number):
            (self.path / f"ballast.{count}").touch()
        assert self.free() == number


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """It is there in a mount namespace of its own."""
    place = tmp_path / "disk"
    with small_disk(place, "32m,nr_inodes=120"):
        (keeper,) = [int(pid) for pid in _children() if _has_mounted(int(pid), place)]
        yield Disk(place, keeper)


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _has_mounted(pid: int, place: Path) -> bool:
    try:
        return f" {place} tmpfs " in Path(f"/proc/{pid}/mounts").read_text()
    except OSError:  # it has no mount namespace yet, or any more
        return False


def several(disk: Disk, name: str, variable: str) -> None:
    """A network with a VM that runs, a second one, and a dead one."""
    preload()
    disk.environment[variable] = str(disk.place / name)
    disk("network", "create", "net", "--subnet", "10.77.0.0/24")
    for vm in ("up", "two", "dead"):
        disk("vm", "run", vm, "--network", "net", *SLEEP)
    lab.end(disk.vm("dead")["pid"])


@pytest.mark.parametrize("left", [0, 1, 7])
def test_without_inodes_in_the_state_directory(disk: Disk, left: int) -> None:
    several(disk, "state", "HVTX_STATE_DIR")
    disk.leave(left)
    for argv in READING:
        disk(*argv)
    found = json.loads(disk("doctor", "--json", code=None).out)["findings"]
    assert [f for f in found if f["check"] == "store" and "no inodes" in f["message"]]
    before, store = lab.dump(), (disk.path / "state/hvtx.db").read_bytes()
    for argv in MAKING:
        refused = disk(*argv, code=7)
        assert "no inodes left" in refused.err
        assert "df -i" in refused.err
    assert lab.difference(before, lab.dump()) == ""
    assert (disk.path / "state/hvtx.db").read_bytes() == store
    assert disk.free() <= left, "what reads and what is refused takes none of the spare ones"
    for argv in ENDING:
        disk(*argv)
    assert disk("vm", "ls", "--json").json()["vms"] == []
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []
    for path in disk.path.glob("ballast.*"):
        path.unlink()
    disk("network", "create", "net", "--subnet", "10.77.0.0/24")
    assert (disk.path / "state" / "reserve.7").exists()
    disk("network", "rm", "net")


@pytest.mark.parametrize("left", [0])
def test_without_inodes_in_the_run_directory(disk: Disk, left: int) -> None:
    several(disk, "run", "HVTX_RUN_DIR")
    disk.leave(left)
    for argv in READING:
        disk(*argv)
    with witness.undone():
        assert disk("vm", "run", "new", "--network", "net", *SLEEP, code=None).code in (0, 6, 7)
        disk("vm", "rm", "new", "--force", code=None)
    for argv in ENDING:
        disk(*argv)
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []
