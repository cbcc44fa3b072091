"""What changing commands ask of the kernel, as strace saw it: whom they start, under which lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.crash.test_failpoints import end_everything
from integration.lab.program import Program

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
CALLS = "execve,execveat,vfork,fork,clone,clone3,flock,close,setsockopt"
# A VM whose process is somebody else's, and without ports that are held: strace would wait for what
# hvtx had started.
COMMANDS = (
    ("network", "create", "net", "--subnet", "10.77.0.0/24"),
    ("vm", "create", "web", "--network", "net", "--hypervisor", "external"),
    ("vm", "start", "web"),
    ("gc", "--apply"),
    ("recover",),
    ("repair",),
    ("vm", "stop", "web", "--force"),
    ("vm", "rm", "web"),
    ("network", "rm", "net"),
)
# Whose deeds in the host could come after the death of whoever started them.
_CHANGES = re.compile(
    r"(xtables|(ip|ip6|eb|arp)tables|nft|ip|tc|bridge|brctl|modprobe|sysctl|conntrack)\b"
)


def traced(log: Path, firewall: str, *argv: str) -> list[str]:
    """The lines that strace wrote of a command and of all that it started."""
    subprocess.run(
        ["strace", "-f", "-o", str(log), "-e", f"trace={CALLS}", sys.executable, "-m", "hvtx", *argv],
        check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, "HVTX_FIREWALL": firewall},
    )  # fmt: skip
    return log.read_text().splitlines()


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_no_helper_is_started_and_every_table_is_written_under_the_lock(
    firewall: str, tmp_path: Path
) -> None:
    """No nft, no iptables, no ip. A legacy table is replaced only while xtables.lock is held, and so
    never again when the interpreter ends.
    """
    replaced = 0
    for argv in COMMANDS:
        lines = traced(tmp_path / "log", firewall, *argv)
        started = [re.search(r'exec\w+\("([^"]+)"', line) for line in lines if " execve" in line]
        names = [Path(found[1]).name for found in started if found]
        assert names, "the program itself"
        changing = [name for name in names if _CHANGES.match(name) and not name.endswith("-save")]
        assert changing == [], argv
        held: set[str] = set()
        for line in lines:
            lock = re.match(r"\d+ +flock\((\d+), LOCK_EX.*= 0", line)
            gone = re.match(r"\d+ +close\((\d+)\)", line)
            if lock:
                held.add(lock[1])
            elif gone:
                held.discard(gone[1])
            elif re.search(r"IP6?T_SO_SET_REPLACE|SOL_IPV?6?, 0x40\b", line):
                replaced += 1
                assert held, (argv, line)
    assert bool(replaced) == (firewall == "iptables"), "the trace shows what it should"
    end_everything(Program())
