"""Whom VM processes run as, and what that keeps: a broken-out hypervisor harms only its own VM."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hvtx.drivers.file import mark_of
from hvtx.host import ioctl_filter, survivors
from hvtx.model.user import is_own
from integration import lab
from integration.commands.test_accelerator import network
from integration.kernel.test_vm_process import needs_qemu
from integration.lab import unprivileged
from integration.lab.processes import is_alive
from integration.lab.program import Forked, preload
from integration.lab.unprivileged import Unprivileged
from integration.lab.waiting import until
from integration.security.test_privileges import attach

SLEEP = ("--", "sleep", "600")
CAPABILITIES = ("CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_KILL")


@pytest.fixture
def hvtx(netns: None) -> Iterator[Forked]:
    preload()
    made = Forked()
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        made("vm", "rm", vm["name"], "--force", code=None)


@pytest.fixture
def place(netns: None) -> Iterator[Path]:
    """A directory that every user may pass."""
    with unprivileged.open_home() as path:
        yield path


def status(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status`` of a process."""
    return dict(
        re.findall(
            r"^(\w+):[ \t]*(.*?)[ \t]*$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
        )
    )


def as_user(uid: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a VM's user, without its namespaces."""
    ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    return subprocess.run(["setpriv", *ids, "--", *argv], capture_output=True, text=True, check=False)  # fmt: skip


def is_powerless(pid: int) -> bool:
    """Whether a process has no capability, and no way to get one."""
    seen = status(pid)
    none = all(
        int(seen[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    )
    return none and seen["NoNewPrivs"] == "1"


def run_directory(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


# -- what its program needs is in its reach ------------------------------------------------------------


def test_the_way_to_a_program_in_a_shut_directory_is_shown(hvtx: Forked, place: Path) -> None:
    """Its interpreter, what lies beside that, and a file that is named; nothing else of there."""
    home = place / "home"
    (home / "tools" / "bin").mkdir(parents=True)
    (home / "secret").write_text("nobody else's\n")
    (home / "told").write_text("as it was\n")
    interpreter = home / "tools" / "bin" / "interpreter"
    interpreter.write_text('#!/bin/sh\n. "${0%/*}/library"\nscript=$1; shift; . "$script"\n')
    (home / "tools" / "bin" / "library").write_text("echo a library\n")
    inner = home / "inner"
    inner.mkdir(mode=0o700)
    (place / "link").symlink_to(inner)
    program = inner / "program"
    program.write_text(
        f'#!{interpreter}\nid -u; cat "$1"; [ -e {home}/secret ] || echo hidden; exec sleep 600\n'
    )
    for path in (interpreter, program):
        path.chmod(0o755)
    home.chmod(0o700)
    mounts = Path("/proc/self/mountinfo").read_text()
    words = ("--", str(place / "link/program"), str(home / "told"))
    vm = hvtx("vm", "run", "web", "--json", *words).json()
    assert is_own(vm["user"])
    until("the program's words", lambda: "hidden" in hvtx("vm", "logs", "web").out)
    said = hvtx("vm", "logs", "web").out.split("\n")
    assert said[-5:-1] == ["a library", str(vm["user"]), "as it was", "hidden"]
    assert is_powerless(vm["pid"])
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert (home / "secret").read_text() == "nobody else's\n"
    hvtx("vm", "stop", "web", "--force")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    with contextlib.chdir(inner):
        made = hvtx("vm", "run", "here", "--json", "--", "./program", "../told").json()
    until("its words, by relative paths", lambda: "hidden" in hvtx("vm", "logs", "here").out)
    assert is_own(made["user"])


# -- whom it runs as -------------------------------------------------------------------------------


def test_each_vm_has_a_user_of_its_own(hvtx: Forked) -> None:
    """Not the store's, none of passwd, no other VM's; it stays the VM's, and owns device and place."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    seen = {}
    for name in ("a", "b"):
        vm = hvtx("vm", "run", name, "--network", "net", "--json", *SLEEP).json()
        uid = vm["user"]
        assert is_own(uid)
        assert set(status(vm["pid"])["Uid"].split()) == {str(uid)}
        assert set(status(vm["pid"])["Gid"].split()) == {str(uid)}
        assert is_powerless(vm["pid"])
        device = vm["interfaces"][0]["device"]
        assert f" user {uid} " in lab.run("ip", "-d", "link", "show", "dev", device)
        (place,) = [Path(r["key"]) for r in vm["resources"] if r["kind"] == "file"]
        found = place.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (uid, 0o700)
        seen[name] = uid
    assert seen["a"] != seen["b"]
    assert f"user:        {seen['a']}\n" in hvtx("vm", "show", "a").out
    again = hvtx("vm", "restart", "a", "--json").json()
    assert again["user"] == seen["a"]
    assert hvtx("vm", "stop", "a", "--json").json()["user"] is None
    hvtx("vm", "rm", "a")
    third = hvtx("vm", "run", "a", "--network", "net", "--json", *SLEEP).json()
    assert third["user"] not in seen.values(), "a user is never another VM's"


def test_a_vm_of_an_older_store_gets_its_user_at_its_next_start(hvtx: Forked) -> None:
    """Made and run before there were users: it is shown and stopped as it is."""
    hvtx("vm", "run", "old", *SLEEP, HVTX_VM_USER="root")
    assert hvtx.vm("old")["user"] == "root"
    assert status(hvtx.vm("old")["pid"])["Uid"].split()[0] == "0"
    hvtx("vm", "stop", "old")
    assert is_own(hvtx("vm", "start", "old", "--json").json()["user"])


def test_a_named_user(hvtx: Forked, place: Path) -> None:
    """By name or number, with its own group and no other."""
    vm = hvtx("vm", "run", "web", "--json", *SLEEP, HVTX_VM_USER="nobody").json()
    assert vm["user"] == "nobody"
    assert status(vm["pid"])["Uid"].split()[0] == "65534"
    assert b"HOME=/nonexistent" in Path(f"/proc/{vm['pid']}/environ").read_bytes().split(b"\0")
    hvtx("vm", "stop", "web")
    (place / "config.toml").write_text('vm_user = "54321"\n')
    vm = hvtx("vm", "start", "web", "--json", HVTX_CONFIG=str(place / "config.toml")).json()
    assert (vm["user"], status(vm["pid"])["Uid"].split()[0]) == ("54321", "54321")


@pytest.mark.parametrize(
    ("user", "code", "words"),
    [
        ("no-such-user", 2, "no such user"),
        ("4294967295", 2, "no user or group can have"),
        ("0", 5, "who can write the store"),
    ],
)
def test_a_user_that_is_none_is_refused(hvtx: Forked, user: str, code: int, words: str) -> None:
    """Before anything is made."""
    before = lab.dump()
    ran = hvtx("vm", "run", "web", *SLEEP, code=code, HVTX_VM_USER=user)
    assert words in ran.err
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    told = hvtx("doctor", "--json", code=1, HVTX_VM_USER=user).json()["findings"]
    assert [f["level"] for f in told if f["check"] == "users" and words in f["message"]] == [
        "error"
    ]


def test_where_its_calls_cannot_be_filtered_it_starts_and_doctor_tells(
    hvtx: Forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without CONFIG_SECCOMP_FILTER says EINVAL to both calls that put a filter on."""

    def found(name: str = "syscall") -> tuple[Any, Any]:
        return lambda *_: -1, lambda: errno.EINVAL

    def told() -> list[dict[str, Any]]:
        findings = hvtx("doctor", "--json", code=None).json()["findings"]
        return [f for f in findings if f["check"] == "users" and "MAC address" in f["message"]]

    assert told() == []
    monkeypatch.setattr(ioctl_filter, "system_call", SimpleNamespace(found=found))
    (finding,) = told()
    assert finding["level"] == "warning"
    assert finding["evidence"] == ["the filter of system calls: seccomp(2): Invalid argument"]
    assert "CONFIG_SECCOMP_FILTER" in finding["hint"]
    vm = hvtx("vm", "run", "web", "--json", *SLEEP).json()
    assert status(vm["pid"])["Seccomp"] == status(os.getpid())["Seccomp"]
    hvtx("vm", "rm", "web", "--force")


def test_a_user_namespace_without_these_users_is_refused() -> None:
    """As in a container whose ids end early: told before anything is made, with the way back."""
    words = ("vm", "run", "web", *SLEEP)
    argv = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "hvtx", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done
    assert "which this user namespace does not have" in done.stderr
    assert 'vm_user = "root"' in done.stderr


# -- what it is given ------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(name: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(name)
    resource.setrlimit(name, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(name, before)


def test_nothing_of_its_starter_stays(hvtx: Forked) -> None:
    """Limits, priorities, processors, umask, signals, personality, whom to end without memory."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    argv = [sys.executable, "-m", "hvtx", "vm", "run", "web", "--network", "net", *SLEEP]
    setup = (
        'umask 0; echo 500 >/proc/self/oom_score_adj; exec nice -n 5 taskset -c 0 setarch -R "$@"'
    )
    ignored = ["ionice", "-c3", "env", "--ignore-signal=USR1,USR2,ALRM,SEGV,CHLD,TTOU"]
    limits = ["prlimit", "--cpu=99:", "--fsize=77000000:", "--core=unlimited:", "--as=9000000000:"]
    subprocess.run(
        ["sh", "-c", setup, "sh", *ignored, *limits, *argv], check=True, capture_output=True
    )
    pid = hvtx.vm("web")["pid"]
    told = Path(f"/proc/{pid}/limits").read_text()
    soft = dict(re.findall(r"^(Max .+?)\s{2,}(\S+)", told, re.MULTILINE))
    for name in ("cpu time", "file size", "address space", "data size"):
        assert soft[f"Max {name}"] == "unlimited", told
    assert (soft["Max core file size"], soft["Max open files"]) == ("0", "1024")
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(1)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
    assert status(pid)["Umask"] == "0022"
    assert int(Path(f"/proc/{pid}/personality").read_text(), 16) == 0
    assert lab.run("ionice", "-p", str(pid)).startswith("none")
    pipe, of_the_library = 1 << 12, 3 << 31  # posix_spawn itself ignores 32 and 33
    assert int(status(pid)["SigIgn"], 16) & ~of_the_library == pipe


def test_our_own_limits_are_back_after_a_start(hvtx: Forked) -> None:
    from hvtx.host import inherited_limits

    with limited(resource.RLIMIT_NOFILE, 300):
        before = [resource.getrlimit(n) for n in range(16)]
        with inherited_limits.usual_limits():
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024
        assert [resource.getrlimit(n) for n in range(16)] == before


def test_a_program_in_a_closed_directory(hvtx: Forked, tmp_path: Path) -> None:
    """A directory of root's only: the program runs by a descriptor, in that directory."""
    assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o011 == 0
    program = tmp_path / "guest"
    program.write_text("#!/bin/sh\necho here: $1; pwd; exec sleep 600\n")
    program.chmod(0o755)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        hvtx("vm", "run", "web", "--", "./guest", "it is")
    finally:
        os.chdir(before)
    until("ran", lambda: "sleep" in Path(f"/proc/{hvtx.vm('web')['pid']}/comm").read_text())
    assert hvtx("vm", "logs", "web").out == f"here: it is\n{tmp_path}\n"
    program.chmod(0o700)
    ran = hvtx("vm", "restart", "web", code=6)
    assert "as user" in ran.err
    assert "docs/privileges.md" in ran.err


def test_its_standard_output_can_be_opened(hvtx: Forked) -> None:
    hvtx("vm", "run", "web", "--", "sh", "-c", "echo by name >/dev/stdout; exec sleep 600")
    until("said so", lambda: hvtx("vm", "logs", "web").out == "by name\n")


# -- what it cannot reach --------------------------------------------------------------------------


def test_a_vms_user_reaches_neither_the_store_nor_another_vm(hvtx: Forked, place: Path) -> None:
    """With all the paths in hand, and every directory above hvtx's own open to everybody."""
    state, run = str(place / "state"), str(place / "run")
    own = Forked(HVTX_STATE_DIR=state, HVTX_RUN_DIR=run)
    own("network", "create", "net", "--subnet", "10.77.0.0/24")
    listen = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('api.sock'); s.listen()\n"
        "open('secret', 'w').write('x'); print('ready', flush=True); import time; time.sleep(600)"
    )
    for name in ("good", "bad"):
        own("vm", "create", name, "--network", "net", "--", sys.executable, "-c", listen)
        with in_its_directory():
            own("vm", "start", name)
    bad, good = own.vm("bad")["user"], own.vm("good")
    theirs = next(r["key"] for r in good["resources"] if r["kind"] == "file")
    database = Path(state, "hvtx.db").read_bytes()
    for verb in ("cat", "truncate -s 0", "unlink"):
        for path in (
            f"{state}/hvtx.db",
            f"{state}/logs/good.log",
            f"{run}/{good['resources'][0]['mark'].split(':')[2]}/marks/{theirs[-32:]}",
            f"{theirs}/secret",
        ):
            assert as_user(bad, *verb.split(), path).returncode != 0, (verb, path)
    statements = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('DROP TRIGGER resource_transition')"
    ran = as_user(bad, "/usr/bin/python3", "-c", statements, f"{state}/hvtx.db")
    assert "unable to open database file" in ran.stderr
    assert Path(state, "hvtx.db").read_bytes() == database
    assert as_user(bad, "ls", f"/proc/{good['pid']}/fd").returncode != 0
    assert as_user(bad, "kill", str(good["pid"])).returncode != 0
    assert as_user(bad, "ip", "link", "del", good["interfaces"][0]["device"]).returncode != 0
    device = good["interfaces"][0]["device"]
    assert attach(device, bad) == "Operation not permitted"
    assert attach(device, good["user"]) == "attached"
    for name in ("good", "bad"):
        own("vm", "rm", name, "--force")


# -- what it leaves --------------------------------------------------------------------------------

LEAVINGS = """
import os, socket, sys
os.mkdir("shut"); os.mkdir("shut/more"); open("shut/more/file", "w").close()
os.mkfifo("shut/fifo"); os.symlink(sys.argv[1], "link"); os.symlink("/etc", "shut/etc")
os.chmod("shut/more", 0); os.chmod("shut", 0)
s = socket.socket(socket.AF_UNIX); s.bind("a socket")
open("a\\nnew line", "w").close(); os.mkdir(b"\\xff"); os.mkdir(".removed-1"); os.mkdir(".removed-1/x")
for n in range(2000): open(f"file {n}", "w").close()
here = os.open(".", os.O_RDONLY)
for n in range(1500):
    os.mkdir("deep", dir_fd=here); below = os.open("deep", os.O_RDONLY, dir_fd=here); os.close(here); here = below
print("left", flush=True)
os.execvp("sleep", ["sleep", "600"])
"""


@pytest.mark.parametrize("verb", ["stop", "rm", "gc", "start"])
def test_what_a_hypervisor_leaves_goes_with_its_vm(hvtx: Forked, place: Path, verb: str) -> None:
    """Directories without a permission, a tree deeper than any stack, links out of it: all of it, and no more."""
    kept = place / "kept"
    kept.mkdir(mode=0o777)
    (kept / "file").touch()
    run = f'cd /proc/self/cwd; exec {sys.executable} -c "$1" {kept}'
    hypervisor = place / f"qemu-system-{os.uname().machine}"
    del run, hypervisor
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", sys.executable, "-c", LEAVINGS, str(kept))
    with in_its_directory():
        hvtx("vm", "start", "web")
    until("left it", lambda: hvtx("vm", "logs", "web").out == "left\n")
    vm = hvtx.vm("web")
    (path,) = [Path(r["key"]) for r in vm["resources"] if r["kind"] == "file"]
    assert run_directory(vm["pid"]) == path
    assert len(os.listdir(path)) > 2000
    if verb in ("gc", "start"):
        lab.end(vm["pid"])
    match verb:
        case "stop":
            hvtx("vm", "stop", "web")
        case "rm":
            hvtx("vm", "rm", "web", "--force")
        case "gc":
            hvtx("gc", "--apply")
        case "start":
            hvtx("vm", "set", "web", "--", "sleep", "600")
            hvtx("vm", "start", "web")
            hvtx("vm", "stop", "web")
    assert list(path.parent.iterdir()) == []
    assert (kept / "file").exists()
    assert hvtx.is_clean()


SURVIVOR = """
import ctypes, fcntl, os, signal, struct, sys, time
what, device = sys.argv[1:]
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end, here = time.monotonic() + 60, os.open(".", os.O_RDONLY)
    if what in ("holds", "looks like another VM"):
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x1002))
    if what == "looks like another VM":  # with a TAP of its own, where it is root
        ctypes.CDLL(None).unshare(0x50000000)
        own = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(own, 0x400454CA, struct.pack("16sH22x", b"anothers", 0x1002))
    print("left", flush=True)
    for number in range(10**9):
        if time.monotonic() > end:
            os._exit(0)
        if what == "flees" and os.fork():
            os._exit(0)
        elif what == "writes":
            try:
                os.close(os.open(f"file {number}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            except OSError:
                time.sleep(60)
        elif what in ("holds", "looks like another VM"):
            time.sleep(60)
time.sleep(600)
"""


def of_user(uid: int) -> list[int]:
    """The living processes of a user."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found += [int(entry.name)] * is_alive(int(entry.name))
    return found


@pytest.mark.parametrize("what", ["holds", "looks like another VM", "writes", "flees"])
def test_what_it_started_beside_itself_ends_with_its_vm(hvtx: Forked, what: str) -> None:
    """What holds the TAP, writes into the directory without an end, or forks ever again."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    argv = (sys.executable, "-c", SURVIVOR, what, "{tap}")
    hvtx("vm", "create", "web", "--network", "net", "--", *argv)
    with in_its_directory():
        hvtx("vm", "start", "web")
    until("forked", lambda: hvtx("vm", "logs", "web").out == "left\n")
    vm = hvtx.vm("web")
    assert len(of_user(vm["user"])) > 1 or what == "flees"
    hvtx("vm", "stop", "web", *(("--force",) if what != "flees" else ()))
    assert of_user(vm["user"]) == []
    until("what flees from who looks is gone, too", lambda: not survivors._has_any(vm["user"]))
    assert hvtx.is_clean()
    told = [e["message"] for e in hvtx("log", "--json").json()["entries"]]
    assert any("ended further processes of VM" in w for w in told) or what == "flees"
    hvtx("vm", "set", "web", "--", "sleep", "600")
    hvtx("vm", "start", "web")


ANOTHERS = """
import fcntl, os, struct, sys, time
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"anothers", 0x1002))  # TUNSETIFF
print("open", flush=True)
time.sleep(600)
"""


def test_a_process_of_the_same_user_that_has_another_tap_is_left(hvtx: Forked) -> None:
    """Two installations may give two VMs one user id: whoever has another TAP runs another VM."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    user = str(hvtx.vm("web")["user"])
    lab.run("ip", "tuntap", "add", "anothers", "mode", "tap", "user", user)
    words = (
        "setpriv",
        "--reuid",
        user,
        "--regid",
        user,
        "--clear-groups",
        sys.executable,
        "-c",
        ANOTHERS,
    )
    with in_its_directory(), subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "open\n"
            assert "are left" in hvtx("vm", "stop", "web").err
            assert other.poll() is None
        finally:
            other.kill()
    assert hvtx.is_clean()


def test_without_the_right_to_be_its_user_they_end_one_by_one(
    hvtx: Forked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CAP_KILL is enough for what does not flee."""
    beside = "trap '' TERM; sleep 599 & sleep 598 & echo up; exec sleep 600"
    hvtx("vm", "create", "web", "--", "sh", "-c", beside)
    hvtx("vm", "start", "web")
    until("its process", lambda: hvtx("vm", "logs", "web").out == "up\n")
    user = hvtx.vm("web")["user"]
    assert len(of_user(user)) == 3
    refused = "os.setresuid(nobody, user, nobody)"
    assert refused in survivors._KILL
    monkeypatch.setattr(survivors, "_KILL", survivors._KILL.replace(refused, "sys.exit('refused')"))
    hvtx("vm", "stop", "web")
    assert of_user(user) == []


def test_what_ends_all_of_a_user_is_nobody_else(hvtx: Forked) -> None:
    """Signal -1 is everybody's for who is mighty: the helper ends before it, unless it is that user alone."""
    words = (str(survivors.NOBODY), "9")
    for user, code in (
        ("0", survivors._KILL),
        ("999", survivors._KILL),
        ("1879048192", survivors._KILL.replace("capset", "getpid")),
    ):
        harmless = code.replace("os.kill(-1,", "print('killed',")
        argv = [sys.executable, "-I", "-S", "-c", harmless, user, *words]
        if (
            "getpid" in code
        ):  # root gives all up when it becomes another; somebody with these does not
            argv = ["setpriv", "--reuid=54321", "--inh-caps=+setuid,+kill", "--ambient-caps=+setuid,+kill", *argv]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "killed" not in done.stdout, (user, done)
        assert done.returncode != 0


def test_what_is_older_than_a_vm_process_is_not_its_own(hvtx: Forked) -> None:
    """Another installation's, whose ids happen to be the same: it stays, and so do all."""
    hvtx("vm", "create", "web", *SLEEP)
    hvtx("vm", "start", "web")
    user = hvtx.vm("web")["user"]
    hvtx("vm", "stop", "web")
    ids = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
    with subprocess.Popen(["setpriv", *ids, "--", "sleep", "60"]) as other:
        until("its process", lambda: of_user(user) == [other.pid])
        time.sleep(0.02)  # two ticks of the clock of processes
        hvtx("vm", "start", "web")
        stopped = hvtx("vm", "stop", "web")
        assert f"processes of user {user}, which is VM web's, are left: 1" in stopped.err
        assert of_user(user) == [other.pid]
        other.kill()
    assert hvtx.is_clean()


@contextlib.contextmanager
def in_its_directory() -> Iterator[None]:
    """Let `command` VMs work in their run-time directories, as hypervisors do."""
    from hvtx.hypervisors import command

    real = command.render

    def render(vm: object, ports: object, probes: object, directory: str) -> object:
        return real(vm, ports, probes, directory)._replace(directory=directory)  # type: ignore[arg-type]

    command.render = render  # type: ignore[assignment]
    try:
        yield
    finally:
        command.render = real


def test_the_proof_of_a_directory_is_out_of_its_owners_reach(hvtx: Forked) -> None:
    """It removes and forges what it can; the mark stands beside the directory."""
    forge = "rm -rf mark .mark; echo forged >mark; chmod 0 .; echo done; exec sleep 600"
    hvtx("vm", "create", "web", "--", "sh", "-c", forge)
    with in_its_directory():
        hvtx("vm", "start", "web")
    until("forged it", lambda: "done" in hvtx("vm", "logs", "web").out)
    vm = hvtx.vm("web")
    (row,) = [r for r in vm["resources"] if r["kind"] == "file"]
    assert mark_of(row["key"]) == row["mark"]
    hvtx("vm", "stop", "web")
    assert hvtx.is_clean()
    assert not Path(row["key"]).exists()


def test_a_link_in_the_place_of_a_socket_is_not_followed(tmp_path: Path) -> None:
    """It would lead to the monitor of another VM."""
    from hvtx.host import monitor_socket

    other = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(other))
        server.listen()
        server.setblocking(False)
        (tmp_path / "monitor.sock").symlink_to(other)
        (tmp_path / "file.sock").touch()
        for name in ("monitor.sock", "file.sock"):
            with pytest.raises(ConnectionRefusedError):
                monitor_socket.connect(str(tmp_path), name, 1.0)
        with pytest.raises(FileNotFoundError):
            monitor_socket.connect(str(tmp_path), "none.sock", 1.0)
        with pytest.raises(BlockingIOError):
            server.accept()
        monitor_socket.connect(str(tmp_path), "other", 1.0).close()
        server.accept()[0].close()


# -- QEMU ------------------------------------------------------------------------------------------


@needs_qemu
def test_a_real_guest_of_files_that_only_root_may_open(
    hvtx: Forked,
    guest_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernel, initrd and disk 0600 in a directory 0700: it boots, serves, is asked, and stops."""
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    network(hvtx)
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    for name in ("vmlinuz", "initrd.img"):
        (shut / name).write_bytes((guest_files / name).read_bytes())
    (shut / "disk.raw").write_bytes(bytes(1 << 20))
    for path in shut.iterdir():
        path.chmod(0o600)
    files = ("--kernel", str(shut / "vmlinuz"), "--initrd", str(shut / "initrd.img"))
    more = ("--disk", str(shut / "disk.raw"), "--append", "quiet")
    vm = hvtx("vm", "run", "web", "--network", "net", *files, *more, "--json").json()
    pid = vm["pid"]
    assert is_own(vm["user"])
    assert (is_powerless(pid), status(pid)["Seccomp"]) == (True, "2")
    assert status(pid)["Groups"] == "", "it needs no KVM"
    assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/thread-self/ns/net").readlink()
    opened = {str(p.readlink()) for p in Path(f"/proc/{pid}/fd").iterdir()}
    known = (
        "pipe:",
        "socket:",
        "anon_inode:",
        "/dev/null",
        "/dev/net/tun",
        "/memfd:",
        f"{shut}/disk.raw",
    )
    assert [name for name in opened if not name.startswith(known)] == []
    assert "/dev/net/tun" in opened
    until("served", lambda: "web: serving on 10.77.0.2" in hvtx("vm", "logs", "web").out, 300)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open("http://10.77.0.2/", timeout=30) as page:
        assert b"this is web" in page.read()
    assert hvtx.vm("web")["guest"] == "running"
    console = hvtx("vm", "console", "web", "--json").json()["socket"]
    assert Path(console).is_socket()
    assert as_user(vm["user"] + 1, "ls", str(Path(console).parent)).returncode != 0
    hvtx("vm", "create", "two", "--network", "net", *files, *more)
    ran = hvtx("vm", "start", "two", code=6)
    assert (
        f'Failed to get "write" lock Is another process using the image [{shut}/disk.raw]?'
        in " ".join(ran.err.split())
    )
    hvtx("vm", "restart", "web")
    hvtx("vm", "stop", "web", "--force")
    assert hvtx.is_clean()


@needs_qemu
def test_disks_by_descriptor(
    hvtx: Forked, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formats, a relative backing file that all may read, one that only root may, one that cannot be written."""
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    base, top, plain = place / "base,1.raw", place / "top.qcow2", tmp_path / "plain.raw"
    for path in (base, plain):
        path.write_bytes(bytes(1 << 20))
    lab.run(
        "sh", "-c", f'cd {place} && qemu-img create -q -f qcow2 -b "base,1.raw" -F raw top.qcow2'
    )
    top.chmod(0o600)
    hvtx("vm", "run", "web", "--disk", str(top), "--disk", str(plain))
    assert hvtx.vm("web")["guest"] == "running"
    hvtx("vm", "stop", "web", "--force")
    base.chmod(0o600)
    ran = hvtx("vm", "start", "web", code=6)
    assert f"'{base}': Permission denied" in ran.err
    assert "it runs as user" in ran.err
    hvtx("vm", "start", "web", HVTX_VM_USER="root")
    hvtx("vm", "stop", "web", "--force")
    lab.run("chattr", "+i", str(plain), check=False)
    try:
        if os.access(plain, os.W_OK):
            pytest.skip("no file here can be made unwritable for root")
        base.chmod(0o644)
        hvtx("vm", "start", "web")
        argv = Path(f"/proc/{hvtx.vm('web')['pid']}/cmdline").read_text().split("\0")
        assert [word.count("read-only=on") for word in argv if word.startswith("if=none")] == [0, 1]
    finally:
        lab.run("chattr", "-i", str(plain), check=False)


# -- hvtx as a user of its own ---------------------------------------------------------------------


@pytest.fixture
def user(place: Path, monkeypatch: pytest.MonkeyPatch) -> Unprivileged:
    program = Unprivileged(place, *CAPABILITIES, HVTX_FIREWALL="nftables")
    monkeypatch.setenv("HVTX_STATE_DIR", program.environment["HVTX_STATE_DIR"])
    return program


def test_a_dedicated_users_vms_are_not_its_own(user: Unprivileged) -> None:
    """With the capabilities of the page and no other; its VMs cannot open its store."""
    vm = user("vm", "run", "web", "--json", *SLEEP).json()
    assert is_own(vm["user"])
    assert status(vm["pid"])["Uid"].split()[0] == str(vm["user"])
    seen = status(vm["pid"])
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert seen["NoNewPrivs"] == "1"
    user("vm", "restart", "web")
    user("vm", "rm", "web", "--force")
    assert user.is_clean()


@pytest.mark.parametrize("wanted", [str(unprivileged.USER), "root", "0"])
def test_a_user_who_can_write_the_store_is_refused(user: Unprivileged, wanted: str) -> None:
    ran = user("vm", "run", "web", *SLEEP, code=5, HVTX_VM_USER=wanted)
    assert "who can write the store" in ran.err


def test_a_user_who_could_replace_the_store_is_refused(hvtx: Forked, place: Path) -> None:
    """It owns a directory above the store, or may write one."""
    above = place / "theirs"
    above.mkdir(mode=0o755)
    own = Forked(HVTX_STATE_DIR=str(above / "state"), HVTX_VM_USER="54321")
    own("vm", "create", "web", *SLEEP)
    for uid, mode in ((54321, 0o755), (0, 0o777)):
        os.chown(above, uid, 0)
        above.chmod(mode)
        ran = own("vm", "start", "web", code=None)
        assert ran.code != 0
        if ran.code == 5 and "who can write the store" in ran.err:
            continue
        assert str(above) in ran.err, "refused for another reason of the same kind"
    os.chown(above, 0, 0)
    above.chmod(0o755)
    own("vm", "rm", "web")


def test_a_dedicated_user_removes_what_its_vms_shut(user: Unprivileged) -> None:
    """By CAP_CHOWN: directories of another user, without any permission."""
    forge = (
        "mkdir -p shut/more; touch shut/more/x; chmod 0 shut/more shut; echo done; exec sleep 600"
    )
    user("vm", "create", "web", "--", "sh", "-c", forge)
    with in_its_directory():
        user("vm", "start", "web")
    until("shut it", lambda: "done" in user("vm", "logs", "web").out)
    user("vm", "stop", "web")
    assert user.is_clean()


@needs_qemu
def test_a_dedicated_user_asks_qemu(
    user: Unprivileged, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    """Its sockets are open to the group of the user who runs hvtx, and to nobody else."""
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    disk = place / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    os.chown(disk, unprivileged.USER, unprivileged.USER)
    vm = user("vm", "run", "web", "--disk", str(disk), "--json").json()
    assert (vm["guest"], is_own(vm["user"])) == ("running", True)
    user("vm", "stop", "web", "--timeout", "1")
