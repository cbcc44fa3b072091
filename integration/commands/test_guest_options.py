"""What a VM's guest, or its process, is given besides: a seed, queues, an MTU, a user.

As resources of a VM: on record before they are there, gone with it, proven held while they are.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pwd
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pycdlib
import pytest

from hvtx.engine.vm_user import check_user
from hvtx.errors import NotFound, NotPermitted
from hvtx.model.user import is_own
from integration import lab
from integration.kernel.test_vm_process import needs_qemu
from integration.lab import vmm_stand_in
from integration.lab.program import Forked, preload
from integration.lab.waiting import until

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"
SECRET = "swordfish-of-the-guest"
SLEEP = ("--", "sleep", "600")
TUNSETIFF, TUNSETQUEUE, TUNSETOFFLOAD = 0x400454CA, 0x400454D9, 0x400454D0
TUNGETVNETHDRSZ, TUNSETVNETHDRSZ = 0x800454D7, 0x400454D8
FLAGS = 0x2 | 0x1000 | 0x4000 | 0x100  # TAP, NO_PI, VNET_HDR, MULTI_QUEUE
DETACH = 0x400


@pytest.fixture
def place() -> Path:
    """A directory that every user may pass."""
    return lab.open_place()


@pytest.fixture
def hvtx(netns: None) -> Iterator[Forked]:
    preload()
    made = Forked()
    made("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "--mtu", "1400")  # fmt: skip
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


@pytest.fixture
def key(place: Path) -> str:
    path = place / "id.pub"
    path.write_text(f"{KEY}\n")
    return str(path)


@pytest.fixture
def init(place: Path) -> Path:
    path = place / "init"
    path.write_bytes(b"#!/bin/sh\n# \xff " + SECRET.encode() + b"\n")
    path.chmod(0o600)
    return path


def inside(path: str) -> dict[str, bytes]:
    disk = pycdlib.PyCdlib()
    disk.open(path)
    found = {}
    for name in ("user-data", "meta-data", "network-config"):
        content = io.BytesIO()
        disk.get_file_from_iso_fp(content, rr_path=f"/{name}")
        found[name] = content.getvalue()
    disk.close()
    return found


def seed_of(vm: dict) -> str:
    (path,) = [r["key"] for r in vm["resources"] if r["key"].endswith("/seed.iso")]
    return str(path)


# -- the seed ------------------------------------------------------------------------------------------


def test_a_seed_comes_and_goes_with_its_vm(hvtx: Forked, key: str, init: Path) -> None:
    """Closed, its user's, byte by byte; said to the process; and nothing secret is kept of it."""
    words = ("--", "sh", "-c", 'wc -c <"$HVTX_SEED"; exec sleep 600')
    vm = hvtx("vm", "run", "web", "--network", "net", "--user-data", str(init), "--ssh-key", key, "--json", *words).json()  # fmt: skip
    assert (vm["user_data"], vm["ssh_keys"]) == (str(init), [KEY])
    path = seed_of(vm)
    seen = os.stat(path)
    assert (seen.st_mode & 0o7777, seen.st_uid) == (0o600, vm["user"])
    until("read by its process", lambda: str(seen.st_size) in hvtx("vm", "logs", "web").out)
    made = inside(path)
    assert made["user-data"] == init.read_bytes()
    assert json.loads(made["meta-data"]) == {
        "instance-id": vm["id"], "local-hostname": "web", "public-keys": [KEY],
    }  # fmt: skip
    card = json.loads(made["network-config"])["ethernets"]["eth0"]
    first = vm["interfaces"][0]
    assert card["match"] == {"macaddress": first["mac"]}
    assert card["mtu"] == first["mtu"] == 1400
    assert card["addresses"] == [f"{first['ipv4']}/24", f"{first['ipv6']}/64"]
    # the record, the history and the log know the file's name, and no word of it
    kept = b"".join(p.read_bytes() for p in Path(os.environ["HVTX_STATE_DIR"]).rglob("*") if p.is_file())  # fmt: skip
    assert str(init).encode() in kept
    assert SECRET.encode() not in kept
    init.write_text("#cloud-config\n{}\n")
    vm = hvtx("vm", "restart", "web", "--timeout", "0", "--json").json()
    assert inside(seed_of(vm))["user-data"] == b"#cloud-config\n{}\n"
    assert json.loads(inside(seed_of(vm))["meta-data"])["instance-id"] == vm["id"]
    hvtx("vm", "stop", "web", "--timeout", "0")
    assert not Path(path).parent.exists()
    assert hvtx.is_clean()
    assert not list(Path(os.environ["HVTX_RUN_DIR"]).rglob("*seed*"))


