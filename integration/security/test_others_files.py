"""Files and programs of others are not believed, waited for, written through or executed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvtx.host.output import write_out
from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, Ran, child, preload, text_of
from integration.lab.waiting import until

STRANGER = 54321
ACCESS = "system.posix_acl_access"
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24")
DEVICE = "tap-oth2"
SLEEP = ("--", "sleep", "600")


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked()


def refused(ran: Ran, code: int, word: str) -> None:
    assert ran.code == code, ran
    assert word in ran.err, ran.err
    assert "hint: " in ran.err, ran.err


def allow(path: Path, *, user: int | None = None, group: int | None = None, mask: int = 7) -> None:
    """An access control list: that user or group may do all that the mask lets through."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 7, nobody), (0x04, 5, nobody), (0x10, mask, nobody), (0x20, 5, nobody)]
    if user is not None:
        entries.insert(1, (0x02, 7, user))
    if group is not None:
        entries.insert(-2, (0x08, 7, group))
    words = b"".join(
        tag.to_bytes(2, "little") + allowed.to_bytes(2, "little") + number.to_bytes(4, "little")
        for tag, allowed, number in entries
    )
    os.setxattr(path, ACCESS, (2).to_bytes(4, "little") + words)


def give(path: Path, *, deep: bool = False) -> None:
    """Make it the other's."""
    for one in (path, *(path.rglob("*") if deep else ())):
        os.chown(one, STRANGER, STRANGER, follow_symlinks=False)


# -- access control lists --------------------------------------------------------------------------


def list_of_a_user(path: Path) -> None:
    allow(path, user=STRANGER)


def list_of_a_group(path: Path) -> None:
    allow(path, group=STRANGER)


def list_on_the_directory(path: Path) -> None:
    allow(path.parent, user=STRANGER)


