"""The highest change that this host has seen of a store, beside the store: in the run directory.

``<run-dir>/<installation>/hwm``, 8 bytes, little-endian. A store whose own number is lower has lost
commits (:mod:`hvtx.store.trust`). It is written under the lock of the store's write queue. 8 more
bytes follow once a backup was put back: how often that was. Whoever opened the store before has
decided from what is not there any more.
"""

from __future__ import annotations

import os
from contextlib import suppress

from hvtx.errors import StoreError, room_hint
from hvtx.host import paths

FILE = "hwm"


class HighWaterMark:
    """The mark of one installation, in its run directory."""

    def __init__(self, run_directory: str) -> None:
        """Nothing is made or opened before it is needed."""
        self._run_directory = run_directory
        self._descriptor: int | None = None
        self._made = False
        self._restored: bytes | None = None  # how often, as it was first seen
        self.newest = 0  # as it was last looked at

    @property
    def run_directory(self) -> str:
        """Where it is: ``<run-dir>/<installation>``."""
        return self._run_directory

    def make_directory(self) -> None:
        """Make its directory, or see that it is there and that nobody else can replace it.

        Once is enough: who could make it otherwise since then is trusted too: its owner, root.
        One that is gone is made again. Raises as :func:`make_run_directory`.
        """
        if not self._made or not os.path.isdir(self._run_directory):
            make_run_directory(self._run_directory)
            self._made = True

    def close(self) -> None:
        """Give back the descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def open(self) -> int:
        """The descriptor; the file is there with its room taken. Raises StoreError."""
        if self._descriptor is None:
            try:
                self.make_directory()
                descriptor = self._descriptor = os.open(
                    os.path.join(self._run_directory, FILE),
                    os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                    0o600,
                )
                if os.fstat(descriptor).st_size < 8:
                    os.pwrite(descriptor, bytes(8), 0)
            except OSError as problem:
                raise StoreError(
                    f"the run directory {self._run_directory} cannot be written:"
                    f" {problem.strerror}",
                    hint=room_hint(
                        problem, "free some space there, or choose another place with --run-dir"
                    ),
                ) from problem
        return self._descriptor

    def look(self) -> bool:
        """Look at it before a change; False where the store was restored since it was opened.

        ``newest`` is what it says until the lock of the queue is free again; 0 without a whole one.
        """
        data = b""
        with suppress(OSError):
            data = os.pread(self.open(), 16, 0)
        self.newest = int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
        if self._restored is None:
            self._restored = data[8:]
        return data[8:] == self._restored

    def raise_to(self, seq: int) -> None:
        """Raise it to ``seq``, which is committed, after :meth:`look`.

        The commit cannot be taken back: a mark that does not rise proves less, and is no reason to
        report a failure.
        """
        if seq > self.newest:
            with suppress(OSError):
                os.pwrite(self.open(), seq.to_bytes(8, "little"), 0)

    def note_restored(self) -> None:
        """Say that the store gets a backup's content. Raises StoreError, OSError."""
        times = int.from_bytes(os.pread(self.open(), 16, 0)[8:], "little") + 1
        os.pwrite(self.open(), times.to_bytes(8, "little"), 8)

    def put_at(self, seq: int) -> None:
        """Set it to ``seq``, which may be lower than it is. Raises StoreError, OSError."""
        os.pwrite(self.open(), seq.to_bytes(8, "little"), 0)

    def last_seen(self) -> int | None:
        """The highest change that was seen; None without a whole mark.

        What is read of the store from here on is of the content that :meth:`look` asks for.
        """
        data = b""
        with suppress(OSError), open(f"{self._run_directory}/{FILE}", "rb", buffering=0) as file:
            data = file.read(17)
        self._restored = data[8:]
        return int.from_bytes(data[:8], "little") if len(data) in (8, 16) else None


def make_run_directory(path: str) -> None:
    """Make ``<run-dir>/<installation>``, mode 0700, unless it is there and ours.

    Raises OSError, and StoreError where somebody else could put files in its place.
    """
    try:
        problem = paths.problem(path)
    except FileNotFoundError:
        try:
            paths.make_directories(path, 0o700)
            problem = paths.problem(path)
        except paths.UnsafeError as unsafe:
            problem = unsafe.strerror
    if problem is not None:
        raise StoreError(
            f"refusing to use the run directory {path}: {problem}",
            hint="make it writable by you alone (chown, chmod go-w, setfacl -b), or choose "
            "another with --run-dir",
        )
