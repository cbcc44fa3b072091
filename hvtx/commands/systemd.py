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

from hvtx.engine.autostart import program_path
from hvtx.engine.installed_zone import FILE, install_zone, needs_reload, remove_zone
from hvtx.engine.packaged_units import homes, packaged_as
from hvtx.engine.systemctl import (
    CALL_SECONDS,
    call_systemctl,
    is_enabled,
    offline_option,
    runs_here,
    systemctl_path,
)
from hvtx.engine.unit_files import (
    below,
    bring,
    drop_in_path,
    files_wanted,
    path_of_package,
    remove_file,
    state_of_file,
    text_at,
    unit_of,
    units_of_package,
)
from hvtx.engine.units import (
    DROP_IN,
    ENABLED,
    FIREWALLS,
    FOLLOWERS,
    OPTIONAL,
    RECOVER,
    REPAIR_AFTER,
    TIMER,
    TIMERS,
    Place,
    Unit,
    is_packaged,
    shields,
    units,
)
from hvtx.errors import Conflict, HostRefused, NotPermitted, UsageError
from hvtx.host import output, program
from hvtx.host.kvm import VARIABLE, wanted_accelerator
from hvtx.model.block import Cluster
from hvtx.model.typed import NamedTuple


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
    cluster: Cluster | None = None,
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
        cluster,
    )


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
    systemctl = systemctl_path()
    refuse_changeable(where)
    theirs = units_of_package(root)
    files = files_wanted(wanted, theirs)
    states = [state_of_file(path, text, root) for path, text in files]
    entries = [Entry(name, below(root, path_of_package(name)), "packaged") for name in theirs]
    for (path, text), state in zip(files, states, strict=True):
        told = bring(path, text, state, root)
        if text is not None or told == "removed":
            entries.append(Entry(unit_of(path), below(root, path), told))
    running = runs_here(root)
    if running:  # also where nothing differs: an install that was killed may have left it undone
        call_systemctl(systemctl, "daemon-reload")
    names = [unit.name for unit in wanted]
    enabled = [name for name in names if name in ENABLED]
    # the links of a copy that was removed lead to it, and must lead to the package's unit
    verb = "reenable" if theirs else "enable"
    call_systemctl(systemctl, *offline_option(running, root), verb, "--quiet", *enabled)
    # the package's follow firewalls by links of the package
    following = "disable" if REPAIR_AFTER in theirs else "enable"
    call_systemctl(systemctl, *offline_option(running, root), following, "--quiet", *FOLLOWERS)
    if running:
        call_systemctl(systemctl, "start", *(name for name in names if name in TIMERS))
        followers = _followers_of_running(systemctl)
        if followers:
            call_systemctl(systemctl, "start", "--no-block", *followers)
    shielding = _install_shields(root)
    zone = install_zone(root)
    entries += [*shielding, *_zone_entry(zone)]
    note = "the units come with the Debian package hvtx, and are used as they are"
    if any(entry.path.endswith(DROP_IN) and entry.state != "removed" for entry in entries):
        note = "the units come with the Debian package hvtx; drop-ins hold what is otherwise here"
    notes = [note if theirs else None, _note(running, root), _note_of_shields(shielding, running)]
    notes.append(_note_of_zone(zone, root))
    return Outcome(tuple(entries), running, "; ".join(filter(None, notes)) or None)


def _followers_of_running(systemctl: str) -> list[str]:
    """The units that follow the firewalls whose services are active now."""
    services = [f"{name}.service" for name in FIREWALLS]
    states = program.run((systemctl, "is-active", *services), CALL_SECONDS).output.split()
    return [unit for unit, state in zip(FOLLOWERS, states, strict=False) if state == "active"]


def _install_shields(root: str) -> list[Entry]:
    """Files for other programs: theirs who wrote one of the same name stays as it is.

    NetworkManager's and dnsmasq's only where they are installed.
    """
    entries = []
    for shield in shields():
        path = below(root, shield.path)
        package = packaged_as(shield).path
        if is_packaged(text_at(below(root, package)) or ""):
            entries.append(Entry(shield.name, below(root, package), "packaged"))
            wanted = None
        elif any(os.path.isdir(below(root, one)) for one in homes(shield)):
            wanted = shield.text
        else:
            continue
        try:
            state = state_of_file(shield.path, wanted, root)
        except Conflict:
            entries.append(Entry(shield.name, path, "kept"))
            continue
        told = bring(shield.path, wanted, state, root)
        if told != "absent":
            entries.append(Entry(shield.name, path, told))
    return entries


