"""Least privilege: each line of docs/privileges.md, with exactly what it names and without each of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine import units
from hvtx.model.user import is_own
from integration import lab
from integration.lab import unprivileged, witness
from integration.lab.program import Ran
from integration.lab.unprivileged import Unprivileged

PAGE = Path(__file__).resolve().parents[2] / "docs/privileges.md"
START = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_KILL")  # processes of other users
ALL = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_DAC_READ_SEARCH", *START)
SLEEP = ("--", "sleep", "600")


def table() -> dict[str, dict[str, tuple[str, ...]]]:
    """command -> backend -> capabilities, as the page has them."""
    rows = re.findall(
        r"^\| `([^`]+)` \| ([A-Z_ -]+) \| ([A-Z_ -]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    names = {command: {"nftables": one, "iptables": two} for command, one, two in rows}
    return {
        command: {backend: tuple(text.replace("-", "").split()) for backend, text in cells.items()}
        for command, cells in names.items()
    }


@pytest.fixture
def home(netns: None) -> Iterator[Path]:
    with unprivileged.open_home() as path:
        yield path


@pytest.fixture
def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Unprivileged:
    """Another user with all capabilities of the page; the witness looks at that user's store."""
    program = Unprivileged(home, *ALL)
    monkeypatch.setenv("HVTX_STATE_DIR", program.environment["HVTX_STATE_DIR"])
    return program


def death_of(pid: int) -> None:
    """End a process that a test started, and wait until it is dead (nobody here may reap it)."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for _ in range(6000):
            if re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
                return
            time.sleep(0.01)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(descriptor)
    raise AssertionError(f"{pid} does not die")


def crash(user: Unprivileged, name: str) -> None:
    death_of(user.vm(name)["pid"])


@contextlib.contextmanager
def sleeper() -> Iterator[int]:
    """A process of root's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


# What is called for each line of the table, in an order in which all of them can succeed.
CALLS: dict[str, tuple[str, ...]] = {
    "network create": ("network", "create", "two", "--subnet", "10.78.0.0/24"),
    "network set": ("network", "set", "lan", "--egress", "internet"),
    "network ls": ("network", "ls"),
    "network show": ("network", "show", "lan"),
    "vm create": ("vm", "create", "made", "--network", "lan", *SLEEP),
    "vm run": ("vm", "run", "third", "--network", "lan", "-p", "8082:80", *SLEEP),
    "vm ls": ("vm", "ls"),
    "vm show": ("vm", "show", "up"),
    "vm logs": ("vm", "logs", "up"),
    "vm set": ("vm", "set", "up", "--publish", "8083:83"),
    "vm restart": ("vm", "restart", "up"),
    "vm attach": ("vm", "attach", "theirs", "--pid", "{pid}"),
    "intents": ("intents",),
    "log": ("log",),
    "doctor": ("doctor",),
    "explain": ("explain", "8080"),
    "metrics": ("metrics",),
    "store backup": ("store", "backup", "{home}/backup.db"),
    "completion": ("completion", "bash"),
    "cni print": ("cni", "print"),
    "systemd print": ("systemd", "print"),
    "gc --plan": ("gc", "--plan"),
    "gc --heuristic --plan": ("gc", "--heuristic", "--plan"),
    "gc --heuristic --apply": ("gc", "--heuristic", "--apply", "--yes"),
    "repair": ("repair",),
    "recover": ("recover",),
    "gc --apply": ("gc", "--apply"),
    "vm start": ("vm", "start", "idle"),
    "vm stop": ("vm", "stop", "up"),
    "vm rm": ("vm", "rm", "spare"),
    "vm rm --force": ("vm", "rm", "last", "--force"),
    "network rm": ("network", "rm", "empty"),
}
# Where a line needs nothing and the command tells of what it could not see, or has nothing to do.
EXITS = {"doctor": (0, 1)}


def test_the_page_and_the_calls_speak_of_the_same_commands() -> None:
    assert set(table()) == set(CALLS)


