"""What the operator sees: plans as documents, saved plans, and what makes them stale."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from integration import lab
from integration.lab import example_host
from integration.lab.program import Forked, Program, child, preload

BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program on a backend, with a network."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", example_host.SUBNET)
    yield program
    example_host.end_all(program)


def crashed(hvtx: Program, name: str, *more: str) -> str:
    """A VM whose process was killed; its device."""
    hvtx("vm", "run", name, "--network", "net", *more, "--", "sleep", "600")
    example_host.crash(hvtx, name)
    return hvtx.device(name)


def valid(hvtx: Program, text: str) -> dict[str, object]:
    """A plan that keeps to the schema which the program itself prints."""
    schema = hvtx("gc", "--schema").json()
    document: dict[str, object] = json.loads(text)
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def test_real_plans_keep_to_the_schema(hvtx: Program, tmp_path: Path) -> None:
    """Printed, saved, of all things, carried out, refused, and those of the emergency mode."""
    device = crashed(hvtx, "web", "-p", "8080:80")
    hvtx("vm", "run", "live", "--network", "net", "--", "sleep", "600")
    lab.run("ip", "tuntap", "add", "tap7", "mode", "tap")
    lab.run("ip", "link", "add", "strange0", "type", "bridge")
    saved = tmp_path / "plan.json"
    valid(hvtx, hvtx("gc", "--plan", "--json").out)
    valid(hvtx, hvtx("gc", "--plan", "--all", "--json", "--out", str(saved)).out)
    reviewed = valid(hvtx, saved.read_text())
    assert saved.read_text().splitlines()[1].startswith('  "schema"')  # for people, too
    guessed = valid(hvtx, hvtx("gc", "--heuristic", "--plan", "--json").out)
    assert guessed["heuristic"] is True
    done = valid(hvtx, hvtx("gc", "--apply", str(saved), "--json").out)
    assert done["plan_id"] == reviewed["plan_id"]
    assert device not in lab.run("ip", "-o", "link")
    with lab.private_network():
        refused = valid(hvtx, hvtx("gc", "--plan", "--json", code=4).out)
    assert refused["refused"] == "wrong-namespace"


def test_a_stale_plan_says_what_changed_and_how(hvtx: Program, tmp_path: Path) -> None:
    """Taken again, used again, or gone: each in words, and nothing is done."""
    device = crashed(hvtx, "web", "-p", "8080:80")
    saved = str(tmp_path / "plan.json")
    hvtx("gc", "--plan", "--out", saved)
    holder = example_host.hold(device)
    try:
        told = hvtx("gc", "--apply", saved, code=8).err
    finally:
        os.close(holder)
    assert "was delete (vm-dead), it is now skip (vm-alive): its VM's TAP is open" in told
    assert "more items changed" in told
    hvtx("vm", "start", "web")
    told = hvtx("gc", "--apply", saved, code=8).err
    assert "publish 8080/tcp was delete (vm-dead) with the mark hvtx:1:" in told
    assert "and another one (row" in told
    assert "skip, vm-alive) is there now" in told
    hvtx("vm", "rm", "web", "--force")
    told = hvtx("gc", "--apply", saved, code=8).err
    assert "it is no longer planned: it is neither on the host nor on record" in told


def test_a_plan_of_guesses_is_not_taken_for_a_proven_one(hvtx: Program, tmp_path: Path) -> None:
    lab.run("ip", "tuntap", "add", "tap7", "mode", "tap")
    saved = str(tmp_path / "plan.json")
    hvtx("gc", "--heuristic", "--plan", "--out", saved)
    told = hvtx("gc", "--apply", saved, code=2).err
    assert "emergency mode" in told
    assert "tap7" in lab.run("ip", "-o", "link")


def test_a_plan_file_with_nonsense_in_it(hvtx: Program, tmp_path: Path) -> None:
    """Words that are no text, and depths that no parser bears, are exit 2."""
    item = {
        "action": "delete",
        "reason": "vm-dead",
        "kind": "tap",
        "key": [],
        "record": None,
        "mark": {},
    }
    path = tmp_path / "plan.json"
    for text in (json.dumps({"schema": "hvtx/gc/1", "items": [item]}), "[" * 100_000):
        path.write_text(text)
        assert "plan" in hvtx("gc", "--apply", str(path), code=2).err


def on_terminal(columns: int, *argv: str, **environment: str) -> str:
    """What a command prints on a real terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    pid = os.fork()
    if pid == 0:
        os.close(master)
        child(argv, {"TERM": "xterm", **environment}, os.dup(slave), slave)
    os.close(slave)
    pieces = []
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(master, 1 << 16):
            pieces.append(piece)
    os.waitpid(pid, 0)
    os.close(master)
    return b"".join(pieces).decode()


def words(text: str) -> list[str]:
    """The words of a screen; a dead process may be reaped between two looks."""
    joined = " ".join(text.split())
    return sorted(joined.replace("has ended and waits for its parent", "is gone").split())


def test_real_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns nothing is wider (a fix's command may be); colour where it is wanted."""
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    preload()
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    crashed(hvtx, "web", "-p", "8080:80")
    hvtx("vm", "run", "live", "--network", "net", "--", "sleep", "600")
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    lab.run("ip", "link", "set", "tap-foo", "alias", "a long story " * 15)
    example_host.drop_forwarding()
    paths = re.compile(r"\S{60,}")  # one word, longer than a line has room for
    try:
        for argv in (
            ("gc", "--plan"),
            ("gc", "--plan", "--evidence"),
            ("explain", "tap-foo"),
            ("doctor",),
        ):
            plain = on_terminal(80, *argv, NO_COLOR="1")
            assert "\x1b" not in plain, argv
            assert "\x1b" not in on_terminal(80, *argv, TERM="dumb"), argv
            long = [
                line for line in plain.split("\r\n") if len(line) > 80 and not paths.search(line)
            ]
            assert not [line for line in long if " -j ACCEPT" not in line], argv
            assert "\x1b[" in on_terminal(80, *argv), argv
            wide = on_terminal(160, *argv, NO_COLOR="1")
            assert len(wide.split("\r\n")) <= len(plain.split("\r\n")), argv
            assert words(wide) == words(plain), argv  # not a word less
    finally:
        example_host.end_all(hvtx)


def test_a_terminal_that_lacks_a_letter() -> None:
    """A sign that the terminal cannot show must not turn a start that went well into a failure."""
    hvtx = Program(PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    ran = hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    assert "8080/tcp" in ran.out
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    lab.run("ip", "link", "set", "tap-foo", "alias", "übung")
    assert "tap-foo" in hvtx("gc", "--plan", "--evidence").out
    example_host.end_all(hvtx)
