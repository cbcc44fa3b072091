"""A full disk under the store stops nothing from being ended, freed or read; nothing new begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_failpoints import SLEEP
from integration.lab.program import Ran
from integration.lab.waiting import until
from integration.ui.test_input import HVTX, NETWORK, said, small_disk

Hvtx = Callable[..., Ran]
# 400 MB in a state directory of 16: the issue's own words
TALKATIVE = ("--", "sh", "-c", "head -c 400M /dev/zero | tr '\\0' x; exec sleep 999")


class Disk:
    """A small disk with a state directory on it."""

    def __init__(self, path: Path, inside: Callable[..., Ran]) -> None:
        self.path, self.inside = path, inside

    def hvtx(self, *argv: str, code: int | None = 0) -> Ran:
        environment = {"HVTX_STATE_DIR": str(self.path / "state"), "HVTX_FIREWALL": "nftables"}
        ran = self.inside(*HVTX, *argv, **environment)
        assert code is None or ran.code == code, (argv, ran)
        return ran

    def fill(self) -> None:
        self.inside("dd", "if=/dev/zero", f"of={self.path}/ballast", "bs=4k")
        self.inside("dd", "if=/dev/zero", f"of={self.path}/crumbs", "bs=1")
        assert self.room() == 0

    def empty(self) -> None:
        self.inside("rm", "-f", f"{self.path}/ballast", f"{self.path}/crumbs")

    def room(self) -> int:
        return int(self.inside("stat", "-f", "-c", "%f", str(self.path)).out)

    def files(self) -> set[str]:
        return set(self.inside("ls", f"{self.path}/state").out.split())


@pytest.fixture(params=["16m", "2m"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    path = tmp_path / "disk"
    with small_disk(path, request.param) as inside:
        yield Disk(path, inside)


def test_everything_that_ends_frees_or_reads_works(disk: Disk) -> None:
    """Every verb of the kind, on a disk without a free byte; then with room all is as ever."""
    disk.hvtx(*NETWORK)
    for name in ("one", "two", "dead"):
        disk.hvtx("vm", "run", name, "--network", "net", "-p", "8080:80" if name == "one" else
                  "8081:80" if name == "two" else "8082:80", *SLEEP)  # fmt: skip
    before = lab.dump()
    lab.end(json.loads(disk.hvtx("vm", "show", "dead", "--json").out)["pid"])
    disk.fill()
    for argv in (("vm", "ls"), ("vm", "show", "one"), ("vm", "logs", "one"), ("network", "ls"),
                 ("network", "show", "net"), ("intents",), ("log",), ("explain", "10.77.0.2"),
                 ("gc", "--plan"), ("metrics",), ("vm", "ls", "--json")):  # fmt: skip
        disk.hvtx(*argv)
    findings = json.loads(disk.hvtx("doctor", "--json", code=None).out)["findings"]
    assert [f for f in findings if f["check"] == "store" and "is full" in f["message"]]
    new = (("vm", "create", "new", "--network", "net", *SLEEP),
           ("vm", "run", "new", "--network", "net", *SLEEP),
           ("network", "create", "other", "--subnet", "10.78.0.0/24"))  # fmt: skip
    for argv in new:
        refused = disk.hvtx(*argv, code=7)
        said(refused, 7)
        assert "is full" in refused.err
    assert [link["ifname"] for link in lab.dump()["links"]] == [  # type: ignore[attr-defined]
        link["ifname"]
        for link in before["links"]  # type: ignore[attr-defined]
    ]
    for argv in (("vm", "set", "one", "-p", "9090:80"), ("network", "set", "net", "--dhcp"),
                 ("vm", "set", "one", "--unpublish", "8080", "-p", "9090:80"),
                 ("vm", "set", "one", "--limit", "in=1mbit", "--no-autostart")):  # fmt: skip
        said(disk.hvtx(*argv, code=7), 7)
    assert "reserve" in disk.files()  # what reads and what is refused takes nothing of it
    disk.hvtx("vm", "set", "one", "--unpublish", "8080", "--no-rules", "--limit", "none")
    disk.hvtx("vm", "set", "two", "--no-autostart")
    disk.hvtx("network", "set", "net", "--no-passage")
    disk.hvtx("vm", "stop", "one", "--force")
    disk.hvtx("gc", "--apply")
    disk.hvtx("recover")
    disk.hvtx("repair")
    disk.hvtx("vm", "rm", "two", "--force")
    disk.hvtx("vm", "start", "one", code=7)
    disk.hvtx("vm", "rm", "one")
    disk.hvtx("vm", "rm", "dead")
    assert json.loads(disk.hvtx("vm", "ls", "--json").out)["vms"] == []
    disk.hvtx("network", "rm", "net")
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []
    assert json.loads(disk.hvtx("intents", "--json").out)["operations"] == []
    disk.empty()
    disk.hvtx(*NETWORK)
    assert "reserve" in disk.files()
    disk.hvtx("network", "rm", "net")


def test_a_vm_that_writes_without_end_leaves_room(tmp_path: Path) -> None:
    """The issue's own VM: its log stays bounded, and its disk has room for everything."""
    with small_disk(tmp_path / "disk", "16m") as inside:
        disk = Disk(tmp_path / "disk", inside)
        disk.hvtx(*NETWORK)
        disk.hvtx("vm", "run", "n", "--network", "net", *TALKATIVE)
        pid = json.loads(disk.hvtx("vm", "show", "n", "--json").out)["pid"]
        words = Path(f"/proc/{pid}/cmdline")
        until("400 MB taken", lambda: words.read_bytes().startswith(b"sleep"))
        assert disk.room() > 512  # pages
        assert disk.files() >= {"logs", "reserve"}
        disk.hvtx("vm", "ls")
        disk.hvtx("vm", "run", "more", "--network", "net", *SLEEP)
        for name in ("n", "more"):
            disk.hvtx("vm", "rm", name, "--force")
        assert inside("ls", str(disk.path / "state" / "logs")).out == ""
        disk.hvtx("network", "rm", "net")


