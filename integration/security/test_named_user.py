"""VM processes of a user with a name, in a mount namespace with a passwd and a group of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.host import vmuser
from integration import lab
from integration.lab import unprivileged
from integration.lab.program import Forked, preload
from integration.lab.waiting import until
from integration.security.test_vm_user import is_powerless, status

UID, OWN, MORE = 54321, 54400, 54401  # the user, its primary group, one that it is a member of
ROOT = "root:x:0:0:root:/root:/bin/sh\n"
PASSWD = f"guests:x:{UID}:{OWN}:of VMs:/srv/guests:/usr/sbin/nologin\n"
GROUP = f"root:x:0:\nguests:x:{OWN}:\nimages:x:{MORE}:guests\n"
SLEEP = ("--", "sleep", "600")


class Named(Forked):
    """The program where this host's users are others."""

    def __init__(self, etc: Path, **environment: str) -> None:
        super().__init__(USER="root", LOGNAME="root", MAIL="/var/mail/root", **environment)
        self.etc = etc
        self.write(PASSWD)
        (etc / "group").write_text(GROUP)

    def write(self, users: str) -> None:
        """The users beside root."""
        (self.etc / "passwd").write_text(ROOT + users)

    def enter(self, out: int, err: int) -> tuple[int, int]:
        lab.unshare(lab.CLONE_NEWNS)
        lab.run("mount", "--make-rprivate", "/")
        for name in ("passwd", "group"):
            lab.run("mount", "--bind", str(self.etc / name), f"/etc/{name}")
        return out, err


@pytest.fixture
def place(netns: None) -> Iterator[Path]:
    """A directory that every user may pass."""
    with unprivileged.open_home() as path:
        yield path


@pytest.fixture
def hvtx(place: Path) -> Iterator[Named]:
    preload()
    made = Named(place)
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        made("vm", "rm", vm["name"], "--force", code=None)


def environment(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize("how", ["setting", "number", "option"])
def test_it_has_its_primary_group_and_no_other(hvtx: Named, place: Path, how: str) -> None:
    """By ids, by what it can read, by what it owns; its variables say who it is."""
    for name, group in (("own", OWN), ("more", MORE)):
        (place / name).write_text(f"words for {name}\n")
        (place / name).chmod(0o640)
        os.chown(place / name, 0, group)
    words = ("--", "sh", "-c", f"cat {place}/own; cat {place}/more; echo done; exec sleep 600")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--no-dhcp")
    wanted = {"setting": "guests", "number": str(UID), "option": "auto"}[how]
    option = ("--user", "guests") if how == "option" else ()
    vm = hvtx("vm", "run", "web", "--network", "net", *option, "--json", *words,
              HVTX_VM_USER=wanted).json()  # fmt: skip
    pid, seen = vm["pid"], status(vm["pid"])
    assert vm["user"] == "guests"
    assert seen["Uid"].split() == [str(UID)] * 4
    assert seen["Gid"].split() == [str(OWN)] * 4
    assert seen["Groups"].split() == [*map(str, vmuser.kvm_groups())]
    assert is_powerless(pid)
    until("its words", lambda: "done" in hvtx("vm", "logs", "web").out)
    said = hvtx("vm", "logs", "web").out
    assert "words for own" in said
    assert "words for more" not in said
    assert "Permission denied" in said
    told = environment(pid)
    assert (told["USER"], told["LOGNAME"], told["HOME"]) == ("guests", "guests", "/srv/guests")
    assert "MAIL" not in told
    (directory,) = [Path(row["key"]) for row in vm["resources"] if row["kind"] == "file"]
    found = directory.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (UID, OWN, 0o700)
    log = (Path(os.environ["HVTX_STATE_DIR"]) / "logs/web.log").stat()
    assert (log.st_uid, log.st_gid, stat.S_IMODE(log.st_mode)) == (0, 0, 0o600)
    device = vm["interfaces"][0]["device"]
    assert f" user {UID} " in lab.run("ip", "-d", "link", "show", "dev", device)


def test_a_user_of_its_own_has_no_name(hvtx: Named) -> None:
    """Of the starter's variables those that say who he is are not handed on."""
    told = environment(hvtx("vm", "run", "web", "--json", *SLEEP).json()["pid"])
    assert told["HOME"] == "/"
    assert not {"USER", "LOGNAME", "MAIL"} & told.keys()
    rooted = hvtx("vm", "run", "old", "--json", *SLEEP, HVTX_VM_USER="root").json()["pid"]
    assert environment(rooted)["USER"] == "root"


def test_one_that_goes_while_its_vm_runs(hvtx: Named) -> None:
    """The VM is shown with its name and stopped; it starts again once the user is back."""
    hvtx("vm", "run", "web", "--user", "guests", *SLEEP)
    hvtx.write("")
    assert hvtx.vm("web")["user"] == "guests"
    hvtx("vm", "stop", "web")
    assert "no such user" in hvtx("vm", "start", "web", code=3).err
    hvtx.write(PASSWD)
    assert hvtx("vm", "start", "web", "--json").json()["user"] == "guests"
