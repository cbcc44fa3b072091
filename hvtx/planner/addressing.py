"""Names, subnets, addresses and ports as people write them: checked and made canonical. Pure.

What could never be valid raises UsageError; whether it is free, the store and the host must say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from hvtx.errors import Conflict, UsageError
from hvtx.model.address import ZoneError, family_of, is_ipv6, with_port, without_zone
from hvtx.model.vm import Network, Publish

_DIGITS = frozenset("0123456789")
_HEXADECIMAL = _DIGITS | frozenset("abcdef")
_IN_NAMES = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz-")
_IN_DEVICES = _IN_NAMES | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_.")
_NAME_MOST, _DEVICE_MOST = 63, 15
_LOOPBACK = "lo"
_RESERVED_DEVICES = frozenset({"all", "default"})  # below /proc/sys/net/ipv4/conf
_NO_GUESTS = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")  # RFC 6890, 5771
_GUESTS6 = ("2000::/3", "fc00::/7")  # all that IANA has given to unicast beyond one link


def parse_name(text: str, what: str) -> str:
    """A VM's or network's name."""
    ends = text.startswith("-") or text.endswith("-")
    if ends or not 1 <= len(text) <= _NAME_MOST or not _IN_NAMES.issuperset(text):
        raise UsageError(f"{text!r} is not a valid name for a {what}", hint=_name_hint(text, what))
    return text


def is_right(text: str | None, refused: str, parse: Callable[[str], object]) -> bool:
    """Whether ``parse`` takes a text in the place of what it refused: hints say nothing else."""
    if text is None or text == refused:
        return False
    try:
        parse(text)
    except UsageError:
        return False
    return True


def _name_hint(text: str, what: str) -> str:
    """What a name is; or what was given in its place."""
    from hvtx.model import meant_values  # for a refusal only

    if what == "network" and "/" in text and (subnet := meant_values.subnet(text)) is not None:
        return f"a name comes first: hvtx network create NAME --subnet {subnet}"
    if what == "network" and "," in text:
        return f"one at a time: {' '.join(f'--network {one.strip()}' for one in text.split(','))}"
    rule = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
    likely = meant_values.name(text)
    return rule if likely is None else f"{rule}; for instance {likely}"


def _is_device(text: str) -> bool:
    plain = 1 <= len(text) <= _DEVICE_MOST and _IN_DEVICES.issuperset(text)
    return plain and text[0] not in ".-"


def parse_device(text: str) -> str:
    """A device name that people may choose for a bridge.

    Raises UsageError for what no device can be called, Conflict for the name of one that is there.
    """
    another = "choose another --bridge, or leave it out: a name is generated"
    if text == _LOOPBACK:
        raise Conflict(f"a device named {text} exists already, on every host", hint=another)
    if text in _RESERVED_DEVICES:
        raise UsageError(
            f"no device can be called {text!r}: Linux keeps its settings of all devices there",
            hint=another,
        )
    if not _is_device(text):
        raise UsageError(
            f"{text!r} is not a valid name for a bridge",
            hint="1 to 15 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
        )
    return text


def parse_uplink(text: str) -> str:
    """The name of a device that is to be there already."""
    if text in {_LOOPBACK, *_RESERVED_DEVICES} or not _is_device(text):
        raise UsageError(
            f"--uplink {text!r} is not the name of a device where the world is",
            hint="ip route show default tells one, for instance eth0",
        )
    return text


def parse_mac(text: str, of: str = "") -> str:
    """A unicast MAC address, lower case. A refusal begins with ``of``, its option."""
    mac, named = text.lower(), f"{of} {text}".lstrip()
    pairs = mac.split(":")
    if len(pairs) != 6 or not all(len(p) == 2 and _HEXADECIMAL.issuperset(p) for p in pairs):
        from hvtx.model import meant_values  # for a refusal only

        right = meant_values.mac(text)
        right = right if is_right(right, text, parse_mac) else "02:11:22:33:44:55"
        words = f"{of} {text!r} is not a MAC address".lstrip()
        raise UsageError(words, hint=f"write it as {right}")
    if int(mac[:2], 16) & 1:
        raise UsageError(f"{named} is a multicast MAC address: no interface can have it")
    if mac == "00:00:00:00:00:00":
        raise UsageError(f"{named} is not a MAC address that an interface can have")
    return mac


def parse_subnet(text: str) -> str:
    """A subnet with room for a gateway and a guest, in canonical form."""
    try:
        subnet = ipaddress.ip_network(without_zone(text), strict=True)
    except ValueError as problem:
        why = str(problem)
        for named in (text, repr(text)):
            why = f"it{why.removeprefix(named)}" if why.startswith(f"{named} ") else why
        raise UsageError(
            f"{text!r} is not a subnet: {why}",
            hint=_subnet_hint(text),
        ) from problem
    if "/" not in text:
        raise UsageError(f"{text!r} has no prefix length", hint=_length_hint(text, subnet))
    limit = 30 if subnet.version == 4 else 126
    if subnet.prefixlen > limit:
        raise UsageError(
            f"{text} is too small: it needs room for a gateway and a guest (/{limit} or larger)"
        )
    if subnet.prefixlen < 8:
        raise UsageError(f"{text} is too large (/8 or smaller)")
    if not _is_for_guests(subnet):
        raise UsageError(
            f"{text} is not a subnet for guests (loopback, multicast, link-local or reserved)"
        )
    return str(subnet)


def _subnet_hint(text: str) -> str:
    """The subnet without its host bits and the like; an example where there is none in it."""
    from hvtx.model import meant_values  # for a refusal only

    start, _, length = text.partition("/")
    plain = length.isascii() and length.isdigit()
    if plain and meant_values.address(start) is not None and meant_values.subnet(text) is None:
        return "a prefix length is at most 32, or 128 for IPv6: for instance 10.77.0.0/24"
    parts = text.split(",")
    if len(parts) > 1 and all(is_right(part, text, parse_subnet) for part in parts):
        return f"one at a time: {' '.join(f'--subnet {part}' for part in parts)}"
    right = meant_values.subnet(text)
    return f"write it as {right if is_right(right, text, parse_subnet) else '10.77.0.0/24'}"


def _length_hint(text: str, alone: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    """A subnet of the usual size around the address that was given, where guests can have one."""
    length = 24 if alone.version == 4 else 64
    usual = str(ipaddress.ip_network((alone.network_address, length), strict=False))
    right = usual if is_right(usual, text, parse_subnet) else "10.77.0.0/24"
    return f"say how large it is: for instance {right}"


def is_public(subnet: str) -> bool:
    """Whether addresses of a subnet are somebody's in the internet (RFC 6890)."""
    parsed = ipaddress.ip_network(subnet)
    return parsed.network_address.is_global or parsed.broadcast_address.is_global