def test_a_disk_that_fills_while_a_vm_starts(disk: Disk) -> None:
    """The start is undone with the reserve's help, and nothing is left under way."""
    disk.hvtx(*NETWORK)
    disk.hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    before = lab.dump()
    fill = (
        "import os, sys; from hvtx.host import failpoint\n"
        "from hvtx.cli.main import run\n"
        "reach = failpoint.reach\n"
        "def full(name):\n"
        "    if name == 'registered':\n"
        "        for size in (4096, 1):\n"
        "            try:\n"
        "                with open(sys.argv[1] + str(size), 'wb', buffering=0) as file:\n"
        "                    while file.write(bytes(size)): pass\n"
        "            except OSError: pass\n"
        "    reach(name)\n"
        "failpoint.reach = full\n"
        "sys.exit(run(['vm', 'start', 'web']))\n"
    )
    ran = disk.inside(
        HVTX[0], "-c", fill, f"{disk.path}/fill",
        HVTX_STATE_DIR=str(disk.path / "state"), HVTX_FIREWALL="nftables",
    )  # fmt: skip
    assert (ran.code, lab.difference(before, lab.dump())) == (7, ""), ran
    assert json.loads(disk.hvtx("intents", "--json").out)["operations"] == []
    disk.inside("sh", "-c", f"rm {disk.path}/fill*")
    disk.hvtx("vm", "start", "web")
    disk.hvtx("vm", "rm", "web", "--force")
    disk.hvtx("network", "rm", "net")


def test_the_reserve_is_private_and_small() -> None:
    from integration.lab.program import Forked

    Forked(HVTX_FIREWALL="nftables")("network", "create", "net", "--subnet", "10.77.0.0/24")
    seen = Path(os.environ["HVTX_STATE_DIR"], "reserve").stat()
    assert (seen.st_mode & 0o777, seen.st_size) == (0o600, 1 << 20)
    assert seen.st_blocks * 512 >= 1 << 20  # not a hole
