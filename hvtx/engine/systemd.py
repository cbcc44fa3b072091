"""`systemd install`, `uninstall`, `print`: the units of hvtx in the host's systemd.

Everything is done through ``systemctl``, and unit files are written whole or not at all. A file of
the same name that hvtx did not write is never touched. Where systemd is installed but does not run
(an image that is being made, a chroot), the units are put in place for the next boot.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hvtx.engine.runtime import Settings
from hvtx.engine.units import (
    AUTOSTART,
    BY_SYSTEMD,
    ENABLED,
    OPTIONAL,
    RECOVER,
    TIMERS,
    Place,
    Unit,
    is_ours,
    start_call,
    units,
)
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted, UsageError
from hvtx.host import program
from hvtx.host.kvm import VARIABLE, wanted_accelerator

BOOTED = "/run/systemd/system"  # there where systemd is the init, sd_booted(3)
_SECONDS = 60.0
_START_SECONDS = 120.0  # above the waiting for locks; far above what a start takes


class Outcome(NamedTuple):
    """What became of the units: (unit, ``written|unchanged|removed|absent``) each, and a note."""

    units: tuple[tuple[Unit, str], ...]
    running: bool  # whether a running systemd was told
    note: str | None


def place(
    state_directory: str,
    run_directory: str,
    environment: Mapping[str, str],
    argv0: str,
    metrics: str | None = None,
) -> Place:
    """What the units are made for; ``argv0`` is how this program was called.

    Raises UsageError for what would be told only by the unit that runs: an unknown accelerator.
    """
    wanted_accelerator(environment.get(VARIABLE, ""))
    return Place(program_path(argv0), state_directory, run_directory, dict(environment), metrics)


def program_path(argv0: str) -> tuple[str, ...]:
    """The installed ``hvtx`` by its absolute path; else this interpreter with ``-m hvtx``."""
    called = argv0 if os.path.basename(argv0) == "hvtx" else "hvtx"
    beside = os.path.join(os.path.dirname(sys.executable), "hvtx")
    found = program.find((called, beside))
    if found is not None:
        return (os.path.abspath(found),)
    return (os.path.abspath(sys.executable), "-m", "hvtx")


def make(where: Place) -> tuple[Unit, ...]:
    """The units for ``where``. Raises UsageError for a path that no unit file can hold."""
    try:
        return units(where)
    except ValueError as problem:
        raise UsageError(
            f"no systemd unit can hold this: {problem}", hint="choose paths without such characters"
        ) from problem


def install(where: Place, root: str = "/") -> Outcome:
    """Write the units that are not there as they should be, enable them, start the timer.

    ``root`` is another system's root directory, whose systemd is not spoken to.
    Raises NotPermitted, Conflict (a foreign file), HostRefused (no systemd, systemctl fails).
    """
    wanted = make(where)
    _need_root()
    systemctl = _systemctl()
    states = [_state(unit, root) for unit in wanted]
    for unit, state in zip(wanted, states, strict=True):
        if state != "same":
            _write(_path(unit, root), unit.text)
    outcomes = ["unchanged" if state == "same" else "written" for state in states]
    running = _runs(root)
    if running:  # also where nothing differs: an install that was killed may have left it undone
        _call(systemctl, "daemon-reload")
    names = [unit.name for unit in wanted]
    enabled = [name for name in names if name in ENABLED]
    _call(systemctl, *_offline(running, root), "enable", "--quiet", *enabled)
    if running:
        _call(systemctl, "start", *(name for name in names if name in TIMERS))
    return Outcome(tuple(zip(wanted, outcomes, strict=True)), running, _note(running, root))


def uninstall(root: str = "/") -> Outcome:
    """Disable and remove what :func:`install` made; no VM is touched, nor is the store.

    Raises NotPermitted, Conflict (a foreign file: nothing is removed), HostRefused.
    """
    ours = units(Place(("/hvtx",), "/", "/", {}, metrics="/"))  # only their names count
    _need_root()
    there = [unit for unit in ours if _state(unit, root) != "absent"]
    running = _runs(root)
    if there:
        systemctl = _systemctl()
        names = [unit.name for unit in there]
        enabled = [name for name in names if name in ENABLED]
        if running:
            _call(systemctl, "stop", *enabled)
        if enabled:
            _call(systemctl, *_offline(running, root), "disable", "--quiet", *enabled)
        for unit in there:
            _remove(_path(unit, root))
        if running:
            _call(systemctl, "daemon-reload")
            program.run((systemctl, "reset-failed", *names), _SECONDS)  # fails if none had
    outcomes = tuple(
        (unit, "removed" if unit in there else "absent")
        for unit in ours
        if unit in there or unit.name not in OPTIONAL
    )
    return Outcome(outcomes, running, None)


def document(outcome: Outcome, root: str = "/") -> dict[str, Any]:
    """The JSON of ``install`` and ``uninstall``."""
    return {
        "schema": "hvtx/systemd/1",
        "units": [
            {"name": unit.name, "path": _path(unit, root), "state": state}
            for unit, state in outcome.units
        ],
        "running": outcome.running,
        "note": outcome.note,
    }


def printed(made: Sequence[Unit]) -> dict[str, Any]:
    """The JSON of ``print``."""
    return {
        "schema": "hvtx/systemd/1",
        "units": [{"name": unit.name, "path": unit.path, "text": unit.text} for unit in made],
    }


# -- autostart -------------------------------------------------------------------------------------


def starts_vms() -> bool:
    """Whether systemd is to start VMs, since this run is shut in by the sandbox of its unit."""
    return os.environ.get(AUTOSTART) == BY_SYSTEMD


def start_vm(settings: Settings, name: str) -> None:
    """Let systemd start VM ``name``, and wait for it. Raises HostRefused if it did not come up."""
    flags = (
        *("--state-dir", settings.state_directory, "--run-dir", settings.run_directory),
        *("--firewall", settings.firewall, "--lock-timeout", str(settings.lock_timeout)),
    )
    passed = {
        variable: value
        for variable, value in os.environ.items()
        if variable == "PATH" or (variable.startswith("HVTX_") and variable != AUTOSTART)
    }
    call = start_call(program_path(sys.argv[0]), flags, name, passed)
    found = program.find((call[0], f"/usr/bin/{call[0]}"))
    if found is None:
        raise HostRefused(
            f"VM {name!r} cannot be started: {call[0]} is missing",
            hint=f"install systemd's {call[0]}, or start the VM by hand: hvtx vm start {name}",
        )
    ended = program.run((found, *call[1:]), settings.lock_timeout + _START_SECONDS)
    if ended.status == 0:
        return
    words = " ".join(ended.output.split())
    why = "it was not up in time" if ended.status is None else words or "systemd did not start it"
    raise HostRefused(
        f"VM {name!r} did not start: {why} (journalctl -u hvtx-start-{name})",
        hint=f"hvtx vm start {name} tries again",
    )


# -- files -----------------------------------------------------------------------------------------


def _path(unit: Unit, root: str) -> str:
    return os.path.join(root, unit.path.lstrip("/"))


def _state(unit: Unit, root: str) -> str:
    """``absent``, ``same`` or ``differs`` (ours, another text); raises Conflict if not ours."""
    path = _path(unit, root)
    if os.path.islink(path):
        to = os.readlink(path)
        masked = to == os.devnull
        raise Conflict(
            f"{unit.name} is masked" if masked else f"{path} is a link to {to}, and not of hvtx",
            hint=f"systemctl unmask {unit.name}" if masked else "remove the link first",
        )
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return "absent"
    except OSError as problem:
        raise _refused(path, problem) from problem
    if not is_ours(text):
        raise Conflict(
            f"{path} was not written by hvtx",
            hint="move it away if it should be replaced; own changes belong in"
            f" {unit.name}.d/ (systemctl edit {unit.name})",
        )
    return "same" if text == unit.text else "differs"


def _write(path: str, text: str) -> None:
    """Put ``text`` at ``path`` whole, so that a power cut leaves the old file or the new one."""
    draft = f"{path}.hvtx-new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(draft, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
        _sync(os.path.dirname(path))
    except OSError as problem:
        raise _refused(path, problem) from problem


def _remove(path: str) -> None:
    try:
        os.unlink(path)
        _sync(os.path.dirname(path))
    except OSError as problem:
        raise _refused(path, problem) from problem


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: str, problem: OSError) -> HvtxError:
    kind = NotPermitted if isinstance(problem, PermissionError) else HostRefused
    return kind(f"{path}: {problem.strerror}", hint="look at the file system and its permissions")


# -- systemd ---------------------------------------------------------------------------------------


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted(
            "installing and removing systemd units needs root",
            hint="run it with sudo; `hvtx systemd print` shows the units without it",
        )


def _systemctl() -> str:
    found = program.find(("systemctl", "/usr/bin/systemctl", "/bin/systemctl"))
    if found is None:
        raise HostRefused(
            "this host has no systemd (systemctl is missing)",
            hint="let its own init call `hvtx recover` at boot; `hvtx systemd print` shows when",
            code="no-systemd",
        )
    return found


def _runs(root: str) -> bool:
    return os.path.realpath(root) == "/" and os.path.isdir(BOOTED)


def _offline(running: bool, root: str) -> tuple[str, ...]:
    return () if running else (f"--root={os.path.abspath(root)}",)


def _note(running: bool, root: str) -> str | None:
    if running:
        return None
    if os.path.realpath(root) != "/":
        return f"the units act when the system in {root} boots"
    return "systemd does not run here: the units act from the next boot with systemd on"


def _call(systemctl: str, *arguments: str) -> None:
    try:
        ended = program.run((systemctl, *arguments), _SECONDS)
    except OSError as problem:
        raise HostRefused(
            f"systemctl cannot be run: {problem}",
            hint="the units are written; systemctl daemon-reload makes systemd read them",
        ) from problem
    if ended.status != 0:
        words = " ".join(ended.output.split()) or "no reason given"
        raise HostRefused(
            f"systemctl {' '.join(arguments)} failed: {words}",
            hint=f"systemctl status {RECOVER}; then run this command again",
        )
