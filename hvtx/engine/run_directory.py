"""The run directory of an installation: its locks, and the marker that it is in use here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from hvtx.errors import Conflict, StoreError, room_hint
from hvtx.host.files import is_there
from hvtx.host.locks import LockFile
from hvtx.model.resource import Kind, Resource
from hvtx.store.high_water_mark import HighWaterMark

_MARKER_MOST = 1 << 13  # bytes: two lines, of which a path is the longest part
_OLDER = b"an older copy of the store was accepted\n"  # the marker's last line, if there at all


class RunDirectory:
    """``<run-dir>/<installation>``; nothing in it is made or opened before it is needed."""

    def __init__(self, mark: Callable[[], HighWaterMark]) -> None:
        """``mark`` is the store's, in the same directory, which is known once the store is open."""
        self._mark = mark
        self._names: LockFile | None = None
        self._operations: LockFile | None = None

    def close(self) -> None:
        """Give back the locks."""
        for file in (self._names, self._operations):
            if file is not None:
                file.close()

    def path(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self._mark().run_directory, name)

    def _make(self) -> None:
        try:
            self._mark().make_directory()
        except OSError as problem:
            where = self._mark().run_directory
            raise StoreError(
                f"the run directory {where} cannot be made: {problem.strerror}",
                hint="choose another place with --run-dir",
            ) from problem

    # -- locks ---------------------------------------------------------------------------------

    @property
    def names(self) -> LockFile:
        """Locks of VMs and networks by name. Raises StoreError."""
        if self._names is None:
            self._names = self._lock_file("names.lock")
        return self._names

    @property
    def operations(self) -> LockFile:
        """Locks of operations by id. Raises StoreError."""
        if self._operations is None:
            self._operations = self._lock_file("operations.lock")
        return self._operations

    def holds(self, operation: int) -> bool:
        """Whether some other process holds an operation's lock; the file need not be there."""
        if self._operations is None:
            path = self.path("operations.lock")
            with suppress(FileNotFoundError):  # only this says that it is not there
                self._operations = LockFile(path, make=False)
        return self._operations is not None and self._operations.held_elsewhere(operation)

    def _lock_file(self, name: str) -> LockFile:
        self._make()
        path = self.path(name)
        try:
            return LockFile(path)
        except OSError as problem:
            raise StoreError(
                f"{path} cannot be opened: {problem.strerror}",
                hint="look at the run directory's permissions and space, or choose another place"
                " with --run-dir",
            ) from problem

    # -- marker --------------------------------------------------------------------------------

    def refuse_another(self, rows: Iterable[Resource]) -> None:
        """Raise Conflict if files of this life's rows lie in another run directory that is in use.

        Its locks are not ours: what runs there would be taken for what was interrupted.
        """
        own = self.path("")[:-1]
        within = f"/{os.path.basename(own)}/"
        for row in rows:
            above, found, _ = row.key.partition(within)
            if row.kind != Kind.FILE or not found or f"{above}{within[:-1]}" == own:
                continue
            if is_there(f"{above}{within}marker"):
                raise Conflict(
                    f"the VMs and networks of this store live in the run directory {above}, not in"
                    f" {os.path.dirname(own)}",
                    hint=f"give that one: --run-dir {above} before the command, or"
                    f" HVTX_RUN_DIR={above}",
                )

    def is_marked(self) -> bool:
        """Whether a marker is there."""
        return is_there(self.path("marker"))

    def mark(self, text: bytes, *, older: bool = False) -> bool:
        """Write the marker, if it does not say that already. Raises StoreError.

        Whether a person accepted an ``older`` copy of the store in this life of the host stands in
        it, too, and is returned.
        """
        path = self.path("marker")
        with suppress(OSError), open(path, "rb", buffering=0) as marker:
            seen = marker.read(_MARKER_MOST)
            older = older or seen.endswith(_OLDER)
            if seen == (text + _OLDER if older else text):
                return older
        self._make()
        _write(path, text + _OLDER if older else text)
        return older

    def doubt(self) -> None:
        """Say in a marker that is there that an older copy is accepted. Raises StoreError."""
        path = self.path("marker")
        try:
            with open(path, "rb", buffering=0) as marker:
                seen = marker.read(_MARKER_MOST)
        except FileNotFoundError:
            return  # it is written with the next change
        except OSError as problem:
            raise _unwritable(path, problem) from problem
        if not seen.endswith(_OLDER):
            _write(path, seen + _OLDER)

    def believe(self) -> None:
        """Take that back: nothing of the host is off the record."""
        with suppress(OSError), open(self.path("marker"), "rb+", buffering=0) as marker:
            seen = marker.read(_MARKER_MOST)
            if seen.endswith(_OLDER):
                marker.truncate(len(seen) - len(_OLDER))


def _write(path: str, text: bytes) -> None:
    """Write the marker in one step: whoever has no room, or is killed, leaves what it said before.

    Raises StoreError.
    """
    try:
        with open(f"{path}.new", "wb", opener=_private) as marker:
            marker.write(text)
        os.rename(f"{path}.new", path)
    except OSError as problem:
        raise _unwritable(path, problem) from problem


def _unwritable(path: str, problem: OSError) -> StoreError:
    hint = "free some space there, or choose another place with --run-dir"
    return StoreError(
        f"{path} cannot be written: {problem.strerror}", hint=room_hint(problem, hint)
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
