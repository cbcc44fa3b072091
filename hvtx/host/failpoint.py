"""Named points in the protocol at which a test can end the program.

``HVTX_FAILPOINT=<name>:<action>[:<nth time>][,…]`` with the action ``kill`` (SIGKILL to itself),
``error`` (an HostRefused), ``eio`` (an OSError) or ``stop`` (SIGSTOP). The name ``*`` is every
point: ``*:kill:7`` ends the program at the seventh that it passes, whichever that is. Without the
variable a point costs one comparison. ``HVTX_FAILPOINT_LOG=FILE`` appends the name of every point
that is passed, which is how tests learn the list.
"""

from __future__ import annotations

import os

from hvtx.errors import HostRefused
from hvtx.host import signals

_WANTED = os.environ.get("HVTX_FAILPOINT", "")
_LOG = os.environ.get("HVTX_FAILPOINT_LOG", "")
_passed: dict[str, int] = {}


def reach(name: str) -> None:
    """Pass the point ``name``."""
    if _WANTED or _LOG:
        _act(name)


def arm(wanted: str, log: str = "") -> None:
    """Set what the variables set, for tests in process; empty strings disarm."""
    global _WANTED, _LOG  # one switch for the whole process
    _WANTED, _LOG = wanted, log
    _passed.clear()


def _act(name: str) -> None:
    if _LOG:
        descriptor = os.open(_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(descriptor, name.encode() + b"\n")
        os.close(descriptor)
    for passed in (name, "*"):
        _passed[passed] = _passed.get(passed, 0) + 1
    for wanted in _WANTED.split(","):
        _act_if(name, wanted)


def _act_if(name: str, wanted: str) -> None:
    point, _, rest = wanted.rpartition(":")
    nth = 1
    if rest.isdigit():
        nth = int(rest)
        point, _, rest = point.rpartition(":")
    if point not in (name, "*") or _passed[point] != nth:
        return
    if rest == "kill":
        signal_self(signals.SIGKILL)
    elif rest == "stop":
        signal_self(signals.SIGSTOP)
    elif rest == "eio":
        raise OSError(5, "a failpoint was asked for")
    else:
        raise HostRefused(f"failpoint {name} was asked for")


def signal_self(number: int) -> None:
    """Where the signal comes from; tests on a fake kernel put another end here."""
    os.kill(os.getpid(), number)