def test_a_vm_without_has_what_it_had(hvtx: Forked) -> None:
    """No row more, no file, no word in its environment."""
    vm = hvtx("vm", "run", "web", "--network", "net", "--json", "--", "sh", "-c", "env; exec sleep 600").json()  # fmt: skip
    files = [r["key"] for r in vm["resources"] if r["kind"] == "file"]
    assert [Path(path).name for path in files] == [vm["id"]]
    until("its environment", lambda: "HVTX_TAP" in hvtx("vm", "logs", "web").out)
    said = hvtx("vm", "logs", "web").out
    assert "HVTX_SEED" not in said
    assert "HVTX_MTU=1400\n" in said
    assert "HVTX_QUEUES=1\n" in said


def test_a_crashed_vms_seed_is_collected(hvtx: Forked, key: str) -> None:
    vm = hvtx("vm", "run", "web", "--network", "net", "--ssh-key", key, "--json", *SLEEP).json()
    path = seed_of(vm)
    assert ("skip", "vm-alive") in hvtx.reasons("file", path)
    lab.end(vm["pid"])
    assert ("delete", "vm-dead") in hvtx.reasons("file", path)
    hvtx("gc", "--apply")
    assert not Path(path).exists()
    assert hvtx.is_clean()


@pytest.mark.parametrize("point", ["acted:file", "acted:tap", "spawned", "registered"])
def test_a_start_that_is_killed_leaves_no_seed(hvtx: Forked, key: str, point: str) -> None:
    hvtx("vm", "create", "web", "--network", "net", "--ssh-key", key, *SLEEP)
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    assert list(Path(os.environ["HVTX_RUN_DIR"]).rglob("seed.iso")), "it was there"
    hvtx("recover")
    assert not list(Path(os.environ["HVTX_RUN_DIR"]).rglob("*seed*"))
    assert hvtx.is_clean()


def test_files_that_are_none_change_nothing(hvtx: Forked, place: Path, key: str) -> None:
    """At once, before the VM is on record; and at a start, before anything is made."""
    private = place / "id"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
    create = ("vm", "create", "web", "--network", "net")
    for code, words in (
        (2, ("--ssh-key", str(private))),
        (3, ("--ssh-key", str(place / "gone"))),
        (2, ("--ssh-key", str(place))),
        (3, ("--user-data", str(place / "gone"))),
        (2, ("--user-data", str(place))),
        (2, ("--queues", "0")),
        (2, ("--queues", "257")),
        (3, ("--user", "no-such-user-here")),
        (2, ("--user", "a b")),
        (2, ("--user", "4294967295")),
        (5, ("--user", "0")),
    ):
        ran = hvtx(*create, *words, *SLEEP, code=code)
        assert words[0] in ran.err or "private key" in ran.err, ran.err
        assert "hint:" in ran.err
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    given = place / "given"
    given.write_text("x")
    hvtx(*create, "--user-data", str(given), *SLEEP)
    given.unlink()
    before = lab.dump()
    assert "user-data" in hvtx("vm", "start", "web", code=3).err
    assert lab.difference(before, lab.dump()) == ""


def test_it_is_set_and_taken_away(hvtx: Forked, key: str, init: Path) -> None:
    """Of a VM that does not run; the history says which, and not what they hold."""
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    hvtx("vm", "set", "web", "--user-data", str(init), "--ssh-key", key, "--queues", "3", "--user", "12345")  # fmt: skip
    vm = hvtx.vm("web")
    assert (vm["user_data"], vm["ssh_keys"], vm["queues"], vm["user"]) == (str(init), [KEY], 3, "12345")  # fmt: skip
    assert "user_data" in hvtx("log", "--vm", "web").out
    hvtx("vm", "start", "web")
    hvtx("vm", "set", "web", "--queues", "1", code=4)
    hvtx("vm", "stop", "web", "--timeout", "0")
    hvtx("vm", "set", "web", "--no-user-data", "--no-ssh-key", "--no-user", "--queues", "1")
    vm = hvtx.vm("web")
    assert (vm["user_data"], vm["ssh_keys"], vm["queues"], vm["user"]) == (None, [], 1, None)
    hvtx("vm", "set", "web", "--no-user", "--user", "1", code=2)
    hvtx("vm", "set", "web", "--user", "no-such-user-here", code=3)


def test_a_removed_vm_is_made_again_as_it_was(hvtx: Forked, key: str, init: Path) -> None:
    hvtx("vm", "create", "web", "--network", "net", "--user-data", str(init), "--ssh-key", key,
         "--queues", "2", "--user", "12345", *SLEEP)  # fmt: skip
    before = hvtx.vm("web")
    hvtx("vm", "rm", "web")
    hvtx("vm", "create", "web", "--from-log")
    after = hvtx.vm("web")
    for name in ("user_data", "ssh_keys", "queues", "user"):
        assert after[name] == before[name] is not None, name


# -- queues ----------------------------------------------------------------------------------------------


