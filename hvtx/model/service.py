"""The service of a network, its dnsmasq: what its rows say."""

from __future__ import annotations

from hvtx.model.resource import ReservationSpec, Resource, file_spec
from hvtx.model.typed import NotRequired, TypedDict, cast

SERVICE = "dnsmasq"
NAMES = "names"  # in the specification of a file


class ServiceSpec(TypedDict):
    """A network's dnsmasq; who it is stands in ``observed``, as :class:`ProcessObserved`."""

    hypervisor: str  # always SERVICE: what stands here for a VM's process
    directory: str  # of its files; a row of kind ``file`` of its network's stands for it
    bridge: str
    mtu: int
    subnets: list[str]
    gateways: list[str]
    names: NotRequired[list[list[str | int | None]]]  # that the network's policy allows


class NamesSpec(TypedDict):
    """Names that a VM's policy allows to an interface (lists of model/policy.EgressRule)."""

    mac: str
    apart: bool  # the VM says a mode: names of its network are not its own
    rules: list[list[str | int | None]]


def service_spec(row: Resource) -> ServiceSpec:
    """The specification of a network's row of kind ``process``."""
    assert row.is_service, row
    return cast("ServiceSpec", row.spec)


def reservation_spec(row: Resource) -> ReservationSpec:
    """The reservation of a row of kind ``file`` that is for one."""
    return file_spec(row)["reservation"]


def names_spec(row: Resource) -> NamesSpec:
    """The specification of a file that is about names; KeyError of another."""
    return cast("NamesSpec", row.spec[NAMES])


def is_of_names(row: Resource) -> bool:
    """Whether a file says what names an interface may reach."""
    return NAMES in row.spec
