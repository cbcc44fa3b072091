"""What ADD answers, in each version of the specification (pure).

An earlier plugin's result (``prevResult``) is passed on, and ours stands behind it: so the numbers
by which its addresses name its interfaces stay right. What a version does not have is left out,
since runtimes of that version may refuse it: ``mtu`` before 1.1.0; ``ips[].version`` from 1.0.0 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.cni import reading
from hvtx.model.address import family_of, is_ipv6
from hvtx.model.attachment import Attached
from hvtx.model.cni_version import at_least
from hvtx.model.typed import Any, NamedTuple

_ARRAYS = ("interfaces", "ips", "routes")
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_DNS = ("nameservers", "search", "options")


class Previous(NamedTuple):
    """A ``prevResult`` whose types are right; its objects have whatever their plugin wrote."""

    interfaces: tuple[dict[str, Any], ...] = ()
    ips: tuple[dict[str, Any], ...] = ()
    routes: tuple[dict[str, Any], ...] = ()
    dns: Mapping[str, Any] = {}
    more: Mapping[str, Any] = {}  # keys beside these


def parse_previous(document: Mapping[str, Any]) -> Previous | None:
    """The configuration's ``prevResult``; None where there is none. Raises CniError (7)."""
    given = reading.table(document.get("prevResult"), "prevResult")
    if not given:
        return None
    parts = {name: _objects(given.get(name), f"prevResult.{name}") for name in _ARRAYS}
    for number, one in enumerate(parts["ips"]):
        where = f"prevResult.ips[{number}]"
        reading.text(one.get("address"), f"{where}.address")
        if one.get("interface") is not None:
            most = len(parts["interfaces"]) - 1
            if most < 0:
                raise reading.wrong(
                    f"{where}.interface", one["interface"], "there are no interfaces"
                )
            reading.whole(one["interface"], f"{where}.interface", 0, most)
    for number, one in enumerate(parts["interfaces"]):
        for key in ("name", "mac", "sandbox"):
            reading.text(one.get(key), f"prevResult.interfaces[{number}].{key}")
    dns = reading.table(given.get("dns"), "prevResult.dns")
    known = {*_ARRAYS, "dns", "cniVersion"}
    more = {key: value for key, value in given.items() if key not in known}
    return Previous(**parts, dns=dns, more=more)


def _objects(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    found = reading.items(value, where)
    return tuple(reading.table(one, f"{where}[{number}]") for number, one in enumerate(found))


def parse_dns(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the result says of DNS: the capability, else the configuration. Raises CniError (7)."""
    config = reading.without_case(document.get("runtimeConfig"), "runtimeConfig")
    asked = reading.without_case(config.get("dns"), "runtimeConfig.dns")
    found: dict[str, Any] = {
        name: list(reading.texts(asked.get(key), f"runtimeConfig.dns.{key}"))
        for name, key in zip(_DNS, ("servers", "searches", "options"), strict=True)
    }
    if not any(found.values()):
        given = reading.table(document.get("dns"), "dns")
        found = {name: list(reading.texts(given.get(name), f"dns.{name}")) for name in _DNS}
        found["domain"] = reading.text(given.get("domain"), "dns.domain")
    return {name: value for name, value in found.items() if value}


def result(
    version: str, netns: str, made: Attached, previous: Previous | None, dns: Mapping[str, Any]
) -> dict[str, Any]:
    """The object that ADD answers; ``netns`` is the path that the runtime gave."""
    before = previous or Previous()
    first = len(before.interfaces)
    interfaces = _interfaces(netns, made)
    inside = first + 2
    at = [(inside, one) for one in made.addresses]
    if made.tap:  # Firecracker's SDK wants exactly one address, of IPv4, at the interface of its VM
        of_vm = [one for one in made.addresses if not is_ipv6(one.address)][:1]
        at = [*((first + len(interfaces) - 1, one) for one in of_vm), *at]
    ips: list[dict[str, Any]] = [
        {"interface": number, "address": one.address, "gateway": one.gateway} for number, one in at
    ]
    if not at_least(version, "1.0.0"):
        for ip in ips:
            ip["version"] = str(family_of(str(ip["address"])))
    if not at_least(version, "1.1.0"):
        for interface in interfaces:
            interface.pop("mtu", None)
    told: dict[str, Any] = {
        **before.more,
        "cniVersion": version,
        "interfaces": [*before.interfaces, *interfaces],
        "ips": [*before.ips, *ips],
        "routes": [*before.routes, *_routes(made, before.routes)],
    }
    told["dns"] = {**before.dns, **dns}
    return told


def _interfaces(netns: str, made: Attached) -> list[dict[str, Any]]:
    """Bridge, host end, container end; for a VM also the TAP device and the VM's interface."""
    found: list[dict[str, Any]] = [
        {"name": made.bridge, "mac": made.bridge_mac, "mtu": made.mtu},
        {"name": made.host_device, "mac": made.host_mac, "mtu": made.mtu},
        {"name": made.key.ifname, "mac": made.mac, "mtu": made.mtu, "sandbox": netns},
    ]
    if made.tap:
        known = {"mac": made.tap_mac} if made.tap_mac else {}
        found += [
            {"name": made.tap, **known, "mtu": made.mtu, "sandbox": netns},
            {"name": made.tap, "mac": made.mac, "mtu": made.mtu, "sandbox": made.key.container},
        ]
    return found


def _routes(made: Attached, there: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The default route of each family that was made, and that no earlier plugin has told."""
    found: dict[int, dict[str, Any]] = {}
    for one in made.addresses:
        family = family_of(one.address)
        if one.default and all(route.get("dst") != _EVERYTHING[family] for route in there):
            found.setdefault(family, {"dst": _EVERYTHING[family], "gw": one.gateway})
    return list(found.values())
