"""Addresses of guests that an older copy of the store does not know, once it is accepted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx import Conflict, Host
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms

SUBNETS = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SLEEP = ("--", "sleep", "600")


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program with a network and a running VM `web`, which has its first addresses."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", *SUBNETS, "--no-dhcp")
    program("vm", "run", "web", "--network", "net", *SLEEP)
    yield program
    end_vms(program)


def addresses(hvtx: Program, name: str) -> tuple[str, str]:
    """A VM's, of both families."""
    (interface,) = hvtx.vm(name)["interfaces"]
    return interface["ipv4"], interface["ipv6"]


def netns_of(box: lab.Namespace) -> str:
    """The path by which a runtime names a container's network namespace."""
    return f"/proc/{box.pid}/ns/net"


def put_back(hvtx: Program, backup: Path) -> None:
    """The older store, on a person's word."""
    hvtx("store", "restore", str(backup), "--force")
    hvtx("recover", "--accept-rollback")


def doubted() -> bool:
    """Whether the host's marker says that an older copy was accepted."""
    (marker,) = Path(os.environ["HVTX_RUN_DIR"]).glob("*/marker")
    return "older copy" in marker.read_text()


def run_later(hvtx: Program, backup: Path) -> int:
    """Run `later` after a backup, which is put back then; its pid."""
    hvtx("store", "backup", str(backup))
    hvtx("vm", "run", "later", "--network", "net", *SLEEP)
    assert addresses(hvtx, "later") == ("10.77.0.3", "fd77::3")
    pid: int = hvtx.vm("later")["pid"]
    put_back(hvtx, backup)
    return pid


def test_they_are_passed_over(hvtx: Program, tmp_path: Path) -> None:
    """By `create` and `run`; whoever asks for one is told, and nothing happens."""
    assert not doubted()
    pid = run_later(hvtx, tmp_path / "backup")
    assert doubted()
    hvtx("vm", "run", "new", "--network", "net", *SLEEP)
    assert addresses(hvtx, "new") == ("10.77.0.4", "fd77::4")
    hvtx("vm", "create", "more", "--network", "net", *SLEEP)
    assert addresses(hvtx, "more") == ("10.77.0.5", "fd77::5")
    hvtx("vm", "start", "more")
    for verb in ("create", "run"):
        for address in ("10.77.0.3", "fd77::3"):
            with witness.unchanged():
                ran = hvtx("vm", verb, "same", "--network", "net", "--ip", address, *SLEEP, code=4)
            assert f"a VM that is not on record has the address {address}" in ran.err
            assert "hvtx gc --apply --unrecorded" in ran.err
    hvtx("gc", "--apply", "--unrecorded")
    os.kill(pid, 0)
    assert doubted()


def test_they_are_free_once_nothing_is_off_the_record(hvtx: Program, tmp_path: Path) -> None:
    """The process has ended and its things are gone: gc finds nothing more, and says so."""
    pid = run_later(hvtx, tmp_path / "backup")
    hvtx("gc", "--apply")
    assert doubted()
    lab.end(pid)
    hvtx("gc", "--apply", "--unrecorded")
    assert not doubted()
    hvtx("vm", "run", "new", "--network", "net", *SLEEP)
    assert addresses(hvtx, "new") == ("10.77.0.3", "fd77::3")


def test_also_where_the_restored_store_has_the_higher_number(hvtx: Program, tmp_path: Path) -> None:
    """What was put aside by a restore comes back, and does not know what was begun meanwhile."""
    backup = tmp_path / "backup"
    hvtx("store", "backup", str(backup))
    for number in range(8):
        hvtx("vm", "create", f"vm{number}", "--network", "net", *SLEEP)
        hvtx("vm", "rm", f"vm{number}")
    kept = hvtx("store", "restore", str(backup), "--force", "--json").json()["kept"]
    hvtx("recover", "--accept-rollback")
    hvtx("gc", "--apply")
    assert not doubted()
    hvtx("vm", "run", "between", "--network", "net", *SLEEP)
    assert addresses(hvtx, "between") == ("10.77.0.3", "fd77::3")
    done = hvtx("store", "restore", kept, "--force", "--json").json()
    assert done["next"] == "hvtx recover"
    assert doubted()
    hvtx("recover")
    hvtx("vm", "run", "new", "--network", "net", *SLEEP)
    assert addresses(hvtx, "new") == ("10.77.0.4", "fd77::4")


def test_a_vm_on_record_with_such_an_address_does_not_start(hvtx: Program, tmp_path: Path) -> None:
    """Alone or with others: 4, before anything is on record; the others start."""
    for name in ("old", "third"):
        hvtx("vm", "create", name, "--network", "net", *SLEEP)
    hvtx("store", "backup", str(tmp_path / "backup"))
    hvtx("vm", "rm", "old")
    hvtx("vm", "run", "later", "--network", "net", *SLEEP)
    pid = hvtx.vm("later")["pid"]
    put_back(hvtx, tmp_path / "backup")
    assert addresses(hvtx, "old") == ("10.77.0.3", "fd77::3")
    with witness.unchanged():
        ran = hvtx("vm", "start", "old", code=4)
    assert "a VM that is not on record has the address 10.77.0.3" in ran.err
    ran = hvtx("vm", "start", "old", "third", code=None)
    assert "has the address 10.77.0.3" in ran.err
    assert (hvtx.vm("old")["state"], hvtx.vm("third")["state"]) == ("defined", "running")
    lab.end(pid)
    hvtx("gc", "--apply", "--unrecorded")
    hvtx("vm", "start", "old")


def test_an_older_copy_without_later_guests_is_believed(hvtx: Program, tmp_path: Path) -> None:
    """`recover` leaves the word, since it asks nobody; the next gc takes it back."""
    hvtx("store", "backup", str(tmp_path / "backup"))
    hvtx("vm", "create", "later", "--network", "net", *SLEEP)
    put_back(hvtx, tmp_path / "backup")
    assert doubted()
    hvtx("gc", "--plan")
    assert doubted()
    hvtx("gc", "--apply")
    assert not doubted()


def test_a_container_gets_other_addresses(hvtx: Program, tmp_path: Path) -> None:
    """ADD of the CNI plugin passes over them, too, and refuses one that is asked for."""
    run_later(hvtx, tmp_path / "backup")
    box = lab.Namespace()
    asked = AttachmentRequest(AttachmentKey("net", "c0ffee", "eth0"), "net", netns_of(box))
    try:
        with Host(firewall=hvtx.environment["HVTX_FIREWALL"]) as host:
            with pytest.raises(Conflict, match="a VM that is not on record has the address"):
                host.attachments.add(asked._replace(addresses=("10.77.0.3",)))
            made = host.attachments.add(asked)
            assert [one.address for one in made.addresses] == ["10.77.0.4/24", "fd77::4/64"]
            host.attachments.delete(asked.key)
    finally:
        box.close()
