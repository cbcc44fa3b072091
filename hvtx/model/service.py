"""The service of a network, its dnsmasq: what its rows say."""

from __future__ import annotations

from hvtx.model.typed import TypedDict

SERVICE = "dnsmasq"


class ServiceSpec(TypedDict):
    """A network's dnsmasq; who it is stands in ``observed``, as :class:`ProcessObserved`."""

    hypervisor: str  # always SERVICE: what stands here for a VM's process
    directory: str  # of its files; a row of kind ``file`` of its network's stands for it
    bridge: str
    mtu: int
    subnets: list[str]
    gateways: list[str]


class ReservationSpec(TypedDict):
    """What an interface gets by DHCP, and the name by which its network finds it."""

    name: str  # of the VM
    mac: str
    ipv4: str | None
    ipv6: str | None
