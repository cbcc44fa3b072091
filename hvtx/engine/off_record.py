"""Guests that an older copy of the store does not know: whose addresses they have.

Such a guest runs on after the copy was put back. Nothing of the store tells its addresses, but each
has elements or rules in its network's firewall, with a mark of this installation and its addresses.
The look reads the whole firewall. So it is taken only while the life of the host lasts in which a
person accepted an older copy, and `gc --apply` has not found since that nothing is off the record.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping

from hvtx.drivers.base import FirewallDriver
from hvtx.engine.own_addresses import own_among
from hvtx.errors import Conflict
from hvtx.model.mark import installation_of
from hvtx.model.resource import Address, Entry
from hvtx.model.vm import Network, Vm

_ADDRESS = re.compile(r"(?<![\w.:])(?:\d+(?:\.\d+){3}|[0-9a-f]*:[0-9a-f:]+)(?![\w.:])")


class OffRecord:
    """The addresses of guests off the record, read once for each network."""

    def __init__(
        self,
        installation: str,
        firewall: Callable[[str], FirewallDriver],
        known: Callable[[Collection[str]], Collection[str]],
        believe: Callable[[], None],
    ) -> None:
        """``known`` tells those of some marks that are on record, or were, of what is released.

        ``believe`` ends the doubt: nothing is off the record any more.
        """
        self._installation = installation
        self._firewall = firewall
        self._known = known
        self.believe = believe
        self._seen: dict[str, dict[str, str]] = {}

    def guests(self, networks: Iterable[Network]) -> Mapping[str, str]:
        """By address, the mark of what a guest off the record has in these networks.

        An address that such a guest may talk to, and that a rule names, counts as well. Raises as
        :meth:`FirewallDriver.observe`.
        """
        found: dict[str, str] = {}
        for network in networks:
            if network.id not in self._seen:
                entries = self._firewall(network.firewall).observe()
                own = [one for one in entries if installation_of(one.mark) == self._installation]
                known = self._known({one.mark for one in own if one.mark is not None})
                self._seen[network.id] = addresses_of(own, known, network)
            found |= self._seen[network.id]
        return found

    def refuse(self, wanted: Iterable[str | None], networks: Iterable[Network]) -> None:
        """Raise Conflict if a guest off the record has one of the addresses that are wanted."""
        found = self.guests(networks)
        for address in wanted:
            if address is not None and address in found:
                raise Conflict(
                    f"a VM that is not on record has the address {address}: an older copy of the"
                    f" store was put back (mark {found[address]})",
                    hint="choose another address; or end that VM's process, which `hvtx gc --plan`"
                    " names, and then: hvtx gc --apply --unrecorded",
                )

    def refuse_vm(self, vm: Vm, networks: Iterable[Network]) -> None:
        """The same of a VM that is to be started."""
        self.refuse((a for interface in vm.interfaces for a in interface.addresses), networks)


def addresses_of(
    entries: Iterable[Entry], known: Collection[str], network: Network
) -> dict[str, str]:
    """By address of a network's subnets, the mark of an entry that names it (pure).

    Not of entries whose marks are ``known``.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry.mark is None or entry.mark in known:
            continue
        named = filter(None, map(_canonical, _ADDRESS.findall(entry.text)))
        for one in own_among([Address(0, text) for text in named], [network]):
            found.setdefault(one.address, entry.mark)
    return found


def _canonical(text: str) -> str | None:
    """An address as leases write it; None: it is none, but a MAC address, say."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