@pytest.mark.parametrize("spoil", [list_of_a_user, list_of_a_group, list_on_the_directory])
def test_an_access_control_list_counts(
    hvtx: Program, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Its mask stands in the bits of the group, which is root's here."""
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir()
    path.write_text("lock_timeout = 3\n")
    allow(path, user=STRANGER, mask=5)
    hvtx("vm", "ls", HVTX_CONFIG=str(path))  # what the mask keeps back is not granted
    spoil(path)
    refused(hvtx("vm", "ls", code=None, HVTX_CONFIG=str(path)), 5, str(STRANGER))


@pytest.mark.parametrize("which", ["run", "above"])
def test_a_run_directory_with_an_access_control_list(
    hvtx: Program, tmp_path: Path, which: str
) -> None:
    run = tmp_path / "above" / "run"
    run.mkdir(parents=True)
    allow({"run": run, "above": run.parent}[which], user=STRANGER)
    with witness.unchanged():
        refused(hvtx(*NETWORK, code=None, HVTX_RUN_DIR=str(run)), 7, f"user {STRANGER} may write")
    assert list(run.iterdir()) == []


def test_a_run_directory_by_a_strangers_link_above_it(hvtx: Program, tmp_path: Path) -> None:
    """Where the locks are must not be for others to choose."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/run").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for owner, word in ((STRANGER, f"belongs to user {STRANGER}"), (0, "others may put one")):
        link = shared / f"link-{owner}"
        link.symlink_to(tmp_path / "real")
        os.chown(link, owner, owner, follow_symlinks=False)
        refused(hvtx(*NETWORK, code=None, HVTX_RUN_DIR=str(link / "run")), 7, word)
    assert list((tmp_path / "real/run").iterdir()) == []


def test_a_state_directory_below_one_of_others(hvtx: Program, tmp_path: Path) -> None:
    """Whoever may replace the directory chooses which store is believed."""
    above, link = tmp_path / "above", tmp_path / "link"
    above.mkdir()
    hvtx(*NETWORK, HVTX_STATE_DIR=str(above / "state"))
    link.symlink_to(above)
    give(link)

    def all_refused(above: Path) -> None:
        for state in (above / "state", above / "fresh"):
            ran = hvtx("vm", "create", "web", *SLEEP, code=None, HVTX_STATE_DIR=str(state))
            refused(ran, 7, "is not safe")

    with witness.unchanged():
        all_refused(link)
        above.chmod(0o777)
        all_refused(above)
        above.chmod(0o755)
        allow(above, user=STRANGER)
        all_refused(above)
        os.removexattr(above, ACCESS)
        give(above)
        all_refused(above)
        os.chown(above, 0, 0)
        above.chmod(0o755)
    assert not (above / "fresh").exists()
    hvtx("network", "rm", "net", HVTX_STATE_DIR=str(above / "state"))


# -- import ------------------------------------------------------------------------------------------


def state(path: Path) -> Path:
    """A state.json of a dead VM that names a device which is there: what gc would delete."""
    path.mkdir(parents=True)
    file = path / "state.json"
    file.write_text(
        json.dumps(
            {
                "id": "eeee1111-0000-4000-8000-00000000000e", "name": "evil", "status": "running",
                "pid": 4194303, "network_ownership": {
                    "tap_device": DEVICE, "bridge": "brx", "ip": "10.88.0.9", "iptables_rules": [],
                },
            }
        )
    )  # fmt: skip
    return file


def make_device() -> None:
    lab.run("ip", "link", "add", "brx", "address", "02:00:00:00:01:02", "type", "bridge")
    lab.run("ip", "tuntap", "add", DEVICE, "mode", "tap")
    lab.run("ip", "link", "set", DEVICE, "master", "brx")
    assert device_is_there()


def device_is_there() -> bool:
    return DEVICE in {name for _, name in socket.if_nameindex()}


def stranger_owns_the_file(file: Path) -> None:
    give(file)


def everybody_writes_the_file(file: Path) -> None:
    file.chmod(0o666)


def a_group_writes_the_file(file: Path) -> None:
    os.chown(file, 0, STRANGER)
    file.chmod(0o664)


def a_list_on_the_file(file: Path) -> None:
    allow(file, user=STRANGER)


def stranger_owns_a_directory(file: Path) -> None:
    give(file.parent)


def everybody_writes_the_directory(file: Path) -> None:
    file.parent.parent.chmod(0o777)


def a_strangers_link(file: Path) -> None:
    file.rename(file.parent.parent / "real.json")
    file.symlink_to(file.parent.parent / "real.json")
    give(file)


def a_link_to_a_strangers_file(file: Path) -> None:
    theirs = file.parent.parent.parent / "theirs.json"
    file.rename(theirs)
    give(theirs)
    file.symlink_to(theirs)


SPOILED = [
    stranger_owns_the_file, everybody_writes_the_file, a_group_writes_the_file, a_list_on_the_file,
    stranger_owns_a_directory, everybody_writes_the_directory, a_strangers_link,
    a_link_to_a_strangers_file,
]  # fmt: skip


def test_import_judges_its_files_as_a_configuration(hvtx: Program, tmp_path: Path) -> None:
    """Somebody else's state.json would have the next gc delete somebody else's device."""
    make_device()
    files = [state(tmp_path / spoil.__name__ / "vms" / "evil") for spoil in SPOILED]
    for spoil, file in zip(SPOILED, files, strict=True):
        spoil(file)
    directories = [file.parent.parent for file in files]
    for given in (files, directories):
        for more in (("--dry-run",), ()):
            ran = hvtx("import", "my-hypervisor", *map(str, given), "--json", *more, code=9)
            found = ran.json()["vms"]
            assert len(found) == len(SPOILED)
            for vm in found:
                assert (vm["outcome"], vm["reason"]) == ("skipped", "not-believed"), vm
                assert "refusing to use" in vm["message"]
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    hvtx("gc", "--apply")
    assert device_is_there()


def test_import_believes_roots_files(hvtx: Program, tmp_path: Path) -> None:
    """The control: by root's own link too, named twice, and beside a bad one."""
    make_device()
    good, bad = state(tmp_path / "vms" / "evil"), state(tmp_path / "vms" / "bad")
    give(bad)
    link = tmp_path / "link"
    link.symlink_to(good.parent.parent)
    ran = hvtx("import", "my-hypervisor", str(link), str(good), "--json", code=9)
    outcomes = {Path(vm["path"]).parent.name: vm["outcome"] for vm in ran.json()["vms"]}
    assert outcomes == {"evil": "imported", "bad": "skipped"}
    hvtx("gc", "--apply")
    assert not device_is_there()


# -- backups ---------------------------------------------------------------------------------------


def test_a_backup_of_others_is_not_restored(hvtx: Program, tmp_path: Path) -> None:
    """It decides what root deletes and starts; so does a log beside it."""
    hvtx(*NETWORK)
    good = tmp_path / "good.db"
    hvtx("store", "backup", str(good))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for spoil in (
        give, lambda path: path.chmod(0o666), lambda path: allow(path, user=STRANGER),
        lambda path: path.with_name("b.db-wal").write_bytes(b"x" * 32) and give(
            path.with_name("b.db-wal")
        ),
        lambda path: path.with_name("b.db-wal").write_bytes(b"x" * 32),
    ):  # fmt: skip
        for old in shared.iterdir():
            old.unlink()
        path = shared / "b.db"
        shutil.copy(good, path)
        path.chmod(0o600)
        hvtx("store", "restore", str(path))  # the control: root's own, also in a shared directory
        spoil(path)
        with witness.unchanged():
            refused(hvtx("store", "restore", str(path), code=None), 5, "refusing to use")


# -- what cannot be read to its end ----------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_zero(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)  # sparse


ODD = [make_fifo, make_zero, make_huge]


def bounded(hvtx: Program, *argv: str, code: int | None = None, **environment: str) -> Ran:
    """Run it for a minute at most: what waits for ever is killed, and has no exit code."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        child(argv, {**hvtx.environment, **environment}, out, err)
    ran = Ran(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text_of(out), text_of(err))
    assert ran.code >= 0, f"hvtx {' '.join(argv)} did not end"
    assert code is None or ran.code == code, ran
    return ran


@pytest.mark.parametrize("make", ODD)
def test_only_regular_files_are_read(
    hvtx: Program, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """No pipe is waited for, no device opened, no endless file read: each is refused in words."""
    hvtx(*NETWORK)
    odd = tmp_path / "odd" / "state.json"
    odd.parent.mkdir()
    make(odd)
    words = "larger than" if make is make_huge else "not a regular file"
    for argv, code, environment in (
        (("gc", "--apply", str(odd)), 2, {}),
        (("gc", "--heuristic", "--apply", "--yes", str(odd)), 2, {}),
        (("vm", "ls"), 2, {"HVTX_CONFIG": str(odd)}),
        (("--config", str(odd), "vm", "ls"), 2, {}),
    ):
        refused(bounded(hvtx, *argv, **environment), code, words)
    if make is not make_huge:
        refused(bounded(hvtx, "store", "restore", str(odd)), 2, words)
    for path in (odd, odd.parent):
        ran = bounded(hvtx, "import", "my-hypervisor", str(path), "--json")
        (found,) = ran.json()["vms"]
        assert (ran.code, found["reason"]) == (9, "unreadable")
        assert words in found["message"]


def test_a_plan_of_the_standard_input(hvtx: Program, tmp_path: Path) -> None:
    """A file there is read; a pipe is refused, as it would be by its name."""
    hvtx(*NETWORK)
    plan = tmp_path / "plan.json"
    hvtx("gc", "--plan", "--out", str(plan))
    call = [sys.executable, "-m", "hvtx", "gc", "--apply", "/dev/stdin"]
    with plan.open() as file:
        assert subprocess.run(call, stdin=file, capture_output=True, check=False).returncode == 0
    done = subprocess.run(call, input=plan.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"not a regular file" in done.stderr
    call = [sys.executable, "-m", "hvtx", "--config", "/dev/stdin", "vm", "ls"]
    done = subprocess.run(call, input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"not a regular file" in done.stderr


@pytest.mark.parametrize("what", ["kernel", "initrd", "disk"])
def test_a_guests_files_are_files(hvtx: Program, tmp_path: Path, what: str) -> None:
    """A pipe as a disk would keep whoever looks into it waiting, with the VM's lock in hand."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"")
    qemu = trap_in(tmp_path / "bin", "qemu-system-x86_64")
    path = f"{qemu.parent}:{os.environ['PATH']}"
    hvtx(*NETWORK)
    for make in (make_fifo, make_zero, Path.mkdir):
        odd = tmp_path / make.__name__
        make(odd)
        files = {"kernel": str(kernel), what: str(odd)}
        argv = [word for name, file in files.items() for word in (f"--{name}", file)]
        call = ("vm", "run", "web", "--network", "net", *argv)
        with witness.unchanged():
            ran = bounded(hvtx, *call, PATH=path, HVTX_QEMU_ACCEL="tcg")
            refused(ran, 2, "not a regular file")


# -- what is written -------------------------------------------------------------------------------


WRITERS: list[tuple[str, tuple[str, ...]]] = [
    ("--out", ("gc", "--plan", "--out")),
    ("--html", ("gc", "--plan", "--html")),
    ("heuristic", ("gc", "--heuristic", "--plan", "--out")),
    ("backup", ("store", "backup", "--force")),
    ("metrics", ("metrics", "--textfile")),
]
writers = pytest.mark.parametrize(
    "argv", [argv for _, argv in WRITERS], ids=[n for n, _ in WRITERS]
)


def strangers_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)
    give(path)


