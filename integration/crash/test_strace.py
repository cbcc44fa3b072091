"""The crash matrix from outside: the installed program, killed by strace at a system call.

Nothing inside the program takes part, and no interpreter is shared: `strace -e inject` ends a
process of its own at the nth call of a name. The state before, the states and the oracle are those
of the inside job, which this checks: no kill from outside may leave a state that the inside job,
which kills wherever something has changed, did not meet. The ordinary run takes a sample of kills
in a few commands; `HVTX_CRASH=all` (tox -e crash) takes every command, and every call that can
change something.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.crash.test_failpoints import BACKENDS, COMMANDS, end_everything, given, guests
from integration.crash.test_syscalls import ALL, directory, matrix_of
from integration.lab.crash_matrix import evenly
from integration.lab.isolated import run_alone
from integration.lab.program import Ran
from integration.lab.stepper import Stepped

__all__ = ["directory", "guests"]
SAMPLE = 3  # kills in the ordinary run
SOME = ("vm start", "vm rm --force", "gc --apply")
CALLS = ("pwrite64", "sendto", "sendmsg", "ioctl", "setsockopt", "getsockopt", "openat", "write",
         "mkdir", "rmdir", "unlink", "rename", "fdatasync", "pidfd_send_signal")  # fmt: skip
_LINE = re.compile(r"(?:(\d+) +)?([a-z0-9_]+)\(")


def strace(
    argv: Sequence[str], environment: Mapping[str, str], *options: str, children: bool
) -> int:
    """Run the program under strace; its exit code, or minus the signal that ended it.

    Without `--seccomp-bpf`: strace 6.1 prints the calls under it and injects nothing. A VM process
    is not followed, as strace would wait for its end.
    """
    follow = ["-f"] if children else []
    done = subprocess.run(
        ["strace", *follow, "-qq", *options, sys.executable, "-m", "hvtx", *argv],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode


def calls_of(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, *, children: bool
) -> list[tuple[str, int]]:
    """Each call that may change something, by its name and its number among those of the name.

    Of the main thread, which begins: strace counts for each thread anew.
    """
    traced = f"trace={','.join(CALLS)}"
    assert strace(argv, environment, "-o", str(log), "-e", traced, children=children) == 0
    counted: Counter[str] = Counter()
    found = []
    lines = [_LINE.match(line) for line in log.read_text(errors="replace").splitlines()]
    seen = [line for line in lines if line is not None]
    for line in seen:
        if line[1] == seen[0][1]:
            counted[line[2]] += 1
            found.append((line[2], counted[line[2]]))
    return found


@pytest.mark.timeout(7200 if ALL else 1800)
@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("name", COMMANDS if ALL else SOME)
def test_killed_from_outside_it_recovers(name: str, firewall: str, directory: Path) -> None:
    """After `recover` all is as it should be, and the inside job knows the state."""

    def part() -> dict[str, Any]:
        matrix = matrix_of(name, firewall, directory, beside=COMMANDS[name].beside)
        environment = matrix.hvtx.environment
        children = not any(word in name for word in ("start", "run"))
        matrix.whole()
        if ALL:
            matrix.discover(given(name), name, None)
        inside = {matrix.before.seen.name, *matrix.nodes}  # it makes no node of nothing done
        matrix.go(None)
        calls = calls_of(given(name), environment, directory / "strace.log", children=children)
        matrix.see()
        killed = 0
        for call, nth in calls if ALL else evenly(calls, SAMPLE):
            matrix.go(None)
            code = strace(
                given(name), environment, "-o", "/dev/null", "-e", f"trace={call}",
                "-e", f"inject={call}:signal=SIGKILL:when={nth}", children=children,
            )  # fmt: skip
            # 9: a program that it ran was killed at its own nth call, and it says so
            assert code in (0, 9, -9), (call, nth, code)
            killed += code != 0
            ran = Ran(code, "", "")
            matrix.arrive(f"{call} number {nth}", Stepped(nth, code != 0, ran))
        strange = [matrix.nodes[new].where for new in matrix.nodes if new not in inside]
        for node in list(matrix.nodes.values()):
            matrix.judge(node)
        matrix.go(None)
        end_everything(matrix.hvtx)
        return {"killed": killed, "failures": matrix.failures, "strange": strange}

    found = run_alone(part)
    sys.stdout.write(f"{name}, {firewall}: {found['killed']} killed from outside\n")
    assert found["killed"] >= SAMPLE - 1
    assert not found["failures"], "\n".join(found["failures"])
    if ALL:
        assert not found["strange"], f"states that the inside job did not meet: {found['strange']}"
