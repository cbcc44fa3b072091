"""``host.attachments``: interfaces of containers, as a runtime asks for them by CNI."""

from __future__ import annotations

from hvtx import commands
from hvtx.api.calls import Calls, again_when_full
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx.model.attachment import (
        Attached,
        AttachmentKey,
        AttachmentRequest,
    )


class Attachments:
    """Verbs of attachments, in the words of the CNI specification."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.attachments`."""
        self._calls = calls

    def add(self, request: AttachmentRequest) -> Attached:
        """Attach a container's namespace to a network, whole or not at all.

        Raises Conflict (it is attached and lives; what is taken), NotFound (its namespace, the
        network), UsageError, HostRefused (undone), Busy.
        """
        with self._calls.opened(writable=True) as runtime:
            return commands.cni_add.add(runtime, request)

    @again_when_full
    def delete(self, key: AttachmentKey) -> None:
        """End an attachment, whether its namespace lives or not; one that is not there is done.

        Raises PartialFailure (gc does the rest), Busy.
        """
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            commands.cni_del.delete(runtime, key)