def strangers_fifo(path: Path, victim: Path) -> None:
    del victim
    os.mkfifo(path)
    give(path)


def strangers_file(path: Path, victim: Path) -> None:
    del victim
    path.write_text("theirs")
    give(path)


def roots_link_in_a_shared_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def roots_pipe_for_everybody(path: Path, victim: Path) -> None:
    del victim
    os.mkfifo(path)
    path.chmod(0o666)


def strangers_directory_link(path: Path, victim: Path) -> None:
    """In the way, not at the end."""
    path.parent.rmdir()
    path.parent.symlink_to(victim.parent)
    give(path.parent)


PUT = [
    strangers_link, strangers_fifo, strangers_file, roots_link_in_a_shared_directory,
    roots_pipe_for_everybody, strangers_directory_link,
]  # fmt: skip


@writers
def test_nothing_is_written_through_what_others_put_there(
    hvtx: Program, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    hvtx(*NETWORK)
    for put in PUT:
        try_to_write(hvtx, tmp_path / put.__name__, argv, put)


def try_to_write(
    hvtx: Program, top: Path, argv: tuple[str, ...], put: Callable[[Path, Path], None]
) -> None:
    """What was put in the way stays as it is, and nothing is where it leads."""
    shared = top / "shared"
    place = shared / "place"
    victim = top / "victims" / "out"
    victim.parent.mkdir(parents=True)
    victim.write_text("untouched")
    place.mkdir(parents=True)
    for directory in (shared, place):
        directory.chmod(0o1777)
    path = place / "out"
    put(path, victim)
    before = os.lstat(path)
    with listener(path) as heard:
        ran = bounded(hvtx, *argv, str(path))
        assert heard() == b"", put
    assert ran.code == 5 or argv[0] == "store", (put, ran)  # whose 2 is for what is no file
    refused(ran, ran.code, str(path))
    assert victim.read_text() == "untouched", put
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_uid) == (
        after.st_ino, after.st_mode, after.st_uid,
    )  # fmt: skip
    assert [p.name for p in victim.parent.iterdir()] == ["out"]
    assert not [p for p in top.rglob("*") if p.name.endswith(".new")]


