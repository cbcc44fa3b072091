"""``host.cluster``: the verbs of `hvtx cluster`."""

from __future__ import annotations

from hvtx import commands
from hvtx.api.calls import Calls, named
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx.commands.cluster_forget import Forgotten
    from hvtx.commands.cluster_register import Registered
    from hvtx.commands.cluster_status import ClusterStatus


class Clusters:
    """Verbs of a cluster, of which this host has blocks of addresses."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.cluster`."""
        self._calls = calls

    def status(self) -> ClusterStatus:
        """Whether the cluster answers, which blocks this host has, and which others have.

        Raises UsageError where the configuration has no ``[cluster]``.
        """
        with self._calls.opened(writable=False) as runtime:
            return commands.cluster_status.status(runtime)

    def forget(self, what: str) -> Forgotten:
        """Free the blocks of a host that is gone for good, or one block that is not on record.

        It is the caller's word that no guest uses an address of them. Raises NotFound, Conflict,
        Busy, Refused.
        """
        named(what, "what")
        with self._calls.recording(
            lambda runtime: commands.cluster_forget.refuse_first(runtime, what), spends=True
        ) as runtime:
            return commands.cluster_forget.forget(runtime, what)

    def register(self) -> Registered:
        """Register this host anew: with another machine id, or with another etcd.

        It is the caller's word that no other machine has the blocks on record. Raises Conflict,
        Busy, Refused, HostRefused.
        """
        with self._calls.recording(commands.cluster_register.refuse_first) as runtime:
            return commands.cluster_register.register(runtime)
