"""The processes that a command starts are killed, or see their parent killed, at any of their calls.

Only the command itself is killed in `test_syscalls`. What it starts are the gate that becomes the
VM's process and, on the iptables backend, `iptables-save`; each is stepped here to every one of its
own system calls, with `integration.lab.crash_matrix`'s oracle afterwards. The ordinary run takes a sample,
`HVTX_CRASH=all` (tox -e crash) each of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvtx.host.port_programs import SIGNATURE
from integration.crash.test_failpoints import BACKENDS, end_everything, given, guests
from integration.crash.test_syscalls import ALL, directory, matrix_of
from integration.lab.crash_matrix import Matrix, evenly
from integration.lab.isolated import run_alone
from integration.lab.stepper import ChildStepper
from integration.lab.vms import unheld_ports

__all__ = ["directory", "guests"]
SAMPLE = 5


def held_again(matrix: Matrix, call: int) -> None:
    """Whose ports' holder was killed: it is said, and `repair` holds them."""
    if unheld_ports(matrix.hvtx):
        assert "its port was not held" in matrix.hvtx("repair").out, call
        assert unheld_ports(matrix.hvtx) == [], call


@pytest.mark.timeout(7200 if ALL else 1800)
@pytest.mark.parametrize("parent", [False, True], ids=["the child", "its parent"])
@pytest.mark.parametrize("firewall", BACKENDS)
def test_killed_while_a_child_is_at_any_of_its_calls(
    firewall: str, parent: bool, directory: Path
) -> None:
    """`vm start` ends whole or undone, and no process runs that is not on record."""

    def part() -> dict[str, Any]:
        matrix = matrix_of("vm start", firewall, directory, beside=True)
        matrix.whole()
        matrix.go(None)
        whole = ChildStepper(given("vm start"), matrix.hvtx.environment)
        assert whole.run().ran.code == 0
        matrix.see()
        calls = list(range(1, whole.child_calls + 1))
        for call in calls if ALL else evenly(calls, SAMPLE):
            matrix.go(None)
            stepper = ChildStepper(
                given("vm start"), matrix.hvtx.environment, kill_at=call, parent=parent
            )
            ran = stepper.run()
            assert ran.killed or ran.ran.code in (0, 1, 6), (call, ran.ran)
            if ran.ran.code == 0 and SIGNATURE in stepper.words:
                held_again(matrix, call)  # the command had ended when the holder was killed
            matrix.arrive(f"call {call} of {whole.child_calls} of a child", ran)
            assert matrix.now.raw.strays == [], (call, matrix.now.raw.strays)
            if not ran.killed:
                assert not any(o["ended"] is None for o in matrix.now.raw.rows["operation"]), call
        for node in list(matrix.nodes.values()):
            matrix.judge(node)
        matrix.go(None)
        end_everything(matrix.hvtx)
        return {"calls": len(calls), "failures": matrix.failures}

    found = run_alone(part)
    assert found["calls"] > 20
    assert not found["failures"], "\n".join(found["failures"])
