"""State files of other tools, read, and what the host shows of what they speak of."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hvtx.drivers.foreign_rules import ForeignRules
from hvtx.engine.runtime import Runtime
from hvtx.errors import HostRefused, HvtxError, NotFound
from hvtx.host import openfiles, paths, procfs, trust
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import DEVICES, Kind
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import ProcessFacts
from hvtx.planner import adoption
from hvtx.planner.adoption import TOOL, AdoptFacts, Claim, Why
from hvtx.store import records

_STATE = "state.json"
_LEVELS_OF_OTHERS = 2  # of directories below one of somebody else's
_LARGEST = 1 << 20  # bytes of a state.json: theirs have some hundred
LIMITS = "look at the limits on open files and memory, and try again; nothing was taken"


class Unread(NamedTuple):
    """A file that is no ``state.json``, or that others could have written; and why."""

    path: str
    reason: Why
    message: str


def find_states(given: Iterable[str]) -> list[Path]:
    """The ``state.json`` files that are meant: files as given, directories searched.

    Links stay in the paths: who made one counts when the file is opened.
    """
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(_below(str(path)))
            if not inside:
                raise NotFound(
                    f"there is no state.json in {path}",
                    hint="give the tool's state directory, or the files themselves",
                )
            found.update(dict.fromkeys(map(Path.absolute, inside)))
        elif path.exists():
            found[path.absolute()] = None
        else:
            raise NotFound(f"{path} does not exist", hint="give state.json files or directories")
    return list(found)


def _below(top: str) -> Iterator[Path]:
    """Each ``state.json`` in a directory and those below it, links to directories aside.

    What lies below somebody else's directory is believed by nobody: it is looked for a few levels
    deep, to be told of, and no deeper, however deep others make it. What cannot be looked at is
    passed over.
    """
    todo = [(top, 0, -1)]
    while todo:
        directory, others, above = todo.pop()
        with suppress(OSError):
            seen = os.stat(directory, follow_symlinks=directory == top)
            if seen.st_dev != above and trust.mounter_of(seen.st_dev) is not None:
                continue  # another user's file system, which may have no end
            others += bool(others) or trust.foreign_owner(seen) is not None
            if os.path.exists(file := os.path.join(directory, _STATE)):
                yield Path(file)
            if others <= _LEVELS_OF_OTHERS:
                with os.scandir(directory) as entries:
                    inside = [one.path for one in entries if one.is_dir(follow_symlinks=False)]
                todo += [(path, others, seen.st_dev) for path in inside]


def read_states(files: Iterable[Path]) -> tuple[list[Claim], list[Unread]]:
    """The VMs that the files speak of, and the files that cannot be believed."""
    claims, unread = [], []
    known = set()
    for file in files:
        path = str(file)
        try:
            descriptor = paths.open_believed(path)
            seen = os.fstat(descriptor)
            text = paths.read(descriptor, _LARGEST, path).decode()
            if (seen.st_dev, seen.st_ino) not in known:  # by a link and by its own name
                known.add((seen.st_dev, seen.st_ino))
                claims.append(adoption.parse_state(text, os.path.realpath(path)))
        except paths.UnsafeError as unsafe:
            words = f"refusing to use the file: {unsafe.strerror}; make it and its directories"
            words += " writable by root alone (chown, chmod go-w, setfacl -b)"
            unread.append(Unread(path, Why.NOT_BELIEVED, words))
        except (OSError, ValueError, RecursionError) as problem:
            why = problem.strerror if isinstance(problem, OSError) else problem
            words = f"it is no state.json of {TOOL}: {why}"
            unread.append(Unread(path, Why.UNREADABLE, words))
    return claims, unread


def sight_of(runtime: Runtime, claims: Sequence[Claim]) -> tuple[list[Claim], AdoptFacts]:
    """Look at everything that the claims speak of; raises HvtxError if that cannot be.

    The claims come back with the devices' own names.
    """
    links = Links()
    try:
        seen = links.all()
    except (OSError, DumpInterrupted) as problem:
        raise HvtxError(
            f"the host's links could not be listed: {problem}",
            hint="try again; nothing was changed",
        ) from problem
    finally:
        links.close()
    claims = adoption.by_own_names(claims, seen)
    holders = openfiles.tap_holders({claim.device for claim in claims if claim.device})
    with runtime.reading() as sql:
        rows = [row for row in records.resources(sql) if row.kind != Kind.LEASE]
        names = {name: identity for identity, name in records.vm_names(sql).items()}
    recorded = {row.key: row.vm or "" for row in rows if row.kind in DEVICES}
    recorded.update({row.mark: row.vm or "" for row in rows})
    return claims, AdoptFacts(
        links=seen,
        holders={
            name: tuple(holder.pid for holder in found) for name, found in holders.found.items()
        },
        rules=ForeignRules(runtime.host).rules() if any(claim.rules for claim in claims) else (),
        processes={claim.pid: look_at(claim.pid) for claim in claims if claim.pid},
        recorded=recorded,
        names=names,
    )


_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def look_at(pid: int) -> ProcessFacts:
    """What is to be seen of a process; HostRefused where only want of room is in the way.

    A VM that is taken over without its process stays unknown for good.
    """
    facts = procfs.look(pid)
    if facts.code in _EXHAUSTED:
        raise HostRefused(
            f"process {pid} cannot be inspected: {facts.error}",
            hint=LIMITS,
        )
    return facts
