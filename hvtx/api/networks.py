"""``host.network``: the verbs of `hvtx network`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx import commands
from hvtx.api import given as check
from hvtx.api.calls import Calls, named, texts
from hvtx.api.vms import policy_change, taken_rules
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Unpack

    from hvtx.api.options import NetworkChanges, NetworkOptions
    from hvtx.commands.cluster_status import ShownRoute
    from hvtx.commands.show_networks import ShownNetwork
    from hvtx.engine.new_network import NetworkRequest


class Networks:
    """Verbs of networks. Each returns the network as the verb left it."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.network`."""
        self._calls = calls

    def create(
        self, name: str, subnets: Sequence[str], **options: Unpack[NetworkOptions]
    ) -> ShownNetwork:
        """Make a network of one subnet of a family, or two: bridge, gateways, base rules.

        Raises UsageError, Conflict (name, bridge or subnet taken), NotPermitted, HostRefused
        (undone), Busy.
        """
        asked = asked_network(name, {"subnets": subnets, **options})
        with self._calls.recording(commands.network_create.refusing(asked)) as runtime:
            made = commands.network_create.create_network(runtime, asked)
            return commands.show_networks.shown_network(runtime, made)

    def set(self, name: str, **changes: Unpack[NetworkChanges]) -> ShownNetwork:
        """Change a network, whole or not at all; what is not named stays as it is.

        Raises UsageError, NotFound, Conflict, HostRefused (all is as it was), Busy.
        """
        named(name)
        given = check.options(changes, check.NETWORK_CHANGES)
        policy = policy_change(given)
        wanted = commands.network_set.parse_changes(policy=policy, **given)
        with self._calls.opened(writable=True, create=False, spends=wanted.frees()) as runtime:
            changed = commands.network_set.set_network(runtime, name, wanted)
            return commands.show_networks.shown_network(runtime, changed)

    def rm(self, name: str) -> None:
        """Remove a network that no VM uses. Raises NotFound, Conflict, PartialFailure, Busy."""
        named(name)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            commands.network_rm.remove_network(runtime, name)

    def ls(self) -> Sequence[ShownNetwork]:
        """All networks, by name."""
        with self._calls.reading() as source:
            return source.list_networks()

    def routes(self, name: str | None = None) -> Sequence[ShownRoute]:
        """A route for each block of the cluster that a network, or any, has.

        Raises NotFound, Busy (the cluster does not answer), UsageError (none is configured).
        """
        texts(name=name)
        with self._calls.opened(writable=False) as runtime:
            return commands.cluster_status.routes(runtime, name)

    def names(self) -> Sequence[str]:
        """The names of all, without looking at the host."""
        with self._calls.opened(writable=False) as runtime:
            return commands.show.names(runtime, "network")

    def show(self, name: str) -> ShownNetwork:
        """One network. Raises NotFound."""
        named(name)
        with self._calls.reading() as source:
            return source.show_network(name)


def asked_network(name: str, options: Mapping[str, Any]) -> NetworkRequest:
    """What was asked for, checked by itself. Raises UsageError."""
    from hvtx.engine.network_options import parse_network
    from hvtx.engine.vm_options import parse_policy

    named(name)
    asked = check.options(options, check.NETWORK | {"subnets"})
    given = {"nat": True, "isolate": False, **asked}
    policy = parse_policy(*taken_rules(given))
    subnets, bridge, mtu = (given.pop(n, None) for n in ("subnets", "bridge", "mtu"))
    return parse_network(
        name, subnets or (), bridge, 1500 if mtu is None else mtu, policy=policy, **given
    )
