"""Which driver makes what, where its module is, and the drivers of one run."""

from __future__ import annotations

from collections.abc import Callable

from hvtx.drivers.base import (
    BridgesDriver,
    CommonDriver,
    DeviceDriver,
    Driver,
    ExchangingDriver,
    FirewallDriver,
    Host,
    PairDriver,
    RuleMarker,
    ServiceDriver,
)
from hvtx.loader import module_named
from hvtx.model.resource import FIREWALL_KINDS, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:  # mypy compares the drivers with what `Drivers.of` says of them
    from hvtx.drivers.bridge import BridgeDriver
    from hvtx.drivers.dnsmasq import DnsmasqDriver
    from hvtx.drivers.firewalld import FirewalldDriver
    from hvtx.drivers.foreign_rules import ForeignRules
    from hvtx.drivers.iptables import IptablesDriver
    from hvtx.drivers.netns import NetnsDriver
    from hvtx.drivers.nftables import NftablesDriver
    from hvtx.drivers.tap.driver import TapDriver
    from hvtx.drivers.tap.veth import VethDriver

    _BRIDGE: Callable[[Host], BridgesDriver] = BridgeDriver
    _FOREIGN_RESOURCES: Callable[[Host], RuleMarker] = ForeignRules
    _DNSMASQ: Callable[[Host], ServiceDriver] = DnsmasqDriver
    _TAP: Callable[[Host], DeviceDriver] = TapDriver
    _VETH: Callable[[Host], PairDriver] = VethDriver
    _NETNS: Callable[[Host], Driver] = NetnsDriver
    _NFTABLES: Callable[[Host], CommonDriver] = NftablesDriver
    _IPTABLES: Callable[[Host], FirewallDriver] = IptablesDriver
    _FIREWALLD: Callable[[Host], FirewallDriver] = FirewalldDriver

DRIVERS = {
    "tap": "hvtx.drivers.tap.driver:TapDriver",
    "veth": "hvtx.drivers.tap.veth:VethDriver",
    "netns": "hvtx.drivers.netns:NetnsDriver",
    "bridge": "hvtx.drivers.bridge:BridgeDriver",
    "address": "hvtx.drivers.address:AddressDriver",
    "sysctl": "hvtx.drivers.sysctl:SysctlDriver",
    "file": "hvtx.drivers.file:FileDriver",
    "reservation": "hvtx.drivers.reservation:ReservationDriver",
    "dnsmasq": "hvtx.drivers.dnsmasq:DnsmasqDriver",
    "nftables": "hvtx.drivers.nftables:NftablesDriver",
    "iptables": "hvtx.drivers.iptables:IptablesDriver",
    "firewalld": "hvtx.drivers.firewalld:FirewalldDriver",
}
_STRANGERS_AT = "hvtx.drivers.foreign_rules:ForeignRules"
FIREWALLS = ("nftables", "iptables")
FIREWALLD = "firewalld"  # beside these: no network is made with it


def driver_name(row: Resource) -> str:
    """Which driver a row belongs to; empty for rows without an object of their own."""
    if row.kind in FIREWALL_KINDS:
        return row.backend
    if row.is_service:
        return "dnsmasq"
    if row.is_reservation:
        return "reservation"
    return row.kind if row.kind in DRIVERS else ""


def outdated(row: Resource) -> bool:
    """Whether an earlier version made a firewall row's objects otherwise."""
    module = module_named(f"hvtx.drivers.{row.backend}")
    return bool(module.outdated(row))


class Drivers:
    """The drivers of one run: a module is imported when its driver is first asked for."""

    def __init__(self, host: Callable[[], Host]) -> None:
        """``host`` says where they work, once there is an installation."""
        self._host = host
        self._made: dict[str, Any] = {}

    @overload
    def of(self, name: Literal["tap"]) -> DeviceDriver: ...
    @overload
    def of(self, name: Literal["veth"]) -> PairDriver: ...
    @overload
    def of(self, name: Literal["bridge"]) -> BridgesDriver: ...
    @overload
    def of(self, name: Literal["dnsmasq"]) -> ServiceDriver: ...
    @overload
    def of(self, name: Literal["nftables"]) -> CommonDriver: ...
    @overload
    def of(self, name: Literal["iptables", "firewalld"]) -> FirewallDriver: ...
    @overload
    def of(self, name: str) -> Driver: ...
    def of(self, name: str) -> Driver:
        """The driver of a kind, or of a firewall backend."""
        driver: Driver = self._loaded(name, DRIVERS[name])
        return driver

    def firewall(self, name: str) -> FirewallDriver:
        """A firewall backend, by its name on record."""
        if name == FIREWALLD:
            return self.of("firewalld")
        return self.of("nftables") if name == "nftables" else self.of("iptables")

    def exchanging(self, name: str) -> ExchangingDriver:
        """The driver of a kind whose objects can be changed while they are used."""
        driver: ExchangingDriver = self._loaded(name, DRIVERS[name])
        return driver

    def of_others(self) -> RuleMarker:
        """The driver of firewall rules that others made."""
        driver: RuleMarker = self._loaded("strangers", _STRANGERS_AT)
        return driver

    def close(self) -> None:
        """Give back the sockets that they have opened."""
        for driver in self._made.values():
            close = getattr(driver, "close", None)
            if close is not None:
                close()

    def _loaded(self, name: str, where: str) -> Any:
        if name not in self._made:
            module, _, attribute = where.partition(":")
            self._made[name] = getattr(module_named(module), attribute)(self._host())
        return self._made[name]