@contextlib.contextmanager
def listener(path: Path) -> Iterator[Callable[[], bytes]]:
    """Somebody who reads the pipe that is there, if it is one; and what was heard."""
    if not stat.S_ISFIFO(os.lstat(path).st_mode):
        yield lambda: b""
        return
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def heard() -> bytes:
        try:
            return os.read(end, 1 << 16)
        except BlockingIOError:
            return b""

    try:
        yield heard
    finally:
        os.close(end)


@writers
def test_what_is_written_is_whole_and_for_its_owner(
    hvtx: Program, tmp_path: Path, argv: tuple[str, ...]
) -> None:
    """0600 whatever the umask and whatever was there (numbers for a collector: 0644)."""
    hvtx(*NETWORK)
    wanted = 0o644 if argv[0] == "metrics" else 0o600
    path = tmp_path / "out"
    for umask, there in ((0, None), (0o077, 0o666)):
        if there is not None:
            path.chmod(there)
        before = os.umask(umask)
        try:
            hvtx(*argv, str(path))
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == wanted
        assert path.stat().st_size > 100


def test_a_mode_that_is_asked_for(hvtx: Program, tmp_path: Path) -> None:
    hvtx(*NETWORK)
    page, plan = tmp_path / "page.html", tmp_path / "plan.json"
    hvtx("gc", "--plan", "--html", str(page), "--out", str(plan), "--mode", "0644")
    assert {p.stat().st_mode & 0o777 for p in (page, plan)} == {0o644}
    hvtx("gc", "--heuristic", "--plan", "--out", str(plan), "--mode", "0640")
    assert plan.stat().st_mode & 0o777 == 0o640
    for wrong in ("644", "0666", ""):
        refused(hvtx("gc", "--plan", "--out", str(plan), "--mode", wrong, code=None), 2, "--mode")
    refused(hvtx("gc", "--plan", "--mode", "0644", code=None), 2, "--mode")
    refused(hvtx("gc", "--apply", "--mode", "0644", code=None), 2, "--mode")


