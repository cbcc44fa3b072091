"""What a network's dnsmasq is told: its configuration, and two files for each interface. Pure.

dnsmasq(8). It serves what is on record and nothing else: a range is `static`, so that only who has
a reservation gets an address, and the names that guests give themselves are ignored. Reservations
and names are read from two directories as soon as they appear; of one that is gone dnsmasq forgets
the name at once, but for the one that a lease has, and the address only when it starts again
(:func:`displaces`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.model.address import LEAST_PREFIX6, is_ipv6
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx.model.resource import ReservationSpec
    from hvtx.model.service import ServiceSpec


DOMAIN = "lan"
LEASE = "12h"  # a guest whose network has no service keeps its address at least half as long
CONFIGURATION, HOSTS, NAMES = "dnsmasq.conf", "hosts", "names"
SERVED = "served.conf"  # the configuration that the one that serves has read
EGRESS = "egress"  # names that VMs' policies allow, a file for each interface
NAMED = "named"  # the table of names as it was made, to be compared
NAMED_LOCK = "named.lock"  # held by who reads these files and changes the table
FORGOTTEN = "forgotten"  # reservations that are gone since dnsmasq was started, a line each
PID, ERRORS = "pid", "errors"
LOG = "log"  # what it says while it serves, and as `log.1` what it said before
LOG_HALF = 1 << 19  # bytes of each of the two, at most
# by which a machine means itself or its own link: RFC 6761 6.3, and /etc/hosts of distributions
LOOPBACK_NAMES = frozenset({
    "localhost", "localhost4", "localhost6", "broadcasthost", "ip6-localhost", "ip6-loopback",
    "ip6-localnet", "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts",
})  # fmt: skip
_RA_SECONDS, _ROUTER_SECONDS = 300, 1800  # between advertisements; how long a router is believed
_MOST_LEASES = 1_000_000  # the default of 1,000 is less than a network may have guests


def configuration(
    spec: ServiceSpec, mark: str, user: tuple[str, str] | None, more: Sequence[str] = ()
) -> str:
    """The whole configuration; ``user`` and group are whom it becomes, None: it stays as it is.

    ``more`` are lines at its end.
    """
    directory, bridge = spec["directory"], spec["bridge"]
    lines = [
        f"# {mark}",
        "keep-in-foreground",
        *((f"user={user[0]}", f"group={user[1]}") if user is not None else ()),
        f"pid-file={directory}/{PID}",
        f"interface={bridge}",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        f"domain={DOMAIN}",
        f"local=/{DOMAIN}/",
        "domain-needed",
        f"hostsdir={directory}/{NAMES}",
        f"dhcp-hostsdir={directory}/{HOSTS}",
        "dhcp-authoritative",
        "dhcp-ignore-names",
        f"dhcp-lease-max={_MOST_LEASES}",
        "leasefile-ro",
        "no-ping",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
        # What is wrong with a message is said all the same, and guests send what they like: it goes
        # to a logger that keeps a bounded part of it, by the standard output that it is given.
        "log-facility=/proc/self/fd/1",
    ]
    for subnet, gateway in zip(spec["subnets"], spec["gateways"], strict=True):
        six = is_ipv6(subnet)
        lines += _six(spec, subnet, gateway) if six else _four(spec, subnet, gateway)
    # else who has no name is asked for upstream (RFC 6303)
    private = filter(_is_private, spec["subnets"])
    lines += [f"rev-server={part}" for subnet in private for part in _zones(subnet)]
    return "\n".join([*lines, *more]) + "\n"


def _zones(subnet: str) -> list[str]:
    """A subnet in parts that end with a byte: dnsmasq before 2.86 takes no others of IPv4."""
    if is_ipv6(subnet):
        return [subnet]
    base, _, prefix = subnet.partition("/")
    parts, number = base.split("."), (int(prefix) - 1) // 8
    first, count = int(parts[number]), 1 << (8 * number + 8 - int(prefix))
    return [
        f"{'.'.join([*parts[:number], str(each), *parts[number + 1 :]])}/{8 * number + 8}"
        for each in range(first, first + count)
    ]


def _is_private(subnet: str) -> bool:
    """Whether nobody but us can tell the names of its addresses: RFC 1918, 6598 and 4193."""
    first, second, *_ = [*subnet.partition("/")[0].replace(":", ".").split("."), ""]
    if is_ipv6(subnet):
        return len(first) == 4 and first[:2] in ("fc", "fd")
    return (
        first == "10"
        or (first, second) == ("192", "168")
        or (first == "172" and 16 <= int(second) < 32)
        or (first == "100" and 64 <= int(second) < 128)
    )


def _four(spec: ServiceSpec, subnet: str, gateway: str) -> list[str]:
    base, _, prefix = subnet.partition("/")
    bits = (1 << 32) - (1 << (32 - int(prefix)))
    netmask = ".".join(str(byte) for byte in bits.to_bytes(4, "big"))
    return [
        f"dhcp-range={base},static,{netmask},{LEASE}",
        f"dhcp-option=option:router,{gateway}",
        f"dhcp-option=option:dns-server,{gateway}",
        f"dhcp-option=option:domain-search,{DOMAIN}",
        # busybox' udhcpc does not ask for it, and takes it (findings/udhcpc-asks-for-no-mtu.sh)
        f"dhcp-option-force=option:mtu,{spec['mtu']}",
    ]


def _six(spec: ServiceSpec, subnet: str, gateway: str) -> list[str]:
    base, _, prefix = subnet.partition("/")
    width = max(int(prefix), LEAST_PREFIX6)
    return [
        f"dhcp-range={base},static,{width},{LEASE}",
        "enable-ra",
        f"ra-param={spec['bridge']},mtu:{spec['mtu']},{_RA_SECONDS},{_ROUTER_SECONDS}",
        f"dhcp-option=option6:dns-server,[{gateway}]",
        f"dhcp-option=option6:domain-search,{DOMAIN}",
    ]


def reservation(spec: ReservationSpec, mark: str) -> str:
    """The file by which an interface's MAC address gets its addresses.

    ``id:*``: by its MAC alone. dnsmasq keeps a lease for a client id, which is a guest's to choose:
    who asks with a neighbour's takes that lease, and the neighbour is told to give up its address.
    """
    given = [spec["mac"], "id:*"]
    given += [spec["ipv4"]] if spec["ipv4"] else []
    given += [f"[{spec['ipv6']}]"] if spec["ipv6"] else []
    return f"# {mark}\n{','.join(given)}\n"


def names(spec: ReservationSpec) -> str:
    """The file by which its VM's name resolves; the first name is the guest's host name, too.

    (In a reservation dnsmasq would take a VM called ``infinite`` or ``1h`` for a lease time.) A VM
    that is called as every guest calls itself has none: a guest without a file of hosts would send
    another one what is its own. It is asked for nowhere else, plain names are not.
    """
    name = spec["name"]
    if name in LOOPBACK_NAMES:
        return ""
    addresses = [address for address in (spec["ipv4"], spec["ipv6"]) if address]
    return "".join(f"{address} {name}.{DOMAIN} {name}\n" for address in addresses)


def server_in(text: str) -> tuple[str, str] | None:
    """Of a configuration: the bridge, and the address by which it serves DHCPv4; None without."""
    bridge = server = None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "interface":
            bridge = value
        elif value.startswith("option:router,"):
            server = value.partition(",")[2]
    return (bridge, server) if bridge and server else None


def mark_in(text: str) -> str | None:
    """The mark in the text of a reservation; None if its first line is none."""
    first = text.partition("\n")[0]
    return first[2:] if first.startswith("# ") else None


def forgotten(spec: ReservationSpec) -> str:
    """The line that is kept of a reservation that is gone."""
    return " ".join((spec["mac"], spec["ipv4"] or "-", spec["ipv6"] or "-")) + "\n"


def displaces(spec: ReservationSpec, lines: Iterable[str]) -> bool:
    """Whether dnsmasq still holds an address or the MAC of a reservation for somebody else.

    ``lines`` are of :func:`forgotten`. The same interface again displaces nobody.
    """
    own = forgotten(spec).split()
    return any(
        other != own and any(a == b != "-" for a, b in zip(other, own, strict=False))
        for other in map(str.split, lines)
    )


def told(errors: str) -> str:
    """Why dnsmasq did not start, of what it wrote: its last words without its name."""
    words: Sequence[str] = [line.strip() for line in errors.splitlines() if line.strip()]
    return words[-1].removeprefix("dnsmasq: ") if words else "it wrote nothing"
