"""What random sequences found, shrunk: each is played on both worlds from now on."""

from __future__ import annotations

from typing import Any

from tests.machine.machine import Machine

Step = tuple[str, int, tuple[Any, ...]]

# whether the host begins with two networks and the VM `web`, then the steps
FOUND: dict[str, tuple[bool, list[Step]]] = {
    # `repair` made a network again that it had just undone: nothing removed it any more
    "a network half made is repaired": (False, [("network", 0, ("kill", 2)), ("repair", 0, ())]),
    # the rest of an interrupted rebuild stood beside a second one: two bases on record
    "a rebuild killed, and another": (
        True,
        [("reboot", 0, ()), ("run", 0, ("kill", 3)), ("rm", 0, ()), ("start", 2, ())],
    ),
    # a VM was put into it, and `recover` and gc could end no more: FOREIGN KEY constraint failed
    "a VM in a network half made": (False, [("network", 0, ("kill", 5)), ("create", 0, ())]),
    # the first of its two devices stayed held by hvtx, since the second was somebody else's
    "one of two devices is held": (True, [("run", 0, ()), ("hold", 1, ()), ("stop", 0, ())]),
    # `repair` looked for the VM that it had just undone: KeyError
    "a VM half recorded, and a repair": (True, [("create", 0, ("kill", 1)), ("repair", 0, ())]),
    # a process was taken for that of a VM whose devices were gone with an earlier life
    "a VM of an earlier life is attached": (
        True,
        [("run", 1, ()), ("reboot", 0, ()), ("attach", 0, ()), ("repair", 0, ())],
    ),
    # an interrupted run that was stopped: its VM was forgotten in the middle of its next start
    "a VM of a killed run is started after a reboot": (
        True,
        [
            ("run", 0, ("kill", 1)),
            ("run", 0, ()),
            ("run", 0, ()),
            ("reboot", 0, ()),
            ("start", 0, ()),
        ],
    ),
    # rules of an earlier life were put in the place of all of this one's: their tables stayed for good
    "rules of an earlier life in the place of all": (
        True,
        [("save", 0, ()), ("reboot", 0, ()), ("run", 0, ()), ("restore", 0, ())],
    ),
    # somebody else opened a device in the middle of its making: an error of the system, exit 1
    "a device is held while it is made": (
        True,
        [("run", 0, ()), ("run", 0, ()), ("run", 0, ()), ("start", 0, ("stop", 4, ("hold", 0)))],
    ),
}


def play(machine: Machine, name: str) -> None:
    """Play a sequence to its end, with all laws."""
    ready, steps = FOUND[name]
    try:
        machine.begin(ready=ready)
        for step in steps:
            machine.step(step=step)
    except BaseException:
        machine.failed = True
        raise
    finally:
        machine.teardown()