def test_ones_own_pipe_terminal_and_output_are_written_to(hvtx: Program, tmp_path: Path) -> None:
    hvtx(*NETWORK)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with listener(pipe) as heard:
        bounded(hvtx, "gc", "--plan", "--out", str(pipe), code=0)
        assert json.loads(heard())["schema"] == "hvtx/gc/1"
    call = [sys.executable, "-m", "hvtx", "gc", "--plan", "--out"]
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        done = subprocess.run([*call, path], capture_output=True, check=True)
        assert json.loads(done.stdout)["schema"] == "hvtx/gc/1"  # and nothing else
        assert done.stderr != b""
        both = subprocess.run([*call, path, "--json"], capture_output=True, check=True)
        assert json.loads(both.stdout)["schema"] == json.loads(both.stderr)["schema"]
    for path in ("/dev/null", "/dev/stdout"):
        subprocess.run([*call, path], stdout=subprocess.DEVNULL, check=True)
    taken = tmp_path / "taken"
    with taken.open("ab") as file:
        file.write(b"before\n")
        file.flush()
        subprocess.run([*call, "/dev/stdout"], stdout=file, check=True)
    assert taken.read_bytes().startswith(b"before\n")


TOGGLE = """
import os, sys
here = int(sys.argv[1])
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
os.write(1, b"ready\\n")
for _ in range(20_000_000):
    try:
        os.symlink(sys.argv[2], "plan.json", dir_fd=here)
        os.unlink("plan.json", dir_fd=here)
    except OSError:
        if os.getppid() == 1:
            break
"""


def test_a_link_that_comes_and_goes_is_never_followed(tmp_path: Path) -> None:
    """What is there is looked at once, and replaced by its name in the directory that was opened."""
    place, victim = tmp_path / "shared", tmp_path / "victim"
    place.mkdir()
    place.chmod(0o1777)
    victim.write_text("untouched")
    here = os.open(place, os.O_PATH)
    call = [sys.executable, "-c", TOGGLE, str(here), str(victim)]
    written = kept = 0
    with subprocess.Popen(call, stdout=subprocess.PIPE, pass_fds=(here,)) as toggling:
        try:
            assert toggling.stdout is not None
            assert toggling.stdout.readline() == b"ready\n"
            end = time.monotonic() + 5
            while time.monotonic() < end and not (written > 200 and kept > 50):
                with contextlib.suppress(OSError):
                    (place / "plan.json").unlink()
                time.sleep(0.0002)  # the other's turn
                try:
                    write_out(str(place / "plan.json"), b"plan")
                    written += 1
                except PermissionError:
                    kept += 1
                assert victim.read_text() == "untouched", (written, kept)
        finally:
            toggling.kill()
    os.close(here)
    assert written + kept > 50