def queue(device: str, *, disabled: bool = False) -> int:
    """A queue of a device, held by this process."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), FLAGS))
    if disabled:
        fcntl.ioctl(descriptor, TUNSETQUEUE, struct.pack("16sH22x", b"", DETACH))
    return descriptor


def test_a_device_has_as_many_queues_as_are_opened(hvtx: Forked) -> None:
    """Its own, in the kernel's words; one queue is the plain device of ever."""
    hvtx("vm", "run", "web", "--network", "net", "--queues", "4", *SLEEP)
    hvtx("vm", "run", "one", "--network", "net", *SLEEP)
    device = hvtx.device("web")
    held = [queue(device) for _ in range(4)]
    shown = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))[0]["linkinfo"]
    assert shown["info_data"]["multi_queue"] is True
    assert shown["info_data"]["numqueues"] == 4
    for descriptor in held:
        os.close(descriptor)
    plain = json.loads(lab.run("ip", "-j", "-d", "link", "show", hvtx.device("one")))[0]["linkinfo"]
    assert plain["info_data"]["multi_queue"] is False


@pytest.mark.parametrize("disabled", [False, True], ids=["in use", "switched off"])
@pytest.mark.parametrize("command", ["gc", "stop", "recover"])
def test_a_queue_that_anybody_holds_keeps_all_of_its_vm(
    hvtx: Forked, command: str, disabled: bool
) -> None:
    """The process of the VM is dead, and one of four queues is somebody's, in whatever state."""
    vm = hvtx("vm", "run", "web", "--network", "net", "--queues", "4", "--json", *SLEEP).json()
    device = hvtx.device("web")
    held = queue(device, disabled=disabled)
    try:
        lab.end(vm["pid"])
        before = lab.dump()
        assert ("skip", "in-use") in hvtx.reasons("tap", device)
        if command == "stop":
            assert device in hvtx("vm", "stop", "web", code=9).err
        else:
            hvtx(*(("gc", "--apply") if command == "gc" else ("recover",)), code=None)
        assert lab.difference(before, lab.dump()) == ""
        assert "persist on" in lab.run("ip", "-d", "link", "show", device)
    finally:
        os.close(held)
    hvtx("gc", "--apply")
    assert device not in lab.run("ip", "-o", "link")
    assert hvtx.is_clean()


@needs_qemu
def test_qemu_takes_all_queues_and_the_seed(hvtx: Forked, key: str, place: Path) -> None:
    """A real one, as a user of its own, under emulation: each queue is one of its descriptors."""
    disk = place / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o666)
    vm = hvtx("vm", "run", "web", "--network", "net", "--disk", str(disk), "--ssh-key", key,
              "--queues", "4", "--cpus", "2", "--json", HVTX_QEMU_ACCEL="tcg").json()  # fmt: skip
    assert vm["state"] == "running"
    assert vm["vhost"] is False  # which KVM alone makes worth while
    assert is_own(vm["user"])
    fds = Path(f"/proc/{vm['pid']}/fdinfo")
    device = vm["interfaces"][0]["device"]
    names = [re.search(r"^iff:\t(\S*)", p.read_text(), re.MULTILINE) for p in fds.iterdir()]
    assert len([found for found in names if found]) == 4
    shown = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))[0]["linkinfo"][
        "info_data"
    ]
    assert shown["numqueues"] + shown["numdisabled"] == 4
    words = Path(f"/proc/{vm['pid']}/cmdline").read_text()
    assert "mq=on,vectors=10" in words
    assert "host_mtu=1400" in words
    assert ("skip", "vm-alive") in hvtx.reasons("tap", device)
    hvtx("vm", "stop", "web", "--force")
    assert hvtx.is_clean()


@pytest.mark.parametrize("hypervisor", ["firecracker", "cloud-hypervisor"])
def test_others_are_given_it_too(
    hvtx: Forked,
    key: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hypervisor: str,
) -> None:
    """Stand-ins that speak as they do: the seed is a disk, by its name in their directory."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / hypervisor
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {vmm_stand_in.__file__} {hypervisor} "$@"\n')  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TALKER", str(place))
    kernel = place / "vmlinux"
    kernel.write_bytes(b"x")
    queues = ("--queues", "2", "--cpus", "2") if hypervisor == "cloud-hypervisor" else ()
    vm = hvtx("vm", "run", "web", "--network", "net", "--hypervisor", hypervisor, "--kernel",
              str(kernel), "--ssh-key", key, *queues, "--json").json()  # fmt: skip
    room = Path(seed_of(vm)).parent
    told = Path(f"/proc/{vm['pid']}/cmdline").read_text()
    if hypervisor == "firecracker":
        told += (room / "firecracker.json").read_text()
    assert "seed.iso" in told
    assert Path(f"/proc/{vm['pid']}/cwd").readlink() == room
    if queues:
        assert "num_queues=4" in told
        shown = json.loads(lab.run("ip", "-j", "-d", "link", "show", hvtx.device("web")))[0]
        assert shown["linkinfo"]["info_data"]["multi_queue"] is True
    hvtx("vm", "stop", "web", "--force")
    refused = ("--hypervisor", hypervisor, "--kernel", str(kernel), "--queues", "4")
    hvtx("vm", "create", "two", "--network", "net", *refused, code=2)


# -- the user --------------------------------------------------------------------------------------------


def owner(device: str) -> int:
    shown = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))[0]["linkinfo"]
    given = shown["info_data"]["user"]  # iproute2 says names
    return pwd.getpwnam(given).pw_uid if not str(given).isdigit() else int(given)


def test_a_vm_runs_as_its_own_user(hvtx: Forked) -> None:
    """By name or number, whatever the others run as; its device and its directory are that user's."""
    other = next(u for u in pwd.getpwall() if u.pw_name == "daemon")
    for name, user, uid in (("a", "daemon", other.pw_uid), ("b", "54321", 54321), ("c", "auto", None)):  # fmt: skip
        vm = hvtx("vm", "run", name, "--network", "net", "--user", user, "--json", *SLEEP).json()
        seen = os.stat(f"/proc/{vm['pid']}")
        assert seen.st_uid == owner(vm["interfaces"][0]["device"])
        assert is_own(seen.st_uid) if uid is None else seen.st_uid == uid
        assert vm["user"] == (seen.st_uid if uid is None else user)
    vm = hvtx("vm", "run", "d", "--network", "net", "--json", *SLEEP).json()
    assert is_own(vm["user"])
    hvtx("vm", "run", "e", "--network", "net", "--user", "root", *SLEEP)
    assert os.stat(f"/proc/{hvtx.vm('e')['pid']}").st_uid == 0


def test_the_device_of_an_external_vm_is_its_users(hvtx: Forked) -> None:
    """Who may open it without any capability; hvtx starts nothing as that user."""
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external", "--user", "54321", "--queues", "2")  # fmt: skip
    device = hvtx("vm", "start", "web", "--json").json()["interfaces"][0]["device"]
    assert owner(device) == 54321
    assert hvtx.vm("web")["user"] == "54321"
    script = (
        "import fcntl, os, struct\n"
        "d = os.open('/dev/net/tun', os.O_RDWR)\n"
        f"fcntl.ioctl(d, {TUNSETIFF}, struct.pack('16sH22x', {device.encode()!r}, {FLAGS}))\n"
    )
    for uid, code in (("54321", 0), ("54322", 1)):
        ran = subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", "python3", "-c", script],
            capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert ran.returncode == code, ran.stderr
    hvtx("vm", "create", "two", "--network", "net", "--hypervisor", "external", "--user", "nobody-here", code=3)  # fmt: skip


def test_a_restart_makes_a_device_without_anybodys_settings(hvtx: Forked) -> None:
    """A TAP keeps its header's size (and offloads) for who comes next (findings/tap-keeps-offloads.sh)."""

    def attached() -> int:
        device = hvtx.vm("web")["interfaces"][0]["device"]
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", device.encode(), FLAGS & ~0x100))
        return tap

    def header(tap: int) -> int:
        return int.from_bytes(fcntl.ioctl(tap, TUNGETVNETHDRSZ, bytes(4)), sys.byteorder)

    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "web")
    tap = attached()
    assert header(tap) == 10
    fcntl.ioctl(tap, TUNSETVNETHDRSZ, struct.pack("i", 12))
    fcntl.ioctl(tap, TUNSETOFFLOAD, 0x1 | 0x2 | 0x4)
    os.close(tap)
    tap = attached()
    assert header(tap) == 12
    os.close(tap)
    hvtx("vm", "restart", "web")
    tap = attached()
    assert header(tap) == 10
    os.close(tap)


def test_who_could_write_the_store_runs_no_vm(tmp_path: Path) -> None:
    """The option is held to what the setting is held to; of an external VM it starts nothing."""
    above = tmp_path / "theirs"
    above.mkdir(mode=0o755)
    check_user("54321", "qemu", "aaaaaaaaaa", str(above / "state"))
    os.chown(above, 54321, 0)
    for wanted, error in (("54321", NotPermitted), ("0", NotPermitted), ("no-such-user", NotFound)):
        with pytest.raises(error, match="--user"):
            check_user(wanted, "qemu", "aaaaaaaaaa", str(above / "state"))
    check_user("54321", "external", "aaaaaaaaaa", str(above / "state"))
    with pytest.raises(NotFound, match="--user"):
        check_user("no-such-user", "external", "aaaaaaaaaa", str(above / "state"))
