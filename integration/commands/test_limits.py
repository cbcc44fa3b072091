"""Limits, odd inputs and odd surroundings: descriptors, clocks, random numbers, others' names."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.store import history
from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, preload


@pytest.fixture
def hvtx() -> Program:
    """A program with a network."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    return program


def started(hvtx: Program, name: str) -> int:
    """Start a VM; its pid."""
    hvtx("vm", "run", name, "--network", "net", "--", "sleep", "600")
    pid: int = hvtx.vm(name)["pid"]
    return pid


def whole(hvtx: Program, name: str) -> bool:
    """Whether a VM has its device and its firewall elements, in the host as on record."""
    mine = [row for row in hvtx.vm(name)["resources"] if row["kind"] in ("tap", "filter")]
    shown = lab.run("nft", "list", "ruleset") + lab.run("ip", "link")
    return len(mine) == 2 and all(row["mark"] in shown for row in mine)


@pytest.mark.parametrize("limit", [28])
def test_too_few_descriptors_for_many_devices(hvtx: Program, limit: int) -> None:
    """What cannot be held is kept whole, and so is what somebody holds; the rest goes in the end."""
    names = [f"vm{number}" for number in range(10)]
    pids = [started(hvtx, name) for name in names]
    held = hvtx.device(names[-1])
    holder = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(holder, 0x400454CA, struct.pack("16sH22x", held.encode(), 0x5002))
    near, far = socket.socketpair()
    socket.send_fds(near, [b"x"], [holder])  # in flight, so that no plan can see who holds it
    os.close(holder)
    for pid in pids:
        lab.end(pid)
    few = f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); "
    code = few + "from hvtx.cli.main import run; sys.exit(run(sys.argv[1:]))"
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-c", code, "gc", "--apply"],
            env={**os.environ, **hvtx.environment}, check=False, timeout=60,
        )  # fmt: skip
        assert whole(hvtx, names[-1])
    near.close()
    far.close()
    for _ in range(2):
        hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert {hvtx.vm(name)["state"] for name in names} == {"defined"}


@pytest.mark.parametrize("year", [1980, 2099])
def test_the_clock_decides_nothing(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """Years off in either direction: what lives stays, what died goes, plans stay good."""
    pids = [started(hvtx, name) for name in ("dead", "alive")]
    lab.end(pids[0])
    monkeypatch.setattr(history, "now", lambda: f"{year}-01-01T00:00:00.000000Z")
    saved = str(Path(os.environ["HVTX_STATE_DIR"]).parent / "plan.json")
    plan = hvtx.plan("--out", saved)
    assert {i["vm"] for items in plan.values() for i in items if i["action"] != "skip"} == {"dead"}
    monkeypatch.setattr(history, "now", lambda: f"{4079 - year}-01-01T00:00:00.000000Z")
    hvtx("gc", "--apply", saved)
    hvtx("recover")
    assert hvtx.is_clean()
    assert hvtx.vm("alive")["state"] == "running"
    hvtx("vm", "rm", "--force", "alive")
    hvtx("vm", "rm", "dead")
    hvtx("network", "rm", "net")


def test_random_numbers_that_repeat(hvtx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that was resumed twice draws the same numbers again: a conflict, not a mix-up."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "urandom", lambda size: bytes([7]) * size)
        pid = started(hvtx, "first")
        before = lab.dump()
        assert hvtx("vm", "run", "second", "--network", "net", "--", "sleep", "600", code=4).err
        hvtx("network", "create", "other", "--subnet", "10.78.0.0/24", code=4)
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.vm("first")["state"] == "running"
    assert not [key for key in hvtx.plan() if key[0] == "delete"]
    lab.end(pid)
    for _ in range(2):  # first the device, then the row whose index it had
        hvtx("gc", "--apply")
    assert hvtx.is_clean()


HOSTILE = ['"q"', "$(id)", "';drop", "-rf", "\x1b[2J", "\u202e\u0430"]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_strangers_with_hostile_names(backend: str) -> None:
    """Devices, aliases, chains and comments of others are neither run, nor obeyed, nor changed."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=backend)
    for number, name in enumerate(HOSTILE):
        lab.run("ip", "tuntap", "add", f"x{number}", "mode", "tap")
        lab.run("ip", "link", "set", f"x{number}", "alias", f"hvtx:1:{name}\n\x1b[1m")
        lab.run("ip", "link", "set", f"x{number}", "name", name)
        if backend == "iptables":
            for table in ("filter", "mangle"):  # a look makes the table, which then stays
                lab.run("iptables-legacy", "-t", table, "-S")
            lab.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.9",
                    "-m", "comment", "--comment", f"hvtx:1:{name}", "-j", "ACCEPT")  # fmt: skip
        comment = "".join(c for c in name if c not in '"\\' and c.isprintable())
        lab.run("nft", "-f", "-", stdin=(
            f'table ip t{number} {{ comment "{comment}"\n chain c {{ type nat hook postrouting'
            f' priority 10; ip saddr 10.77.0.8 masquerade comment "hvtx:1:{comment}"\n }}\n }}\n'
        ))  # fmt: skip
    with witness.unchanged():
        hvtx("gc", "--plan")
    strange = lab.dump()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    pid = started(hvtx, "web")
    lab.end(pid)
    shown = [hvtx("gc", "--plan", "--all").out, hvtx("gc", "--apply").out]
    for name in ("$(id)", "-rf", "\x1b[2J"):
        asked = hvtx("explain", "--", name)
        shown += [asked.out, asked.err]
        assert "unknown" in asked.out  # its alias begins like a mark
    shown.append(hvtx("doctor", code=None).out)
    assert not [text for text in shown if "\x1b" in text or "\u202e" in text]
    assert not any("\x1b" in text for text in (hvtx("gc", "--plan", "--all", "--json").out,))
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")
    now = lab.dump()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    for part in ("links", "nft", "legacy"):
        assert lab.difference(strange[part], now[part]) == "", part


def test_long_names_that_differ_at_their_end(hvtx: Program) -> None:
    """Nothing is cut off: two VMs of 63 characters have a device, a log and a state each."""
    names = [f"{'x' * 62}{end}" for end in "ab"]
    pids = [started(hvtx, name) for name in names]
    assert len({hvtx.device(name) for name in names}) == 2
    lab.end(pids[0])
    hvtx("gc", "--apply")
    assert [hvtx.vm(name)["state"] for name in names] == ["defined", "running"]
    hvtx("vm", "rm", names[0])
    assert Path(os.environ["HVTX_STATE_DIR"], "logs", f"{names[1]}.log").exists()
    lab.end(pids[1])