# -- programs ----------------------------------------------------------------------------------------


def trap_in(place: Path, name: str = "sleep") -> Path:
    place.mkdir(parents=True)
    program = place / name
    program.write_text(f"#!/bin/sh\ntouch {place}/sprung\nexec /bin/sleep 600\n")
    program.chmod(0o755)
    return program


def open_above(trap: Path) -> None:
    trap.parent.parent.chmod(0o777)


def listed(trap: Path) -> None:
    allow(trap.parent, user=STRANGER)


def listed_above(trap: Path) -> None:
    allow(trap.parent.parent, group=STRANGER)


def theirs_above(trap: Path) -> None:
    give(trap.parent.parent)


def their_file(trap: Path) -> None:
    give(trap)


def open_file(trap: Path) -> None:
    trap.chmod(0o777)


def listed_file(trap: Path) -> None:
    allow(trap, user=STRANGER)


def by_their_link(trap: Path) -> None:
    trap.parent.rename(trap.parent.with_name("real"))
    trap.parent.symlink_to(trap.parent.with_name("real"))
    give(trap.parent)


def a_link_to_their_file(trap: Path) -> None:
    elsewhere = trap.parent.parent / "elsewhere"
    trap.rename(elsewhere)
    give(elsewhere)
    trap.symlink_to(elsewhere)


TRAPS = [
    open_above, listed, listed_above, theirs_above, their_file, open_file, listed_file,
    by_their_link, a_link_to_their_file,
]  # fmt: skip


@pytest.mark.parametrize("command", [("sleep", "600"), ("{vm}", "600")], ids=["name", "rendered"])
def test_no_program_that_others_can_change_is_run_by_name(
    hvtx: Program, tmp_path: Path, command: tuple[str, ...]
) -> None:
    traps = [trap_in(tmp_path / spoil.__name__ / "bin") for spoil in TRAPS]
    for spoil, trap in zip(TRAPS, traps, strict=True):
        spoil(trap)
    path = ":".join([*(str(trap.parent) for trap in traps), os.environ["PATH"]])
    as_root = {"PATH": path, "HVTX_VM_USER": "root"}  # a trap writes where only root may
    hvtx(*NETWORK)
    hvtx("vm", "run", "sleep", "--network", "net", "--", *command, **as_root)
    hvtx("vm", "rm", "sleep", "--force")
    assert list(tmp_path.rglob("sprung")) == []
    if command[0] == "sleep":
        only = str(traps[0].parent)
        ran = hvtx("vm", "run", "sleep", "--network", "net", *SLEEP, code=None, PATH=only)
        refused(ran, 3, "in a place where others could replace it")
        assert str(traps[0]) in ran.err


def test_a_program_of_roots_is_run_by_name(hvtx: Program, tmp_path: Path) -> None:
    """The control, also by a link of root's."""
    trap = trap_in(tmp_path / "above" / "bin")
    (tmp_path / "link").symlink_to(trap.parent)
    sprung = trap.parent / "sprung"
    path = f"{tmp_path}/link:{os.environ['PATH']}"
    hvtx(*NETWORK)
    as_root = {"PATH": path, "HVTX_VM_USER": "root"}
    hvtx("vm", "run", "sleep", "--network", "net", *SLEEP, **as_root)
    until("the trap sprung", sprung.exists)
    hvtx("vm", "rm", "sleep", "--force")


