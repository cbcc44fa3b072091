"""docs/security.md: what others on the host, or a guest, try; and that it comes to nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import unprivileged, witness
from integration.lab.program import Forked, Program, Ran, child, preload
from integration.lab.waiting import until

STRANGER = 54321
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24")
SLEEP = ("--", "sleep", "600")
# Clears a screen, sets a title, is the eight-bit form of both, tries to end a quotation and a statement.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b2J\r\n\"'; DROP TABLE vm; -- \u202etxt"
OBEYED = ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e")


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked()


@pytest.fixture
def peopled(hvtx: Program) -> Iterator[Program]:
    """A network `net` with a running VM `web` and a crashed one, `dead`."""
    hvtx(*NETWORK)
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx(
        "vm", "run", "dead", "--network", "net", "-p", "8081:80", "--", "sh", "-c", "exec sleep 600"
    )
    from integration.security.test_privileges import death_of

    death_of(hvtx.vm("dead")["pid"])
    yield hvtx
    for name in ("web", "dead"):
        hvtx("vm", "rm", name, "--force", code=None)


def refused(ran: Ran, code: int, word: str) -> None:
    lines = ran.err.splitlines()
    assert ran.code == code, ran
    assert lines[0].startswith("error: "), ran.err
    assert word in ran.err, ran.err
    assert lines[1].startswith("hint: "), ran.err


# -- directories and files -----------------------------------------------------------------------


def make_stranger(path: Path) -> None:
    path.mkdir()
    os.chown(path, STRANGER, STRANGER)


def make_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.mkdir()
    path.symlink_to(target)
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


def make_below(path: Path) -> None:
    make_stranger(path.parent)
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (make_stranger, f"belongs to user {STRANGER}"),
        (make_open, "it is world-writable"),
        (make_link, f"belongs to user {STRANGER}"),
        (make_below, "its directory"),
    ],
)
def test_a_run_directory_of_others_is_not_used(
    hvtx: Program, tmp_path: Path, make: Callable[[Path], None], word: str
) -> None:
    """Whoever can replace its files could take the locks and the marker of another life."""
    place = tmp_path / "above" / "theirs"
    if make is not make_below:
        place.parent.mkdir()
    make(place)
    with witness.unchanged():
        refused(hvtx(*NETWORK, code=None, HVTX_RUN_DIR=str(place)), 7, word)
    assert list(place.iterdir()) == []


def test_an_installations_directory_that_others_made_first(hvtx: Program, tmp_path: Path) -> None:
    """In a run directory like /tmp anybody may make the one that is about to be made."""
    hvtx(*NETWORK)
    (installation,) = (p.name for p in (tmp_path / "run").iterdir())
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    make_stranger(shared / installation)
    with witness.unchanged():
        ran = hvtx(
            "vm", "create", "web", "--network", "net", *SLEEP, code=None, HVTX_RUN_DIR=str(shared)
        )
        refused(ran, 7, f"belongs to user {STRANGER}")
    assert list((shared / installation).iterdir()) == []


def config_of_stranger(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def config_for_everybody(path: Path) -> None:
    path.chmod(0o666)


def config_for_a_group(path: Path) -> None:
    os.chown(path, 0, STRANGER)
    path.chmod(0o664)


def config_in_an_open_directory(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize(
    "spoil",
    [config_of_stranger, config_for_everybody, config_for_a_group, config_in_an_open_directory],
)
def test_a_configuration_that_others_can_write_is_not_believed(
    hvtx: Program, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir()
    path.write_text("lock_timeout = 3\n")
    hvtx("vm", "ls", HVTX_CONFIG=str(path))
    spoil(path)
    for argv in (("vm", "ls"), NETWORK):
        refused(hvtx(*argv, code=None, HVTX_CONFIG=str(path)), 5, "refusing to use")
    assert not (tmp_path / "state").exists()


def test_a_plan_is_written_through_no_strangers_link(peopled: Program, tmp_path: Path) -> None:
    """As root in /tmp: what another user put in the way is not followed; a plan is for its owner only."""
    victim, path = tmp_path / "victim", tmp_path / "plan.json"
    victim.write_text("untouched")
    path.symlink_to(victim)
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    for argv in (("gc", "--plan"), ("gc", "--heuristic", "--plan")):
        ran = peopled(*argv, "--out", str(path), code=5)
        assert f"a link that user {STRANGER} made" in ran.err
    assert victim.read_text() == "untouched"
    path.unlink()
    peopled("gc", "--plan", "--out", str(path))
    assert (path.stat().st_mode & 0o777, json.loads(path.read_text())["schema"]) == (
        0o600,
        "hvtx/gc/1",
    )
    link = tmp_path / "latest.json"
    link.symlink_to(path)
    path.write_text("old")
    peopled("gc", "--plan", "--out", str(link))
    assert link.is_symlink(), "a link of root's own leads on"
    assert json.loads(path.read_text())["schema"] == "hvtx/gc/1"
    piped = [sys.executable, "-m", "hvtx", "gc", "--plan", "--out", "/dev/stdout"]
    assert '"schema"' in subprocess.run(piped, capture_output=True, text=True, check=True).stdout
    assert not list(tmp_path.glob("*.new"))


def test_a_plan_that_others_wrote_orders_nothing(peopled: Program, tmp_path: Path) -> None:
    """A saved plan chooses among what gc would do by itself; it cannot add to it."""
    path = tmp_path / "plan.json"
    peopled("gc", "--plan", "--out", str(path))
    document = json.loads(path.read_text())
    lab.run("ip", "tuntap", "add", "tap-theirs", "mode", "tap")
    alive = next(i for i in document["items"] if (i["kind"], i["vm"]) == ("tap", "web"))
    foreign_object = {**alive, "key": "tap-theirs", "vm": None, "record": None, "mark": None}
    for forged in (alive, foreign_object):
        item = {**forged, "action": "delete", "reason": "vm-dead"}
        path.write_text(json.dumps({**document, "items": [*document["items"], item]}))
        with witness.unchanged():
            refused(peopled("gc", "--apply", str(path), code=None), 8, "stale")
    assert peopled.vm("web")["state"] == "running"


def test_what_is_kept_for_a_vm_is_its_owners(peopled: Program, tmp_path: Path) -> None:
    """State, logs, run-time directories with their sockets: 0700; the store's files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        peopled("vm", "stop", "web")
        peopled("vm", "start", "web")
    finally:
        os.umask(before)
    (run,) = (tmp_path / "run").iterdir()
    for path in (
        tmp_path / "state",
        tmp_path / "state/logs",
        run,
        run / "vms",
        *(run / "vms").iterdir(),
    ):
        assert path.lstat().st_mode & 0o777 == 0o700, path
    marks = {path.name: path.lstat().st_mode & 0o777 for path in (run / "marks").iterdir()}
    assert marks == {path.name: 0o600 for path in (run / "vms").iterdir()}
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or path.lstat().st_mode & 0o777 == 0o600, path