@pytest.fixture(params=["nftables", "iptables"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peopled(user: Unprivileged, backend: str) -> Iterator[Unprivileged]:
    """A network with a VM that is up, one at rest, one that is dead, one of somebody else's.

    Somebody else has a rule in a legacy table.
    """
    lab.run("iptables-legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT")
    user("--firewall", backend, "network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("--firewall", backend, "network", "create", "empty", "--subnet", "10.79.0.0/24")
    user("vm", "run", "up", "--network", "lan", "-p", "8080:80", *SLEEP)
    user("vm", "run", "last", "--network", "lan", *SLEEP)
    for name in ("idle", "spare"):
        user("vm", "create", name, "--network", "lan", *SLEEP)
    user("vm", "run", "dead", "--network", "lan", "-p", "8081:80", *SLEEP)
    user("vm", "run", "theirs", "--network", "lan", "--hypervisor", "external")
    crash(user, "dead")
    yield user
    for name in ("up", "last", "idle", "third", "theirs"):
        user("vm", "rm", name, "--force", code=None)


def test_each_command_with_what_it_needs_and_without(peopled: Unprivileged, backend: str) -> None:
    """The table, cell by cell: too little is told by name and changes nothing; enough is enough."""
    peopled.environment["HVTX_FIREWALL"] = backend
    with sleeper() as pid:
        calls = {
            command: tuple(
                word.format(pid=pid, home=peopled.environment["HVTX_STATE_DIR"])
                if "{" in word
                else word
                for word in argv
            )
            for command, argv in CALLS.items()
        }
        lines = table()
        with witness.unchanged():
            for command, argv in calls.items():
                for missing in (needed := lines[command][backend]):
                    ran = peopled.having(*(n for n in needed if n != missing))(*argv, code=None)
                    told(ran, command, missing)
        for command, argv in calls.items():
            ran = peopled.having(*lines[command][backend])(*argv, code=None)
            assert ran.code in EXITS.get(command, (0,)), (command, ran)
        assert peopled.is_clean(), peopled("gc", "--plan").out


def told(ran: Ran, command: str, missing: str) -> None:
    """A refusal: 5, one line that names what is missing, one that says the fix."""
    lines = ran.err.splitlines()
    assert ran.code == 5, (command, missing, ran)
    assert lines[0].startswith("error: "), (command, ran.err)
    assert missing in lines[0], (command, missing, ran.err)
    assert lines[1].startswith("hint: "), (command, ran.err)
    assert len(lines) == 2, (command, ran.err)


def test_the_units_have_what_the_page_asks_for() -> None:
    """The bounding set of each service is what the page's table says, and CAP_KILL is in none."""
    place = units.Place(
        ("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {}, "/var/lib/p/hvtx.prom"
    )
    told = dict(re.findall(r"^\| `(hvtx-[\w@]+)` \| ([A-Z_ ]+) \|", PAGE.read_text(), re.MULTILINE))
    services = [unit for unit in units.units(place) if unit.name.endswith(".service")]
    assert {unit.name.removesuffix(".service") for unit in services} == set(told)
    for unit in services:
        found = re.search(r"^CapabilityBoundingSet=(.*)$", unit.text, re.MULTILINE)
        assert found
        assert found[1].split() == told[unit.name.removesuffix(".service")].split(), unit.name
        assert "CAP_KILL" not in found[1]


# -- single capabilities -------------------------------------------------------------------------


def test_the_lock_of_iptables(user: Unprivileged, home: Path) -> None:
    """Root's lock is read with CAP_DAC_READ_SEARCH; one that is not there must be made."""
    lock = home / "root" / "xtables.lock"
    lock.parent.mkdir(mode=0o755)
    create = ("--firewall", "iptables", "network", "create", "lan", "--subnet", "10.77.0.0/24")
    with witness.unchanged():
        told(user(*create, code=None, XTABLES_LOCKFILE=str(lock)), "create", "CAP_DAC_OVERRIDE")
    lock.touch(0o600)
    user(*create, XTABLES_LOCKFILE=str(lock))


def test_a_tun_device_that_is_roots_own(user: Unprivileged) -> None:
    """Mode 0600, as some hosts have it: told before a VM is ended whose device could not go."""
    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("vm", "run", "up", "--network", "lan", *SLEEP)
    user("vm", "create", "idle", "--network", "lan", *SLEEP)
    shut = user.having(*ALL, tun=0o600)
    with witness.unchanged():
        for argv in (("vm", "stop", "up"), ("vm", "start", "idle"), ("vm", "run", "x", "--network", "lan", *SLEEP),
                     ("network", "create", "two", "--subnet", "10.78.0.0/24")):  # fmt: skip
            told(shut(*argv, code=None), argv[1], "/dev/net/tun")
        assert user.vm("up")["state"] == "running"
    user.having(*ALL, "CAP_DAC_OVERRIDE", tun=0o600)("vm", "stop", "up")


def test_a_vm_process_of_another_user(user: Unprivileged) -> None:
    """Ending it takes CAP_KILL, which is told before anything is released."""
    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("vm", "run", "theirs", "--network", "lan", "--hypervisor", "external")
    with sleeper() as pid:
        user("vm", "attach", "theirs", "--pid", str(pid))
        assert user.vm("theirs")["state"] == "running", "liveness needs no capability"
        with witness.unchanged():
            poor = user.having(*(name for name in ALL if name != "CAP_KILL"))
            told(poor("vm", "stop", "theirs", "--force", code=None), "stop", "CAP_KILL")
        user("vm", "stop", "theirs", "--force")
    assert user.vm("theirs")["state"] == "defined"


HOLDER = """
import fcntl, os, struct, sys
held = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(held, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(device: str) -> Iterator[int]:
    """A process of root's that has a TAP device open."""
    with subprocess.Popen(
        ["/usr/bin/env", "python3", "-c", HOLDER, device],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield holder.pid
        finally:
            holder.kill()


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_holder_that_may_not_be_looked_at_keeps_the_vm(user: Unprivileged, backend: str) -> None:
    """Without the right to look into a process its device is still met by the attach, and left."""
    user("--firewall", backend, "network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("vm", "run", "dead", "--network", "lan", "-p", "8080:80", *SLEEP)
    device = user.device("dead")
    crash(user, "dead")
    with held(device) as pid:
        items = user("gc", "--plan", "--json").json()["items"]
        item = next(i for i in items if (i["kind"], i["key"]) == ("tap", device))
        assert any("cannot inspect every process" in line for line in item["evidence"])
        before = lab.dump()
        items = user("gc", "--apply", "--json", code=None).json()["items"]
        assert lab.difference(before, lab.dump()) == "", "of a VM whose device is held nothing goes"
        outcomes = {
            i["outcome"]
            for i in items
            if i["kind"] in ("tap", "publish", "filter") and i["vm"] == "dead"
        }
        assert outcomes == {"skipped"}, items
        looking = user.having(*ALL, "CAP_SYS_PTRACE")
        told_of = [
            i for i in looking("gc", "--plan", "--json").json()["items"] if i["key"] == device
        ]
        assert {(i["action"], i["reason"]) for i in told_of if i["kind"] == "tap"} == {
            ("skip", "in-use")
        }
        assert any(f"pid {pid}" in i["message"] for i in told_of), told_of
    user("gc", "--apply")
    assert user.is_clean()


def test_what_is_not_on_record_stays_where_processes_cannot_be_looked_into(
    user: Unprivileged,
) -> None:
    """Who cannot see whether a VM runs removes nothing by a person's word; who can, does."""
    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    backup = str(Path(user.environment["HVTX_STATE_DIR"]) / "backup")
    user("store", "backup", backup)
    user("vm", "run", "later", "--network", "lan", "-p", "8080:80", *SLEEP)
    device, pid = user.device("later"), user.vm("later")["pid"]
    user("store", "restore", backup, "--force")
    user("recover", "--accept-rollback")
    death_of(pid)
    looking = user.having(*ALL, "CAP_SYS_PTRACE")
    with held(device):
        for who, code, outcome in ((user, 9, "failed"), (looking, 0, "skipped")):
            before = lab.dump()
            items = who("gc", "--apply", "--unrecorded", "--json", code=code).json()["items"]
            assert lab.difference(before, lab.dump()) == ""
            asked = [item for item in items if item["reason"] == "unrecorded"]
            assert {item["outcome"] for item in asked} == {outcome}, asked
            words = "run hvtx as root" if who is user else "on record lives: "
            assert [item for item in asked if words not in item["message"]] == []
    items = looking("gc", "--apply", "--unrecorded", "--json").json()["items"]
    assert {item["outcome"] for item in items if item["reason"] == "unrecorded"} == {"done"}
    assert device not in lab.run("ip", "-o", "link")


def test_legacy_tables_that_may_not_be_read_are_not_absent(user: Unprivileged) -> None:
    """Rows in tables that cannot be listed stay on record: nothing is called gone."""
    user("--firewall", "iptables", "network", "create", "lan", "--subnet", "10.77.0.0/24")
    poor = user.having("CAP_NET_ADMIN", *START)
    with witness.unchanged():
        document = poor("gc", "--plan", "--json", code=5).json()
        assert (document["refused"], document["items"]) == ("cannot-observe", [])
        told(poor("gc", "--apply", code=None), "gc --apply", "CAP_NET_RAW")


def test_without_own_legacy_rules_strangers_are_only_not_shown(user: Unprivileged) -> None:
    user("--firewall", "nftables", "network", "create", "lan", "--subnet", "10.77.0.0/24")
    lab.run(
        "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.9", "-j", "MASQUERADE"
    )
    poor = user.having("CAP_NET_ADMIN")("gc", "--plan")
    assert poor.err.startswith("note: ")
    assert "CAP_NET_RAW" in poor.err
    assert "10.77.0.9" not in poor.out
    assert "10.77.0.9" in user("gc", "--plan").out


def test_doctor_names_what_is_missing(user: Unprivileged) -> None:
    """Every capability of the page that is not there, as an error only where it keeps VMs from working."""

    checks = ("permissions", "tun")

    def levels(*capabilities: str) -> dict[str, str]:
        ran = user.having(*capabilities, tun=0o600)("doctor", "--json", code=None)
        found = {f["message"]: f["level"] for f in ran.json()["findings"] if f["check"] in checks}
        names = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE")
        found = {words: level for words, level in found.items() if level != "ok"}
        return {name: level for name in names for words, level in found.items() if name in words}

    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    assert levels() == {
        "CAP_NET_ADMIN": "error", "CAP_NET_RAW": "warning", "CAP_SYS_PTRACE": "warning", "CAP_DAC_OVERRIDE": "error",
    }  # fmt: skip
    user("--firewall", "iptables", "network", "create", "old", "--subnet", "10.78.0.0/24")
    assert levels("CAP_NET_ADMIN", "CAP_DAC_OVERRIDE")["CAP_NET_RAW"] == "error"
    assert levels(*ALL, "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE") == {}


# -- what VMs and other users get ----------------------------------------------------------------


def test_a_vm_process_inherits_no_capability(user: Unprivileged) -> None:
    """hvtx has them as ambient capabilities, which a program would inherit; the VM has none."""
    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("vm", "run", "up", "--network", "lan", *SLEEP)
    status = Path(f"/proc/{user.vm('up')['pid']}/status").read_text()
    seen = dict(re.findall(r"^(CapPrm|CapEff|CapAmb):\s+(\w+)$", status, re.MULTILINE))
    assert seen == dict.fromkeys(("CapPrm", "CapEff", "CapAmb"), "0" * 16)
    assert f"Uid:\t{user.vm('up')['user']}\t" in status
    assert is_own(user.vm("up")["user"])
    user(
        "vm", "stop", "up"
    )  # hvtx kept its own: the tables of the other test are read after a spawn


def attach(device: str, user: int) -> str:
    """Open a TAP device as a user without capabilities; "attached" or the kernel's answer."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            unprivileged.own_tun(0o666)
            unprivileged.become((), user=user)
            import fcntl
            import struct

            fcntl.ioctl(
                os.open("/dev/net/tun", os.O_RDWR),
                0x400454CA,
                struct.pack("16sH22x", device.encode(), 0x5002),
            )
            os.write(write, b"attached")
        except OSError as problem:
            os.write(write, (problem.strerror or "?").encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as answer:
        return answer.read().decode()


def test_no_other_user_takes_a_tap_device(user: Unprivileged) -> None:
    """A persistent TAP without an owner is anybody's; ours is its VM's user's."""
    user("network", "create", "lan", "--subnet", "10.77.0.0/24")
    user("vm", "run", "up", "--network", "lan", *SLEEP)
    for other in (12345, unprivileged.USER, user.vm("up")["user"] + 1):
        assert attach(user.device("up"), other) == "Operation not permitted"
    assert attach(user.device("up"), user.vm("up")["user"]) == "attached"
    user("vm", "rm", "up", "--force")
    external = ("--network", "lan", "--hypervisor", "external")
    user("vm", "run", "up", *external)
    assert attach(user.device("up"), 12345) == "Operation not permitted"
    assert attach(user.device("up"), unprivileged.USER) == "attached"
    user("vm", "rm", "up", "--force")
    user("vm", "run", "up", *external, HVTX_TAP_USER="12345")
    assert attach(user.device("up"), unprivileged.USER) == "Operation not permitted"
    assert attach(user.device("up"), 12345) == "attached"
    user("vm", "rm", "up", "--force")
    ran = user("vm", "run", "up", "--network", "lan", *SLEEP, HVTX_TAP_USER="no-such-user", code=2)
    assert "no-such-user" in ran.err
