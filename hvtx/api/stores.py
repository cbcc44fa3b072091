"""``host.store``: the state store in another file, and back."""

from __future__ import annotations

from hvtx import commands
from hvtx.api.calls import Calls, flags, path
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from hvtx.commands.store_backup import Copied, Restored

    Path = str | os.PathLike[str]


class Stores:
    """Verbs of the store."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.store`."""
        self._calls = calls

    def backup(self, file: Path, *, force: bool = False) -> Copied:
        """Copy the store to ``file``: whole, checked, mode 0600; verbs may run meanwhile.

        Raises NotFound, Conflict (it exists, without ``force``), UsageError, NotPermitted.
        """
        named = path(file, "file")
        flags(force=force)
        with self._calls.speaking():
            return commands.store_backup.backup(self._calls.settings, named, force=force)

    def restore(self, file: Path, *, force: bool = False) -> Restored:
        """Put the backup ``file`` into the store's place; the value says what to do next.

        Raises NotFound, UsageError, Conflict (VMs run, without ``force``), Refused, StoreError.
        """
        named = path(file, "file")
        flags(force=force)
        with self._calls.speaking():
            return commands.store_backup.restore(self._calls.settings, named, force=force)