def test_a_log_that_is_a_link_is_not_followed(hvtx: Program, tmp_path: Path) -> None:
    hvtx(*NETWORK)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "state/logs").mkdir(mode=0o700)
    (tmp_path / "state/logs/web.log").symlink_to(victim)
    with witness.undone():
        assert (
            hvtx("vm", "run", "web", "--network", "net", "--", "echo", "hello", code=None).code == 6
        )
    assert victim.read_text() == "untouched"


# -- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["open", "theirs", ".", ""])
def test_programs_of_others_are_not_run(hvtx: Program, tmp_path: Path, place: str) -> None:
    """What root runs by name comes from no directory in which others can put programs."""
    lab.run("iptables-legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "ACCEPT")
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("iptables-legacy-save", "iptables-nft-save", "qemu-system-x86_64", "busctl"):
        program = trap / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
        program.chmod(0o755)
    if place == "open":
        trap.chmod(0o777)
    elif place == "theirs":
        os.chown(trap, STRANGER, STRANGER)
    path = f"{place if place in ('.', '') else trap}:{os.environ['PATH']}"
    here = Path.cwd()
    os.chdir(trap)
    try:
        hvtx("--firewall", "iptables", *NETWORK, PATH=path)
        hvtx("vm", "run", "web", "--network", "net", *SLEEP, PATH=path)
        hvtx("gc", "--plan", PATH=path)
        hvtx("vm", "rm", "web", "--force", PATH=path)
    finally:
        os.chdir(here)
    assert not (tmp_path / "sprung").exists()


def trap_for(place: Path, name: str) -> Path:
    """A program of that name which tells that it was run; the directory is root's."""
    place.mkdir(parents=True)
    program = place / name
    program.write_text(f"#!/bin/sh\ntouch {place.parent}/sprung\nexec /bin/sleep 600\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("command", [("sleep", "600"), ("{vm}", "600")])
def test_a_program_is_executed_by_the_path_that_was_checked(
    hvtx: Program, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """What was looked for is what runs, also where a placeholder makes the name."""
    hvtx(*NETWORK)
    trap_for(tmp_path / "open", "sleep").parent.chmod(0o777)
    path = f"{tmp_path}/open:{os.environ['PATH']}"
    as_root = {"PATH": path, "HVTX_VM_USER": "root"}  # the trap writes where only root may
    hvtx("vm", "run", "sleep", "--network", "net", "--", *command, **as_root)
    executable = Path(f"/proc/{hvtx.vm('sleep')['pid']}/exe").readlink()
    hvtx("vm", "rm", "sleep", "--force")
    assert not (tmp_path / "sprung").exists()
    assert executable.name == "sleep"


# -- words of others --------------------------------------------------------------------------


HOLDER = """
import ctypes, fcntl, os, struct, sys
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[2])[:15], 0, 0, 0)
held = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(held, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x5002))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def hostile_strangers(device: str) -> Iterator[None]:
    """An alias, comments of both firewalls and a process's name that are meant to be printed."""
    lab.run("ip", "tuntap", "add", "tap-theirs", "mode", "tap")
    lab.run("ip", "link", "set", "tap-theirs", "alias", HOSTILE)
    comment = HOSTILE.replace('"', "").replace("\n", " ").replace("\r", "")
    lab.run(
        "nft",
        "add table ip theirs; add chain ip theirs nat { type nat hook postrouting priority 90; }",
    )
    lab.run(
        "nft",
        "-f",
        "-",
        stdin=f'add rule ip theirs nat ip saddr 10.77.0.9 masquerade comment "{comment}"\n',
    )
    rule = [
        "iptables-legacy",
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-s",
        "10.77.0.8",
        "-m",
        "comment",
        "--comment",
    ]
    subprocess.run(
        [*rule, b"\xff\xfe\x1b[2J\x1b]0;owned\x07 \"'; --", "-j", "MASQUERADE"], check=True
    )
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, device, "\x1b[2J\x1b]0;x\x07"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield
        finally:
            holder.kill()


def on_a_terminal(hvtx: Program, *argv: str) -> str:
    """All that a command says to a person, at a terminal."""
    ours, theirs = pty.openpty()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        child(argv, {**hvtx.environment, "NO_COLOR": "1"}, theirs, theirs)
    os.close(theirs)
    said = b""
    for _ in range(10_000):
        if not select.select([ours], [], [], 60)[0]:
            break
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    os.waitpid(pid, 0)
    return said.decode(errors="replace")


def strictly(text: str) -> object:
    """JSON as the strictest readers take it: no lone surrogate, no control character."""

    def check(value: object) -> None:
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            for pair in value.items():
                check(list(pair))
        elif isinstance(value, list):
            for entry in value:
                check(entry)

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), "a raw control character"
    document = json.loads(text)
    check(document)
    return document


def test_nothing_of_strangers_is_obeyed_by_a_terminal(peopled: Program, tmp_path: Path) -> None:
    device = peopled.device("dead")
    reads = [
        ("gc", "--plan", "--all"), ("gc", "--plan"), ("gc", "--heuristic", "--plan"), ("gc", "--apply"),
        ("explain", "tap-theirs"), ("explain", device), ("explain", "10.77.0.9"), ("explain", HOSTILE), ("doctor",),
        ("log",), ("log", "--detail"), ("intents",), ("vm", "ls"), ("vm", "show", "dead"), ("network", "show", "net"),
        ("vm", "stop", "dead"), ("-v", "vm", "rm", "dead"), ("--debug", "explain", HOSTILE),
    ]  # fmt: skip
    with hostile_strangers(device):
        for argv in reads:
            for said in (on_a_terminal(peopled, *argv), "".join(peopled(*argv, code=None)[1:])):
                for sequence in OBEYED:
                    assert sequence not in said, (argv, sequence, said)
            ran = peopled(*argv, "--json", code=None)
            for text in (ran.out, ran.err):
                if text.startswith("{"):
                    strictly(text)
        plan = peopled("gc", "--plan", "--all", "--json").out
        assert "tap-theirs" in plan
        assert "10.77.0.8" in plan
        peopled("gc", "--plan", "--all", "--out", str(tmp_path / "plan.json"))
        assert json.loads((tmp_path / "plan.json").read_text())
    assert len(peopled("vm", "ls", "--json").json()["vms"]) == 2, "no table was dropped"


# A TAP device of a namespace of its own, named with bytes that are no text.
NAMELESS = """
import fcntl, os, struct, sys
descriptor = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"hv\\xff\\xfe", 0x1002))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_device_whose_name_is_no_text_keeps_nobody_from_looking(peopled: Program) -> None:
    """Anybody can make one, in a user namespace; who holds which device is still told."""
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", NAMELESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert peopled.reasons("tap", peopled.device("dead")) == {("delete", "vm-dead")}
            assert peopled("gc", "--apply", "--json").json()["applied"]
        finally:
            holder.kill()


def test_a_guests_words_are_shown_not_obeyed(hvtx: Program) -> None:
    """On a terminal the log is plain; in a pipe it is byte for byte what the guest wrote."""
    words = r"printf 'hello \033[2J\033]0;owned\007there\233 \tend\r\n\033'; exec sleep 600"
    hvtx(*NETWORK)
    hvtx("vm", "run", "web", "--network", "net", "--", "sh", "-c", words)
    log = Path(os.environ["HVTX_STATE_DIR"], "logs/web.log")
    until("the end of its words", lambda: b"end" in log.read_bytes())
    raw = subprocess.run(
        [sys.executable, "-m", "hvtx", "vm", "logs", "web"], capture_output=True, check=True
    ).stdout
    assert raw == b"hello \x1b[2J\x1b]0;owned\x07there\x9b \tend\r\n\x1b"
    said = on_a_terminal(hvtx, "vm", "logs", "web")
    assert "hello there" in said
    assert "\tend" in said
    assert "\x1b" not in said.replace("\r\n", "\n")
    assert not any(sequence in said for sequence in OBEYED)
    hvtx("vm", "rm", "web", "--force")


def test_hostile_words_reach_no_statement(peopled: Program) -> None:
    """What is looked up is bound, never pasted: into SQL, nft, iptables or a shell."""
    for words in (
        "'; DROP TABLE vm; --",
        '" or 1=1 --',
        "$(touch /tmp/x)",
        "web`id`",
        "-rf",
        "%s%n",
        "../../etc/passwd",
    ):
        with witness.unchanged():
            for argv in (("vm", "show", words), ("network", "show", words), ("vm", "start", words), ("explain", words),
                         ("log", "--vm", words), ("vm", "logs", words), ("repair", words)):  # fmt: skip
                ran = (
                    peopled(*argv[:-1], "--", argv[-1], code=None)
                    if words.startswith("-")
                    else peopled(*argv, code=None)
                )
                assert ran.code in (0, 2, 3), (argv, ran)
                if argv[0] != "log":
                    assert ran.code in (2, 3), (argv, ran)


# -- other users ---------------------------------------------------------------------------------


def test_another_user_reads_nothing_and_reaches_no_socket(peopled: Program) -> None:
    """Without capabilities and without the group: the store, the logs and the sockets are shut."""
    with unprivileged.open_home() as home:
        foreign_object = unprivileged.Unprivileged(
            home, **{name: os.environ[name] for name in ("HVTX_STATE_DIR", "HVTX_RUN_DIR")}
        )
        with witness.unchanged():
            for argv in (("vm", "ls"), ("vm", "logs", "web"), ("vm", "console", "web"), ("gc", "--plan"),
                         ("vm", "stop", "web"), ("log",)):  # fmt: skip
                assert foreign_object(*argv, code=None).code == 5