def _remove_shields(root: str) -> list[Entry]:
    entries = []
    for shield in shields():
        try:
            told = bring(shield.path, None, state_of_file(shield.path, None, root), root)
        except Conflict:
            told = "kept"
        if told != "absent":
            entries.append(Entry(shield.name, below(root, shield.path), told))
    return entries


def _note_of_shields(entries: Sequence[Entry], running: bool) -> str | None:
    """How a manager of networks that runs is told of its file: that is left to a person."""
    if not running or not any(entry.state in ("written", "removed") for entry in entries):
        return None
    return (
        "`networkctl reload`, or `systemctl reload NetworkManager`, makes a manager of networks"
        " that runs read its file"
    )


def _zone_entry(zone: tuple[str, str] | None) -> list[Entry]:
    return [] if zone is None else [Entry(FILE, *zone)]


def _note_of_zone(zone: tuple[str, str] | None, root: str) -> str | None:
    """What a firewalld that runs needs, to put bridges into its zone at once: a person's word."""
    try:
        if zone is None or os.path.realpath(root) != "/" or not needs_reload():
            return None
    except HostRefused as problem:
        return problem.message
    return (
        "`firewall-cmd --reload` makes a firewalld that runs know the zone hvtx; it ends what was"
        " set at run time alone, and empties the tables of iptables"
    )


def changeable(where: Place) -> tuple[str, str] | None:
    """Why the units would let others become root or mislead it, and the fix; None if not so."""
    from hvtx.engine.ownership import problem_of_program

    problem = problem_of_program(where.program)
    if problem is not None:
        fix = (
            "install hvtx where only root may write (sudo env PIPX_HOME=/opt/pipx"
            " PIPX_BIN_DIR=/usr/local/bin pipx install …), or make all of it root's: chown -R"
            " root:root, chmod -R go-w, setfacl -R -b"
        )
        what = f"root would run {where.program[0]} at boot, and others could change it"
        return f"{what}: {problem}", fix
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
    theirs = units_of_package(root)
    ours = units(Place(("/hvtx",), "/", "/", {}, metrics="/"))  # only their names count
    files = [path for unit in ours for path in (unit.path, drop_in_path(unit.name))]
    there = [path for path in files if state_of_file(path, None, root) != "absent"]
    copies = [unit_of(path) for path in there if not path.endswith(DROP_IN)]
    running = runs_here(root)
    if there:
        _remove_files(there, copies, theirs, root, running=running)
    entries = [Entry(name, below(root, path_of_package(name)), "packaged") for name in theirs]
    entries += [Entry(unit_of(path), below(root, path), "removed") for path in there]
    entries += [
        Entry(unit.name, below(root, unit.path), "absent")
        for unit in ours
        if unit.name not in (*copies, *theirs, *OPTIONAL)
    ]
    shielding = _remove_shields(root)
    entries += [*shielding, *_zone_entry(remove_zone(root))]
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
    systemctl = systemctl_path()
    offline = offline_option(running, root)
    enabled = [name for name in copies if name in ENABLED]
    followers = FOLLOWERS if REPAIR_AFTER in copies else ()
    own = [name for name in enabled if name not in theirs]
    again = [name for name in enabled if name in theirs and is_enabled(systemctl, offline, name)]
    if running and own:
        call_systemctl(systemctl, "stop", *own)
    if own:
        call_systemctl(systemctl, *offline, "disable", "--quiet", *own)
    if followers:
        call_systemctl(systemctl, *offline, "disable", "--quiet", *followers)
    for path in there:
        remove_file(below(root, path))
        if path.endswith(DROP_IN):
            with suppress(OSError):  # others may keep drop-ins beside ours
                os.rmdir(os.path.dirname(below(root, path)))
    if running:
        call_systemctl(systemctl, "daemon-reload")
    if again:  # their links led to the copies
        call_systemctl(systemctl, *offline, "reenable", "--quiet", *again)
    if running:
        if followers and REPAIR_AFTER not in theirs:  # their files are gone: no OnSuccess= by now
            program.run((systemctl, "stop", *followers), CALL_SECONDS)  # fails if one is not loaded
        names = [name for name in copies if name not in theirs]
        program.run((systemctl, "reset-failed", *names), CALL_SECONDS)  # fails if none had


# -- systemd ---------------------------------------------------------------------------------------


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted(
            "installing and removing systemd units needs root",
            hint="run it with sudo; `hvtx systemd print` shows the units without it",
        )


def _note(running: bool, root: str) -> str | None:
    if running:
        return None
    if os.path.realpath(root) != "/":
        return f"the units act when the system in {root} boots"
    return "systemd does not run here: the units act from the next boot with systemd on"