# -- directories that are made ---------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077, 0o027])
def test_missing_parents_are_0755_whatever_the_umask(
    hvtx: Program, tmp_path: Path, umask: int
) -> None:
    """Else hvtx refuses its own run directory, or members do not reach the view."""
    state, run = tmp_path / "a/b/state", tmp_path / "c/d/run"
    environment = {"HVTX_STATE_DIR": str(state), "HVTX_RUN_DIR": str(run)}
    before = os.umask(umask)
    try:
        hvtx(*NETWORK, **environment)
        hvtx("vm", "run", "web", "--network", "net", *SLEEP, **environment)
        hvtx("vm", "rm", "web", "--force", **environment)
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o7777
        for top in ("a", "c")
        for path in (tmp_path / top, *(tmp_path / top).rglob("*"))
        if path.is_dir()
    }
    (installation,) = (path.name for path in run.iterdir())
    for path, mode in modes.items():
        private = path == "a/b/state" or path.startswith(("a/b/state/", f"c/d/run/{installation}"))
        assert mode == (0o700 if private else 0o755), (path, oct(mode))
    for path in (p for top in (state, run) for p in top.rglob("*") if p.is_file()):
        assert path.stat().st_mode & 0o777 == 0o600, path


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_view_is_its_groups_whatever_the_umask(
    hvtx: Program, tmp_path: Path, umask: int
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'group = "{STRANGER}"\n')
    run = tmp_path / "c/d/run"
    before = os.umask(umask)
    try:
        hvtx(*NETWORK, HVTX_RUN_DIR=str(run), HVTX_CONFIG=str(config))
    finally:
        os.umask(before)
    view = run / "view"
    assert [p.stat().st_mode & 0o777 for p in (tmp_path / "c", run.parent, run, view)] == [
        0o755, 0o755, 0o755, 0o750,
    ]  # fmt: skip
    assert {p.stat().st_mode & 0o777 for p in view.iterdir()} == {0o640}
    assert {p.stat().st_gid for p in (view, *view.iterdir())} == {STRANGER}


# -- what root runs at boot ------------------------------------------------------------------------


def installed(path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program at that path that is hvtx."""
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom hvtx.cli.main import run\nsys.exit(run(sys.argv[1:]))\n"
    )
    path.chmod(0o755)
    return subprocess.run([path, *argv], capture_output=True, text=True, check=False, timeout=120)


def test_units_name_no_program_that_others_can_change(tmp_path: Path) -> None:
    """Called as /home/u/venv/bin/hvtx: root would run it at each boot."""
    units = tmp_path / "root" / "etc/systemd/system"
    units.mkdir(parents=True)
    place = tmp_path / "u" / "venv" / "bin"
    place.mkdir(parents=True)
    give(tmp_path / "u", deep=True)
    call = ("systemd", "install", "--root", str(tmp_path / "root"))
    done = installed(place / "hvtx", *call)
    refused(Ran(done.returncode, done.stdout, done.stderr), 5, f"belongs to user {STRANGER}")
    assert str(place / "hvtx") in done.stderr
    assert list(units.iterdir()) == []
    shown = installed(place / "hvtx", "systemd", "print")
    assert (shown.returncode, "warning: root would run" in shown.stderr) == (0, True)
    good = tmp_path / "good"
    good.mkdir()
    link = tmp_path / "root" / "numbers.prom"
    link.symlink_to(tmp_path / "victim")
    give(link)
    done = installed(good / "hvtx", *call, "--metrics", str(link))
    refused(Ran(done.returncode, done.stdout, done.stderr), 5, f"link that user {STRANGER} made")
    assert list(units.iterdir()) == []


def test_units_are_written_through_no_link_and_0644(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below --root somebody else may have left a draft's name, a pipe, or a link."""
    monkeypatch.setattr("hvtx.commands.systemd.refuse_changeable", lambda _: None)
    root = tmp_path / "root"
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    draft = units / "hvtx-gc.timer.hvtx-new"
    draft.symlink_to(victim)
    for umask in (0, 0o077):
        before = os.umask(umask)
        try:
            hvtx("systemd", "install", "--root", str(root))
        finally:
            os.umask(before)
        (units / "hvtx-gc.timer").unlink()
    assert victim.read_text() == "untouched"
    assert {p.stat().st_mode & 0o777 for p in units.glob("*.service")} == {0o644}
    os.mkfifo(units / "hvtx-gc.timer")
    ran = bounded(hvtx, "systemd", "install", "--root", str(root))
    refused(ran, 6, "not a regular file")