def _is_for_guests(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    if isinstance(subnet, ipaddress.IPv6Network):
        return any(subnet.subnet_of(ipaddress.IPv6Network(good)) for good in _GUESTS6)
    return not any(subnet.overlaps(ipaddress.IPv4Network(bad)) for bad in _NO_GUESTS)


def gateway_of(subnet: str) -> str:
    """The host's address in a subnet: the first."""
    return str(ipaddress.ip_network(subnet).network_address + 1)


def room(subnet: str) -> int:
    """How many guests can have an address of a subnet, beside its gateway."""
    found = ipaddress.ip_network(subnet)
    return found.num_addresses - (3 if found.version == 4 else 2)


def netmask_of(subnet: str) -> str:
    """An IPv4 subnet's netmask."""
    return str(ipaddress.ip_network(subnet).netmask)


def parse_address(text: str, of: str = "") -> str:
    """An IP address in canonical form: one spelling per address, so that it is leased once.

    A refusal begins with ``of``, the option that it is of: ``--ip``.
    """
    named = f"{of} {text!r}".lstrip()
    try:
        address = ipaddress.ip_address(without_zone(text))
    except ZoneError as problem:
        raise UsageError(f"{named} is not an IP address alone: {problem}") from problem
    except ValueError as problem:
        from hvtx.model import meant_values  # for a refusal only

        right = meant_values.address(text)
        hint = f"write it as {right}" if is_right(right, text, parse_address) else None
        raise UsageError(f"{named} is not an IP address", hint=hint) from problem
    four = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if four is not None:
        raise UsageError(f"{named} is an IPv4 address in IPv6 notation", hint=f"write it as {four}")
    return str(address)


def check_guest_address(address: str, network: Network) -> None:
    """Whether a guest of the network can have the address; raises UsageError."""
    wanted = ipaddress.ip_address(address)
    for cidr, gateway in network.ranges:
        subnet = ipaddress.ip_network(cidr)
        if subnet.version != wanted.version:
            continue
        if wanted not in subnet:
            raise UsageError(f"{address} is not in {cidr}, the subnet of network {network.name!r}")
        what = None
        if wanted == subnet.network_address:
            what = "network"
        elif subnet.version == 4 and wanted == subnet.broadcast_address:
            what = "broadcast"
        elif str(wanted) == gateway:
            what = "gateway"
        if what:
            raise UsageError(f"{address} is the {what} address of network {network.name!r}")
        return
    raise UsageError(f"network {network.name!r} has no IPv{wanted.version} subnet for {address}")


def parse_publish(text: str, given: str | None = None) -> Publish:
    """``[HOSTIP:]HOSTPORT:GUESTPORT[/udp]``; an IPv6 HOSTIP stands in brackets.

    ``given`` is what a person wrote, where that is more than ``text``: a refusal quotes it.
    """
    rest, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    given = text if given is None else given
    if protocol not in ("tcp", "udp") or text.endswith("/"):
        raise UsageError(f"--publish {given!r}: the protocol is tcp or udp")
    head, _, guest = rest.rpartition(":")
    host_ip, _, host = head.rpartition(":")
    if not head or not host or not guest:
        raise UsageError(
            f"--publish {given!r} is not understood",
            hint="write it as 8080:80, or 203.0.113.1:53:53/udp",
        )
    if text.startswith(":"):
        raise UsageError(f"--publish {given!r}: the host address is empty")
    return Publish(
        protocol, _host_ip(given, host_ip), parse_port(given, host), parse_port(given, guest)
    )


def _host_ip(text: str, host_ip: str) -> str | None:
    if not host_ip:
        return None
    bracketed = host_ip.startswith("[") and host_ip.endswith("]")
    bare = host_ip[1:-1] if bracketed else host_ip
    address = parse_address(bare, of=f"--publish {text!r}:")
    if is_ipv6(address) != bracketed:
        raise UsageError(f"--publish {text!r}: an IPv6 host address stands in brackets")
    if (why := _unservable(address)) is not None:
        raise UsageError(f"--publish {text!r}: {why[0]}", hint=why[1])
    return None if ipaddress.ip_address(address).is_unspecified else address


_NO_HOST = ipaddress.ip_network("0.0.0.0/8")


def _unservable(address: str) -> tuple[str, str] | None:
    """Why no port can ever be published on an address, and what to do; None if one can."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return None
    if parsed.is_multicast or (parsed.version == 4 and (parsed.is_reserved or parsed in _NO_HOST)):
        words = f"{address} is no address that a host can have"
        return words, "without HOSTIP the port is there on every address of the host"
    if parsed.version == 6 and parsed.is_loopback:
        words = "NAT cannot serve [::1]: what comes by it does not leave the host"
        return words, "publish it on 127.0.0.1, or on another address of the host"
    if parsed.version == 6 and parsed.is_link_local:
        words = f"[{address}] is a link's own address, and what comes from there is not forwarded"
        return words, "publish it on another IPv6 address of the host, or without HOSTIP"
    return None


_SERVERS = {4: (67, "DHCP"), 6: (547, "DHCPv6")}  # whose answers a guest may not send


def guarded(port: Publish, families: Iterable[int]) -> int | None:
    """The family in which what a guest answers from a published port is dropped; None if in none.

    A guest is no DHCP server: what it sends from such a server's port is dropped at its device.
    ``families`` are those that its network has.
    """
    own = {family_of(port.host_ip)} if port.host_ip else {4, 6}
    for family in sorted(own.intersection(families)):
        if (port.protocol, port.guest_port) == ("udp", _SERVERS[family][0]):
            return family
    return None


def _refuse_guarded(port: Publish, network: Network) -> None:
    families = {ipaddress.ip_network(cidr).version for cidr in network.subnets}
    family = guarded(port, families)
    if family is None:
        return
    number, name = _SERVERS[family]
    hint = f"let the guest serve it on another port than {number}"
    if families - {family} and port.host_ip is None:
        hint += f", or publish it on an IPv{10 - family} address of the host alone"
    raise UsageError(
        f"guest port {number}/udp cannot be published by IPv{family}: it is that of a {name}"
        " server, and what guests send from it is dropped, so that no guest answers for others",
        hint=hint,
    )


def check_published(port: Publish, network: Network) -> None:
    """Whether a port of the host can lead to guests of the network at all; raises UsageError."""
    _refuse_guarded(port, network)
    if port.host_ip is None:
        return
    where = with_port(port.host_ip, port.host_port)
    if (why := _unservable(port.host_ip)) is not None:
        raise UsageError(f"port {where} cannot be published: {why[0]}", hint=why[1])
    address = ipaddress.ip_address(port.host_ip)
    subnets = [ipaddress.ip_network(cidr) for cidr in network.subnets]
    own = [subnet for subnet in subnets if subnet.version == address.version]
    if not own:
        raise UsageError(
            f"port {where} cannot be published: network {network.name!r} has no"
            f" IPv{address.version} subnet, so its guests have no address that it could lead to",
            hint=f"publish it on an IPv{10 - address.version} address or without HOSTIP, or"
            f" create a network with a --subnet of IPv{address.version}",
        )
    for subnet in own:
        ends = (subnet.network_address, subnet.broadcast_address)
        if address.version == 4 and address in ends:
            raise UsageError(
                f"port {where} cannot be published: {address} is the network or broadcast address"
                f" of network {network.name!r}, which no host can have",
                hint="without HOSTIP the port is there on every address of the host",
            )


def parse_port(text: str, port: str) -> int:
    """A port, of what was written as ``text``. Raises UsageError."""
    plain = 1 <= len(port) <= 5 and _DIGITS.issuperset(port)
    # a leading zero could mean octal: nobody has to guess
    if not plain or port.startswith("0") or int(port) > 65535:
        raise UsageError(f"--publish {text!r}: {port!r} is not a port", hint="ports are 1 to 65535")
    return int(port)


def overlap(subnet: str, others: Iterable[str]) -> str | None:
    """The first of ``others`` (prefixes) that shares addresses with a subnet."""
    mine = ipaddress.ip_network(subnet)
    for text in others:
        other = ipaddress.ip_network(text, strict=False)
        if other.version == mine.version and other.overlaps(mine):
            return text
    return None


def without_parts(subnet: str, prefixes: Iterable[str], size: int) -> list[str]:
    """``prefixes`` without those that are a part of the subnet of at most a /``size``."""
    whole = ipaddress.ip_network(subnet)

    def is_part(text: str) -> bool:
        one = ipaddress.ip_network(text, strict=False)
        return one.version == whole.version and one.prefixlen >= size and one.overlaps(whole)

    return [prefix for prefix in prefixes if not is_part(prefix)]


def private_subnets() -> Iterator[str]:
    """Candidates for the network that nobody described, in the order in which they are tried."""
    for second in (*range(77, 128), *range(16, 77), *range(128, 256)):
        yield f"10.{second}.0.0/24"
    for third in range(100, 255):
        yield f"192.168.{third}.0/24"
