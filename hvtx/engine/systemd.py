"""`systemd install`, `uninstall`, `print`: the units of hvtx in the host's systemd.

Everything is done through ``systemctl``, and unit files are written whole or not at all. A file of
the same name that hvtx did not write is never touched. Where systemd is installed but does not run
(an image that is being made, a chroot), the units are put in place for the next boot.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hvtx.engine.runtime import Settings
from hvtx.engine.units import (
    AUTOSTART,
    BY_SYSTEMD,
    COLLECT,
    DIRECTORY,
    DROP_IN,
    ENABLED,
    FIREWALLS,
    FOLLOWERS,
    OPTIONAL,
    PACKAGED,
    RECOVER,
    REPAIR,
    REPAIR_AFTER,
    TIMER,
    TIMERS,
    Place,
    Unit,
    drop_in,
    is_ours,
    is_packaged,
    packaged_in,
    shields,
    start_call,
    units,
)
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted, UsageError
from hvtx.host import output, paths, program
from hvtx.host.kvm import VARIABLE, wanted_accelerator

BOOTED = "/run/systemd/system"  # there where systemd is the init, sd_booted(3)
_UNIT_MOST = 1 << 20  # bytes
_DRAFT = ".hvtx-new"
_SECONDS = 60.0
_START_SECONDS = 120.0  # above the waiting for locks; far above what a start takes


class Entry(NamedTuple):
    """A file of a unit and what became of it.

    ``state``: written, unchanged, removed, absent, packaged (it is the Debian package's), or kept
    (somebody else's file for a manager of networks).
    """

    name: str
    path: str
    state: str


class Outcome(NamedTuple):
    """What became of the units, and a note."""

    units: tuple[Entry, ...]
    running: bool  # whether a running systemd was told
    note: str | None


def place(
    state_directory: str,
    run_directory: str,
    environment: Mapping[str, str],
    argv0: str,
    metrics: str | None = None,
    group: str | None = None,
) -> Place:
    """What the units are made for; ``argv0`` is how this program was called.

    Raises UsageError for what would be told only by the unit that runs: an unknown accelerator.
    """
    wanted_accelerator(environment.get(VARIABLE, ""))
    called = program_path(argv0)
    reads = (sys.prefix, sys.base_prefix, os.path.dirname(__file__), called[0])
    return Place(
        called,
        state_directory,
        run_directory,
        dict(environment),
        metrics,
        tuple(sorted({os.path.realpath(path) for path in reads})),
        group,
    )


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

    Beside the units of hvtx's Debian package nothing is written that would hide them: what this
    call wants otherwise goes to drop-ins, and copies that an earlier hvtx wrote are removed.
    ``root`` is another system's root directory, whose systemd is not spoken to.
    Raises NotPermitted, Conflict (a foreign file), HostRefused (no systemd, systemctl fails).
    """
    wanted = make(where)
    _need_root()
    systemctl = _systemctl()
    refuse_changeable(where)
    theirs = _packaged(root)
    files = _files_wanted(wanted, theirs)
    states = [_state(path, text, root) for path, text in files]
    entries = [Entry(name, _below(root, _theirs(name)), "packaged") for name in theirs]
    for (path, text), state in zip(files, states, strict=True):
        told = _bring(path, text, state, root)
        if text is not None or told == "removed":
            entries.append(Entry(_unit_of(path), _below(root, path), told))
    running = _runs(root)
    if running:  # also where nothing differs: an install that was killed may have left it undone
        _call(systemctl, "daemon-reload")
    names = [unit.name for unit in wanted]
    enabled = [name for name in names if name in ENABLED]
    # the links of a copy that was removed lead to it, and must lead to the package's unit
    verb = "reenable" if theirs else "enable"
    _call(systemctl, *_offline(running, root), verb, "--quiet", *enabled)
    # the package's follow firewalls by links of the package
    following = "disable" if REPAIR_AFTER in theirs else "enable"
    _call(systemctl, *_offline(running, root), following, "--quiet", *FOLLOWERS)
    if running:
        _call(systemctl, "start", *(name for name in names if name in TIMERS))
        followers = _followers_of_running(systemctl)
        if followers:
            _call(systemctl, "start", "--no-block", *followers)
    shielding = _install_shields(root)
    entries += shielding
    note = "the units come with the Debian package hvtx, and are used as they are"
    if any(entry.path.endswith(DROP_IN) and entry.state != "removed" for entry in entries):
        note = "the units come with the Debian package hvtx; drop-ins hold what is otherwise here"
    notes = [note if theirs else None, _note(running, root), _note_of_shields(shielding, running)]
    return Outcome(tuple(entries), running, "; ".join(filter(None, notes)) or None)


def _followers_of_running(systemctl: str) -> list[str]:
    """The units that follow the firewalls whose services are active now."""
    services = [f"{name}.service" for name in FIREWALLS]
    states = program.run((systemctl, "is-active", *services), _SECONDS).output.split()
    return [unit for unit, state in zip(FOLLOWERS, states, strict=False) if state == "active"]


def _install_shields(root: str) -> list[Entry]:
    """Files for managers of networks: theirs who wrote one of the same name stays as it is.

    NetworkManager's only where it is installed.
    """
    entries = []
    for shield in shields():
        path, home = _below(root, shield.path), os.path.dirname(shield.directory)
        package = f"{packaged_in(shield)}/{shield.name}"
        if is_packaged(_text_at(_below(root, package)) or ""):
            entries.append(Entry(shield.name, _below(root, package), "packaged"))
            wanted = None
        elif any(os.path.isdir(_below(root, one)) for one in (home, f"/usr/lib{home[4:]}")):
            wanted = shield.text
        else:
            continue
        try:
            state = _state(shield.path, wanted, root)
        except Conflict:
            entries.append(Entry(shield.name, path, "kept"))
            continue
        told = _bring(shield.path, wanted, state, root)
        if told != "absent":
            entries.append(Entry(shield.name, path, told))
    return entries


def _remove_shields(root: str) -> list[Entry]:
    entries = []
    for shield in shields():
        try:
            told = _bring(shield.path, None, _state(shield.path, None, root), root)
        except Conflict:
            told = "kept"
        if told != "absent":
            entries.append(Entry(shield.name, _below(root, shield.path), told))
    return entries


def _note_of_shields(entries: Sequence[Entry], running: bool) -> str | None:
    """How a manager of networks that runs is told of its file: that is left to a person."""
    if not running or not any(entry.state in ("written", "removed") for entry in entries):
        return None
    return (
        "`networkctl reload`, or `systemctl reload NetworkManager`, makes a manager of networks"
        " that runs read its file"
    )


def changeable(where: Place) -> tuple[str, str] | None:
    """Why the units would let others become root or mislead it, and the mend; None if not so."""
    from hvtx.engine.ownership import problem_of_program

    problem = problem_of_program(where.program)
    if problem is not None:
        mend = (
            "install hvtx where only root may write (sudo env PIPX_HOME=/opt/pipx"
            " PIPX_BIN_DIR=/usr/local/bin pipx install …), or make all of it root's: chown -R"
            " root:root, chmod -R go-w, setfacl -R -b"
        )
        what = f"root would run {where.program[0]} at boot, and others could change it"
        return f"{what}: {problem}", mend
    refusal = None if where.metrics is None else output.refusal(where.metrics)
    if refusal is not None:
        return (
            f"the numbers would not be written to {where.metrics}: {refusal}",
            "name a file in a directory of root's with --metrics FILE",
        )
    return None


def refuse_changeable(where: Place) -> None:
    """Raises NotPermitted where :func:`changeable` finds something."""
    found = changeable(where)
    if found is not None:
        raise NotPermitted(found[0], hint=found[1])


def uninstall(root: str = "/") -> Outcome:
    """Disable and remove what :func:`install` made; no VM is touched, nor is the store.

    The units of hvtx's Debian package stay, enabled or not, as they are.
    Raises NotPermitted, Conflict (a foreign file: nothing is removed), HostRefused.
    """
    _need_root()
    theirs = _packaged(root)
    ours = units(Place(("/hvtx",), "/", "/", {}, metrics="/"))  # only their names count
    files = [path for unit in ours for path in (unit.path, _drop_in_path(unit.name))]
    there = [path for path in files if _state(path, None, root) != "absent"]
    copies = [_unit_of(path) for path in there if not path.endswith(DROP_IN)]
    running = _runs(root)
    if there:
        _remove_files(there, copies, theirs, root, running=running)
    entries = [Entry(name, _below(root, _theirs(name)), "packaged") for name in theirs]
    entries += [Entry(_unit_of(path), _below(root, path), "removed") for path in there]
    entries += [
        Entry(unit.name, _below(root, unit.path), "absent")
        for unit in ours
        if unit.name not in (*copies, *theirs, *OPTIONAL)
    ]
    shielding = _remove_shields(root)
    entries += shielding
    note = (
        "the units of the Debian package hvtx stay as they are: they go with the package, and"
        f" `systemctl disable --now {RECOVER} {TIMER}` turns them off"
    )
    notes = [note if theirs else None, _note_of_shields(shielding, running)]
    return Outcome(tuple(entries), running, "; ".join(filter(None, notes)) or None)


def _remove_files(
    there: Sequence[str], copies: Sequence[str], theirs: Container[str], root: str, *, running: bool
) -> None:
    """Take files of ours away, and what systemd knows of them."""
    systemctl = _systemctl()
    offline = _offline(running, root)
    enabled = [name for name in copies if name in ENABLED]
    followers = FOLLOWERS if REPAIR_AFTER in copies else ()
    own = [name for name in enabled if name not in theirs]
    again = [
        name
        for name in enabled
        if name in theirs and _answers(systemctl, *offline, "is-enabled", "--quiet", name)
    ]
    if running and own:
        _call(systemctl, "stop", *own)
    if own:
        _call(systemctl, *offline, "disable", "--quiet", *own)
    if followers:
        _call(systemctl, *offline, "disable", "--quiet", *followers)
    for path in there:
        _remove(_below(root, path))
        if path.endswith(DROP_IN):
            with suppress(OSError):  # others may keep drop-ins beside ours
                os.rmdir(os.path.dirname(_below(root, path)))
    if running:
        _call(systemctl, "daemon-reload")
    if again:  # their links led to the copies
        _call(systemctl, *offline, "reenable", "--quiet", *again)
    if running:
        if followers and REPAIR_AFTER not in theirs:  # their files are gone: no OnSuccess= by now
            program.run((systemctl, "stop", *followers), _SECONDS)  # fails if one is not loaded
        names = [name for name in copies if name not in theirs]
        program.run((systemctl, "reset-failed", *names), _SECONDS)  # fails if none had


def hidden(root: str = "/") -> list[str]:
    """Unit files of ours in /etc that hide the ones of hvtx's Debian package."""
    places = [_below(root, f"{DIRECTORY}/{name}") for name in _packaged(root)]
    return [path for path in places if is_ours(_text_at(path) or "")]


def document(outcome: Outcome) -> dict[str, Any]:
    """The JSON of ``install`` and ``uninstall``."""
    return {
        "schema": "hvtx/systemd/1",
        "units": [
            {"name": entry.name, "path": entry.path, "state": entry.state}
            for entry in outcome.units
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


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _theirs(name: str) -> str:
    """Where the Debian package has a unit."""
    return f"{PACKAGED}/{name}"


def _drop_in_path(name: str) -> str:
    return f"{DIRECTORY}/{name}.d/{DROP_IN}"


def _unit_of(path: str) -> str:
    """The unit that a file of ours is of (pure)."""
    directory, name = os.path.split(path)
    return os.path.basename(directory).removesuffix(".d") if name == DROP_IN else name


def _packaged(root: str) -> dict[str, str]:
    """``{name: text}`` of the units of hvtx's Debian package that are there."""
    found = {}
    for name in (RECOVER, COLLECT, TIMER, REPAIR, REPAIR_AFTER):
        text = _text_at(_below(root, _theirs(name)))
        if text is not None and is_packaged(text):
            found[name] = text
    return found


def _files_wanted(
    wanted: Sequence[Unit], theirs: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """``(path, text)`` of each file that ours are to be; None: it is not to be there (pure)."""
    files: list[tuple[str, str | None]] = []
    for unit in wanted:
        if unit.name in theirs:
            files.append((unit.path, None))
            files.append((_drop_in_path(unit.name), drop_in(theirs[unit.name], unit.text)))
        else:
            files.append((unit.path, unit.text))
    return files


def _bring(path: str, text: str | None, state: str, root: str) -> str:
    """Make a file what it is to be; what that was: written, unchanged, removed, absent."""
    if text is None:
        if state == "absent":
            return "absent"
        _remove(_below(root, path))
        return "removed"
    if state == "same":
        return "unchanged"
    _write(_below(root, path), text)
    return "written"


def _text_at(path: str) -> str | None:
    try:
        return paths.read_regular(path, _UNIT_MOST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise _refused(path, problem) from problem


def _state(path: str, wanted: str | None, root: str) -> str:
    """``absent``, ``same`` or ``differs`` (ours, another text); raises Conflict if not ours."""
    unit, path = _unit_of(path), _below(root, path)
    if os.path.islink(path):
        to = os.readlink(path)
        masked = to == os.devnull
        raise Conflict(
            f"{unit} is masked" if masked else f"{path} is a link to {to}, and not of hvtx",
            hint=f"systemctl unmask {unit}" if masked else "remove the link first",
        )
    text = _text_at(path)
    if text is None:
        return "absent"
    if not is_ours(text):
        raise Conflict(
            f"{path} was not written by hvtx",
            hint="move it away if it should be replaced; own changes belong in"
            f" {unit}.d/ (systemctl edit {unit})",
        )
    return "same" if text == wanted else "differs"


def _write(path: str, text: str) -> None:
    """Put ``text`` at ``path`` whole, so that a power cut leaves the old file or the new one."""
    try:
        output.write_out(path, text.encode(), mode=0o644, sync=True, make=True, draft=_DRAFT)
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


def _answers(systemctl: str, *arguments: str) -> bool:
    return program.run((systemctl, *arguments), _SECONDS).status == 0


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
