"""Verbs for tests of the interface: a network, a VM, its state, a refusal, a run that is stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from integration.lab import witness
from integration.lab.program import Forked, Program, Ran, preload
from integration.lab.vms import end_vms

BACKENDS = ["nftables", "iptables"]
SLEEP = ("--", "sleep", "600")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z")
MARK = re.compile(r"hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16}\Z")
KINDS = {
    "tap",
    "veth",
    "netns",
    "bridge",
    "address",
    "masquerade",
    "publish",
    "filter",
    "lease",
    "process",
    "sysctl",
    "file",
}


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """The program; VM processes that a test leaves are ended."""
    preload()
    program = Forked()
    yield program
    end_vms(program, external=False)


def network(hvtx: Program, *more: str) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", *more)


def create(hvtx: Program, name: str = "web", *more: str) -> None:
    hvtx("vm", "create", name, "--network", "net", *more, *SLEEP)


def state(hvtx: Program, name: str = "web") -> str:
    word: str = hvtx.vm(name)["state"]
    return word


def conflict(hvtx: Program, *argv: str, code: int = 4) -> Ran:
    """A refusal in the wrong state, which changes nothing."""
    with witness.unchanged():
        ran = hvtx(*argv, code=code)
    assert ran.err.startswith("error: "), ran
    return ran


def stopped(hvtx: Program, point: str, *argv: str) -> subprocess.Popen[bytes]:
    """A run of the program that has stopped itself at a point of the protocol."""
    run = subprocess.Popen(
        [sys.executable, "-m", "hvtx", *argv],
        env={**os.environ, **hvtx.environment, "HVTX_FAILPOINT": f"{point}:stop"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    pid, status = os.waitpid(run.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (pid, status, run.communicate())
    return run


def ended(run: subprocess.Popen[bytes], how: int) -> None:
    """Continue or kill a stopped run, and wait for its end."""
    os.kill(run.pid, how)
    run.communicate(timeout=60)
