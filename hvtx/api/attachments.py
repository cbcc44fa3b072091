"""``host.attachments``: interfaces of containers, as a runtime asks for them by CNI."""

from __future__ import annotations

from hvtx import commands
from hvtx.api.calls import Calls
from hvtx.errors import Conflict, HostRefused
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hvtx.model.attachment import (
        Attached,
        AttachmentKey,
        AttachmentRequest,
        Collected,
        Missing,
    )


_ENDS = {"writable": True, "create": False, "spends": True, "ends": True}


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
        with self._calls.recording(
            lambda runtime: commands.cni_add.refuse_first(runtime, request)
        ) as runtime:
            return commands.cni_add.add(runtime, request)

    def delete(self, key: AttachmentKey) -> None:
        """End an attachment, whether its namespace lives or not; one that is not there is done.

        Raises PartialFailure (gc does the rest), Busy.
        """
        with self._calls.opened(**_ENDS) as runtime:
            commands.cni_del.delete(runtime, key)

    def check(self, request: AttachmentRequest) -> tuple[Missing, ...]:
        """What of an attachment is missing or was changed, each with the command that mends it.

        Raises NotFound (the namespace), NotPermitted, Refused.
        """
        with self._calls.opened(writable=False) as runtime:
            return commands.cni_check.check(runtime, request)

    def collect(self, network: str, valid: Collection[tuple[str, str]]) -> Collected:
        """Release what a configuration's attachments have that are not listed and proven dead.

        ``valid``: container and interface of each. Raises Busy, Refused.
        """
        with self._calls.opened(**_ENDS) as runtime:
            return commands.cni_gc.collect(runtime, network, valid)

    def status(
        self,
        bridge_network: str,
        subnets: Sequence[str] | None = None,
        mtu: int | None = None,
        *,
        nat: bool | None = None,
        isolate: bool | None = None,
        vm: bool = False,
    ) -> None:
        """Raise what an ADD in a network would meet, which would make it of what is declared.

        UsageError (it cannot be made so), NotFound (``subnets`` is empty, not None), Refused,
        NotPermitted, StoreError, HostRefused, Conflict (it is another one, its subnet is taken, or
        it has no address left); HostRefused with the code ``network-damaged`` where what is
        attached already suffers, too.
        """

        def ask() -> None:
            with self._calls.opened(writable=False) as runtime:
                commands.cni_status.check_status(
                    runtime, bridge_network, subnets, mtu, nat=nat, isolate=isolate, vm=vm
                )

        try:
            ask()
        except (Conflict, HostRefused):
            # the first ADD may just have made the network, or `network set` have exchanged rules
            ask()

    def show(self, key: AttachmentKey) -> Attached | None:
        """An attachment as ADD told it; None where there is none that was committed."""
        from hvtx.engine import attachments

        with self._calls.opened(writable=False) as runtime:
            return attachments.show(runtime, key)
