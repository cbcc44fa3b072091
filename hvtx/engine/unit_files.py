"""Files of units as they stand in a host: written whole or not at all, and only ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hvtx.engine.packaged_units import drop_in
from hvtx.engine.units import (
    ASKING,
    COLLECT,
    CUT_OFF,
    DIRECTORY,
    DROP_IN,
    PACKAGED,
    RECOVER,
    REPAIR,
    REPAIR_AFTER,
    TIMER,
    Unit,
    is_ours,
    is_packaged,
)
from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted
from hvtx.host import output, paths

_UNIT_MOST = 1 << 20  # bytes
_DRAFT = ".hvtx-new"


def hidden(root: str = "/") -> list[str]:
    """Unit files of ours in /etc that hide the ones of hvtx's Debian package."""
    places = [below(root, f"{DIRECTORY}/{name}") for name in units_of_package(root)]
    return [path for path in places if is_ours(text_at(path) or "")]


def cut_off(root: str = "/") -> list[str]:
    """Units of ours that ask the cluster, and whose sandbox keeps them from it.

    They were made before ``[cluster]`` was.
    """
    return [name for name in ASKING if _is_cut_off(name, root)]


def _is_cut_off(name: str, root: str) -> bool:
    own = below(root, f"{DIRECTORY}/{name}")
    if os.path.islink(own):
        return False  # it is masked, or somebody's
    texts = []
    with suppress(OSError, HvtxError):  # of what cannot be read nothing is said
        texts.append(text_at(own) or text_at(below(root, path_of_package(name))) or "")
        files = sorted(one for one in os.listdir(f"{own}.d") if one.endswith(".conf"))
        texts += [text_at(os.path.join(f"{own}.d", one)) or "" for one in files]
    lines = [line for text in texts for line in text.splitlines()]
    if any(line.startswith("IPAddressAllow=") for line in lines):
        return False  # somebody's own
    said = [line for line in lines if line.startswith("IPAddressDeny=")]
    return said[-1:] == [CUT_OFF]


def below(root: str, path: str) -> str:
    """A path of the system that stands in ``root``."""
    return os.path.join(root, path.lstrip("/"))


def path_of_package(name: str) -> str:
    """Where the Debian package has a unit."""
    return f"{PACKAGED}/{name}"


def drop_in_path(name: str) -> str:
    """Where our changes to a unit of the Debian package stand."""
    return f"{DIRECTORY}/{name}.d/{DROP_IN}"


def unit_of(path: str) -> str:
    """The unit that a file of ours is of (pure)."""
    directory, name = os.path.split(path)
    return os.path.basename(directory).removesuffix(".d") if name == DROP_IN else name


def units_of_package(root: str) -> dict[str, str]:
    """``{name: text}`` of the units of hvtx's Debian package that are there."""
    found = {}
    for name in (RECOVER, COLLECT, TIMER, REPAIR, REPAIR_AFTER):
        text = text_at(below(root, path_of_package(name)))
        if text is not None and is_packaged(text):
            found[name] = text
    return found


def files_wanted(wanted: Sequence[Unit], theirs: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """``(path, text)`` of each file that ours are to be; None: it is not to be there (pure)."""
    files: list[tuple[str, str | None]] = []
    for unit in wanted:
        if unit.name in theirs:
            files.append((unit.path, None))
            files.append((drop_in_path(unit.name), drop_in(theirs[unit.name], unit.text)))
        else:
            files.append((unit.path, unit.text))
    return files


def bring(path: str, text: str | None, state: str, root: str) -> str:
    """Make a file what it is to be; what that was: written, unchanged, removed, absent."""
    if text is None:
        if state == "absent":
            return "absent"
        remove_file(below(root, path))
        return "removed"
    if state == "same":
        return "unchanged"
    _write(below(root, path), text)
    return "written"


def text_at(path: str) -> str | None:
    """The text of a file; None where there is none. Raises HostRefused, NotPermitted."""
    try:
        return paths.read_regular(path, _UNIT_MOST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise _refused(path, problem) from problem


def state_of_file(path: str, wanted: str | None, root: str) -> str:
    """``absent``, ``same`` or ``differs`` (ours, another text); raises Conflict if not ours."""
    unit, path = unit_of(path), below(root, path)
    if os.path.islink(path):
        to = os.readlink(path)
        masked = to == os.devnull
        raise Conflict(
            f"{unit} is masked" if masked else f"{path} is a link to {to}, and not of hvtx",
            hint=f"systemctl unmask {unit}" if masked else "remove the link first",
        )
    text = text_at(path)
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


def remove_file(path: str) -> None:
    """Remove a file, for good even if power is cut now."""
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
