"""Which addresses a network's DHCP gives. Pure.

dnsmasq gives a reserved address only where it has a range. One of DHCPv6 is a /64 at most, and only
that of the gateway is served: so it is the first /64 of a wider subnet. Further addresses of a
guest are no matter of DHCP.
"""

from __future__ import annotations

import ipaddress

from hvtx.errors import UsageError
from hvtx.model.vm import Network, Vm
from hvtx.rulesets.dnsmasq import LEAST_PREFIX6


def of_network(network: Network) -> str | None:
    """What is given of a wide IPv6 subnet ("fd77::/64"); None where all of the network is."""
    for cidr in network.subnets if network.dhcp else ():
        subnet = ipaddress.ip_network(cidr)
        if subnet.version == 6 and subnet.prefixlen < LEAST_PREFIX6:
            return f"{subnet.network_address}/{LEAST_PREFIX6}"
    return None


def is_given(ipv6: str | None, network: Network) -> bool:
    """Whether a guest that asks for this address of its is given it; None is as good as given."""
    part = of_network(network) if ipv6 else None
    return part is None or ipaddress.ip_address(ipv6 or "") in ipaddress.ip_network(part)


def refuse_never_given(ipv6: str | None, network: Network) -> None:
    """Raise UsageError for the address of a guest that would ask for it in vain."""
    if not is_given(ipv6, network):
        part = of_network(network)
        raise UsageError(
            f"{ipv6} cannot be given by DHCPv6: network {network.name!r} gives what is in {part}",
            hint=f"choose an address in {part}; a network without DHCP (--no-dhcp) has no such"
            " limit, and its guests are told their addresses otherwise",
        )


def never_given(vm: Vm, network: Network) -> list[str]:
    """The addresses of a VM's that it would ask for in vain; a container asks for none."""
    if vm.attachment is not None:
        return []
    return [
        interface.ipv6
        for interface in vm.interfaces
        if interface.ipv6 and interface.network == network.id
        if not is_given(interface.ipv6, network)
    ]
