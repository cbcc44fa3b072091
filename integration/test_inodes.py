"""A disk without free inodes: what ends, frees or reads works, and nothing new begins."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab, witness
from integration.program import Forked, preload

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


class Disk:
    """A small disk, of which files are made until so many inodes are left."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> int:
        return int(lab.run("stat", "-f", "-c", "%d", str(self.path)))

    def leave(self, number: int) -> None:
        for count in range(self.free() - number):
            (self.path / f"ballast.{count}").touch()
        assert self.free() == number


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """It is mounted in the mount namespace of the test's own."""
    place = tmp_path / "disk"
    place.mkdir()
    lab.run("mount", "-t", "tmpfs", "-o", "nr_inodes=120,size=32m", "none", str(place))
    yield Disk(place)
    subprocess.run(["umount", "-l", str(place)], check=False)


def several(disk: Disk, **environment: str) -> Forked:
    """A network with a VM that runs, a second one, and a dead one."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables", **environment)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    for name in ("up", "two", "dead"):
        hvtx("vm", "run", name, "--network", "net", *SLEEP)
    lab.end(hvtx.vm("dead")["pid"])
    return hvtx


@pytest.mark.parametrize("left", [0, 1, 2, 3, 7])
def test_without_inodes_in_the_state_directory(disk: Disk, left: int) -> None:
    hvtx = several(disk, HVTX_STATE_DIR=str(disk.path / "state"))
    disk.leave(left)
    for argv in READING:
        hvtx(*argv)
    found = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    assert [f for f in found if f["check"] == "store" and "no inodes" in f["message"]]
    with witness.unchanged(str(disk.path / "state")):
        for argv in MAKING:
            refused = hvtx(*argv, code=7)
            assert "no inodes left" in refused.err
            assert "df -i" in refused.err
    assert disk.free() <= left, "what reads and what is refused takes none of the spare ones"
    for argv in ENDING:
        hvtx(*argv)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []
    for path in disk.path.glob("ballast.*"):
        path.unlink()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    assert (disk.path / "state" / "reserve.7").exists()
    hvtx("network", "rm", "net")


@pytest.mark.parametrize("left", [0, 1, 3])
def test_without_inodes_in_the_run_directory(disk: Disk, left: int) -> None:
    hvtx = several(disk, HVTX_RUN_DIR=str(disk.path / "run"))
    disk.leave(left)
    for argv in READING:
        hvtx(*argv)
    with witness.undone():
        assert hvtx("vm", "run", "new", "--network", "net", *SLEEP, code=None).code in (0, 6, 7)
        hvtx("vm", "rm", "new", "--force", code=None)
    for argv in ENDING:
        hvtx(*argv)
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []
