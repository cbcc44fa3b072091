"""What a host lacks: said by the command that fails for it, and by `doctor` before that.

Each lack is planted in a mount namespace of its own. And what such a failure leaves: a store that
is bound to no network namespace as long as nothing is on record.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.engine.packaged_units import packaged
from hvtx.engine.units import Place, units
from hvtx.host import libnftables
from integration import lab
from integration.lab import witness
from integration.lab.program import Program, Ran

SLEEP = ("--", "sleep", "60")
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24")
TUN = "/dev/net/tun"


@pytest.fixture
def hvtx() -> Program:
    return Program(HVTX_FIREWALL="nftables")


def lacking(script: str, *arguments: str, **environment: str) -> Ran:
    """The program after ``script`` has taken something from its mount namespace."""
    argv = ["unshare", "-m", "sh", "-ec", f'mount --make-rprivate /; {script}; exec "$@"', "sh"]
    done = subprocess.run(
        [*argv, sys.executable, "-m", "hvtx", *arguments],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, "HVTX_FIREWALL": "nftables", **environment},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def findings(ran: Ran, check: str) -> list[tuple[str, str, str]]:
    """(level, message, hint) of what `doctor --json` says in a check."""
    found = ran.json()["findings"]
    return [(f["level"], f["message"], f["hint"] or "") for f in found if f["check"] == check]


def library() -> str:
    """The file of libnftables."""
    ctypes.CDLL(libnftables.LIBRARY)
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"(/\S*libnftables\.so\S*)$", maps, re.MULTILINE)
    assert found
    return found[1]


def test_a_host_that_lacks_nothing(hvtx: Program) -> None:
    """Then doctor is quiet about each of the lacks below."""
    document = hvtx("doctor", "--json", code=0)
    for check in ("tun", "libraries", "netfilter", "hypervisors"):
        assert [level for level, _, _ in findings(document, check)] == ["ok"], check
    assert findings(document, "units") == []


IN_ITS_PLACE = {
    "nothing": (":", f"this host has no {TUN}", "modprobe tun"),
    "a file": (f"touch {TUN}", f"{TUN} is a regular file, not the tun device", f"rm {TUN}; mknod"),
    "a directory": (f"mkdir {TUN}", f"{TUN} is a directory, not the tun device", f"rmdir {TUN}"),
    "a pipe": (f"mkfifo {TUN}", f"{TUN} is a FIFO, not the tun device", f"rm {TUN}; mknod"),
    "null": (f"mknod {TUN} c 1 3", f"{TUN} is the character device 1:3, not", f"rm {TUN}; "),
    "nobody's": (f"mknod {TUN} c 10 254", f"{TUN} is the character device 10:254", f"rm {TUN}; "),
}


@pytest.mark.parametrize("case", IN_ITS_PLACE)
def test_something_else_in_the_place_of_tun(hvtx: Program, case: str) -> None:
    """6, undone, for a network as for a VM; doctor says the same, with the fix."""
    made, words, fix = IN_ITS_PLACE[case]
    # a tmpfs of a fresh mount takes device nodes; /dev/net may be one that does not
    script = f"mount -t tmpfs -o dev none /dev/net; {made}"
    hvtx(*NETWORK)
    for argv in (
        ("network", "create", "two", "--subnet", "10.78.0.0/24"),
        ("vm", "run", "web", "--network", "net", *SLEEP),
    ):
        with witness.undone():
            ran = lacking(script, *argv)
            assert (ran.code, words in ran.err) == (6, True), ran
            assert f"hint: {fix}" in ran.err or "modprobe tun" in fix, ran
    doctor = lacking(script, "doctor", "--json")
    assert doctor.code == 1
    ((level, message, hint),) = findings(doctor, "tun")
    assert level == "error"
    assert words in message
    assert fix in hint
    told = [f for f in doctor.json()["findings"] if f["hint"] and "chmod 666" in f["hint"]]
    assert told == [], "there is no tun device whose mode could be wrong"
    assert hvtx.is_clean()


def test_the_fix_of_tun_fixes(hvtx: Program) -> None:
    """What the hint says, done as it stands there."""
    script = "mount -t tmpfs -o dev none /dev/net; touch /dev/net/tun"
    ((_, _, fix),) = findings(lacking(script, "doctor", "--json"), "tun")
    hvtx(*NETWORK)
    ran = lacking(f"{script}; {fix}", "vm", "run", "web", "--network", "net", *SLEEP)
    assert ran.code == 0, ran
    hvtx("vm", "rm", "web", "--force")


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_without_libnftables(hvtx: Program, firewall: str) -> None:
    """No network can be made, of either backend: doctor ends with 1, and names the package."""
    script = f"mount --bind /dev/null {library()}"
    doctor = lacking(script, "doctor", "--json")
    assert doctor.code == 1
    ((level, message, hint),) = findings(doctor, "libraries")
    assert level == "error"
    assert libnftables.LIBRARY in message
    assert "apt install libnftables1" in hint
    ran = lacking(script, *NETWORK, HVTX_FIREWALL=firewall)
    assert ran.code == 6, ran
    assert "libnftables1" in ran.err
    assert hvtx.is_clean()
    with lab.private_network():  # the failure left a store, and nothing that binds it
        hvtx(*NETWORK)
        hvtx("network", "rm", "net")


def test_without_qemu(hvtx: Program, tmp_path: Path) -> None:
    """An error with the package's name, on a fresh host too; a warning where no VM needs it."""
    bare = {"PATH": str(tmp_path)}
    doctor = hvtx("doctor", "--json", code=1, **bare)
    ((level, message, hint),) = findings(doctor, "hypervisors")
    assert level == "error"
    assert "qemu-system-" in message
    assert "apt install qemu-system-x86" in hint
    hvtx(*NETWORK)
    hvtx("vm", "create", "other", "--network", "net", "--", "sleep", "999")
    ((level, message, _),) = findings(hvtx("doctor", "--json", **bare), "hypervisors")
    assert (level, "VMs of qemu cannot start" in message) == ("warning", True)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    hvtx("vm", "create", "web", "--network", "net", "--disk", str(disk))
    ((level, message, _),) = findings(hvtx("doctor", "--json", code=1, **bare), "hypervisors")
    assert level == "error"
    assert "VMs that need it cannot start: web" in message
    assert [x[0] for x in findings(hvtx("doctor", "--json"), "hypervisors")] == ["ok"]


def test_copies_that_hide_the_packages_units(hvtx: Program) -> None:
    """doctor tells, since a boot would use the copies and not what an upgrade brought."""
    place = Place(("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {})
    script = "mount -t tmpfs none /etc/systemd/system; mount -t tmpfs none /usr/lib/systemd/system"
    for directory, made in (("usr/lib", packaged()), ("etc", units(place))):
        for unit in made:
            script += f"; cat >/{directory}/systemd/system/{unit.name} <<'END'\n{unit.text}END\n:"
    ((level, message, hint),) = findings(lacking(script, "doctor", "--json"), "units")
    assert (level, hint) == ("warning", "hvtx systemd install")
    assert "hide the units" in message


# -- a store with nothing in it --------------------------------------------------------------------


def test_an_empty_store_belongs_to_no_namespace(hvtx: Program) -> None:
    """After a failure, and after everything was removed; with a network on record it does."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "lo", code=None)
    with lab.private_network():
        assert hvtx.is_clean()
        hvtx(*NETWORK)
        with lab.private_network():
            hvtx("gc", "--plan", code=4)
            hvtx("network", "create", "two", "--subnet", "10.78.0.0/24", code=4)
            hvtx("recover", code=4)
        hvtx("vm", "run", "web", "--network", "net", *SLEEP)
        hvtx("vm", "rm", "web", "--force")
        hvtx("network", "rm", "net")
    hvtx(*NETWORK)
    assert hvtx.is_clean()
    hvtx("vm", "run", "web", "--network", "net", "--autostart", *SLEEP)
    hvtx("vm", "stop", "web")
    hvtx("recover")
    assert hvtx("vm", "show", "web", "--json").json()["state"] == "defined", "this life is no boot"


BEGINNING = """
import os, sys
from hvtx.commands import network_create
from hvtx.engine.new_network import NetworkRequest
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import Refused

runtime = Runtime(Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"]), writable=True)
assert runtime.refused is None
if sys.argv[1] == "entered":
    runtime.enter()
print("ready", flush=True)
sys.stdin.readline()
try:
    network_create.create_network(runtime, NetworkRequest("other", ("10.79.0.0/24",)))
except Refused as refused:
    print(refused.code)
"""


def test_of_two_that_move_an_empty_store_one_is_refused(hvtx: Program) -> None:
    """Who came before another moved it may begin nothing: it would be on record as elsewhere's."""
    hvtx(*NETWORK)
    hvtx("network", "rm", "net")
    before = lab.dump()
    beginners = []
    for prefix, how in (([], "entered"), (["unshare", "-n"], "opened")):
        beginner = subprocess.Popen(
            [*prefix, sys.executable, "-c", BEGINNING, how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert beginner.stdout is not None
        assert beginner.stdout.readline() == "ready\n"
        beginners.append(beginner)
    with lab.private_network():
        hvtx(*NETWORK)
    said = [beginner.communicate("go\n", timeout=60)[0] for beginner in beginners]
    assert said == ["wrong-namespace\n"] * 2
    assert lab.difference(before, lab.dump()) == ""


# -- directories and services ----------------------------------------------------------------------

UNSAFE = {
    "everybody's": ("chmod 777 {}", "is not safe: it is world-writable (mode 0777)"),
    "somebody else's": ("chown 12345 {}", "is not safe: it belongs to user 12345"),
    "read-only": (
        "mount --bind {0} {0}; mount -o remount,bind,ro {0}",
        "is on a file system that is mounted read-only",
    ),
}


@pytest.mark.parametrize("option", ["state", "run"])
@pytest.mark.parametrize("case", UNSAFE)
def test_directories_that_refuse_every_change(
    hvtx: Program, tmp_path: Path, case: str, option: str
) -> None:
    """What a change is refused for (7) is an error of doctor, whose fix ends it."""
    above = {name: tmp_path / name for name in ("state", "run")}
    for place in above.values():
        place.mkdir(mode=0o700)
    places = {f"HVTX_{name.upper()}_DIR": f"{path}/hvtx" for name, path in above.items()}
    hvtx(*NETWORK, **places)
    plant, words = (text.format(above[option]) for text in UNSAFE[case])
    try:
        refused = lacking(plant, "vm", "create", "web", "--network", "net", *SLEEP, **places)
        assert refused.code == 7, refused
        doctor = lacking(plant, "doctor", "--json", **places)
        assert doctor.code == 1
        ((level, message, hint),) = findings(doctor, "directories")
        assert (level, words in message, str(above[option]) in hint) == ("error", True, True)
        mended = f"{plant}; {hint.partition(', or')[0]}"
        healthy = lacking(mended, "doctor", "--json", **places)
        assert [level for level, _, _ in findings(healthy, "directories")] == ["ok"]
        assert lacking(mended, "network", "rm", "net", **places).code == 0
    finally:
        for path in above.values():
            os.chown(path, 0, 0)
            path.chmod(0o700)


def test_a_dnsmasq_that_does_not_run(hvtx: Program, tmp_path: Path) -> None:
    """doctor tells before a network is refused for it, and with which words it ends."""
    broken = tmp_path / "dnsmasq"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HVTX_DHCP": "auto"}
    hvtx("network", "create", "one", "--subnet", "10.78.0.0/24", "--no-dhcp")
    with witness.undone():
        refused = hvtx(*NETWORK, "--dhcp", code=6, **path)
    assert "hint: `dnsmasq --version` tells if it runs, " in refused.err
    ((level, message, hint),) = findings(hvtx("doctor", "--json", **path), "dhcp")
    assert level == "warning"
    assert f"{broken} --version: ended with status 127: it says nothing" in message
    assert f"{broken} --version" in hint
    hvtx("network", "rm", "one")


def test_a_bridge_of_an_unread_store_is_no_way_out(hvtx: Program, tmp_path: Path) -> None:
    """A store that cannot be opened leaves its bridges there: nobody reaches the world by them."""
    places = {"HVTX_STATE_DIR": str(tmp_path / "lost")}
    hvtx(*NETWORK, **places)
    damaged = {"HVTX_STATE_DIR": str(tmp_path / "damaged")}
    (tmp_path / "damaged").mkdir(mode=0o700)
    (tmp_path / "damaged" / "hvtx.db").write_bytes(bytes(4096))
    told = hvtx("doctor", "--json", code=1, **damaged)
    assert findings(told, "store")[0][0] == "error"
    assert [level for level, _, _ in findings(told, "forward")] == ["ok"], told
    hvtx("network", "rm", "net", **places)
