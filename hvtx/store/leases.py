"""Addresses, MACs and host ports: claimed here, once each, by the schema's constraints.

This is the small door behind which leases from elsewhere (a cluster's store) could stand one day:
nothing else in hvtx decides who has an address.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from hvtx.errors import Conflict, NoRoom, UsageError
from hvtx.model.address import family_of
from hvtx.model.resource import FLOWS
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.vm import Interface, Network, Publish

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

_LARGEST_OFFSET = 1 << 62
_KEPT = 256  # subnets, and addresses that nobody is leased


class Claim(NamedTuple):
    """An interface that a VM is to have; an address that is None is chosen."""

    network: Network
    mac: str
    ipv4: str | None
    ipv6: str | None
    ports: Sequence[Publish] = ()
    more: Sequence[str] = ()


def claim(
    sql: sqlite3.Connection,
    vm: str,
    wanted: Sequence[Claim],
    taken: Collection[str] = (),
) -> tuple[Interface, ...]:
    """Insert a VM's interfaces.

    An address that is not given is the lowest free one that is none of the addresses ``taken``,
    which somebody has who is not on record. Raises Conflict naming what is taken and by
    whom, UsageError for an address that no guest of the network can have.
    """
    claimed = []
    for position, one in enumerate(wanted):
        network, mac, ipv4, ipv6, ports, more = Claim(*one)
        refuse_taken_mac(sql, mac)
        row = sql.execute(
            "INSERT INTO interface (vm, position, network, mac) VALUES (?,?,?,?) RETURNING id",
            (vm, position, network.id, mac),
        ).fetchone()[0]
        addresses: dict[int, str | None] = {4: None, 6: None}
        for cidr, gateway in network.ranges:
            family = family_of(cidr)
            given = ipv6 if family == 6 else ipv4
            ends = _Ends(cidr, gateway, taken)
            addresses[family] = _lease(sql, row, network, ends, given)
        for family, given in ((4, ipv4), (6, ipv6)):
            if given and addresses[family] is None:
                raise UsageError(
                    f"network {network.name!r} has no IPv{family} subnet for {given}",
                    hint=f"hvtx network show {network.name} tells its subnets",
                )
        _lease_more(sql, row, network, more)
        for port in ports:
            _claim_port(sql, row, port)
        claimed.append(
            Interface(
                position, network.id, network.name, mac, addresses[4], addresses[6], tuple(ports),
                tuple(more),
            )
        )  # fmt: skip
    return tuple(claimed)


def _lease_more(
    sql: sqlite3.Connection, interface: int, network: Network, more: Iterable[str]
) -> None:
    """Lease further addresses, in their order."""
    last = {4: 0, 6: 0}
    for address in more:
        family = family_of(address)
        pair = network.range(family)
        assert pair is not None, "what was asked for was checked"
        last[family] += 1
        _lease(sql, interface, network, _Ends(*pair, ()), address, last[family])


class _Ends(NamedTuple):
    """A subnet, and what in it is not to be leased."""

    cidr: str
    gateway: str
    taken: Collection[str]

    def offsets(self) -> list[int]:
        """How far the gateway and what is taken are from the subnet's beginning, sorted."""
        found = [_offset(self.cidr, text) for text in (self.gateway, *self.taken)]
        return sorted(offset for offset in found if offset is not None)


# what all VMs of a network ask for: to read an address takes as long as to lease it


@lru_cache(_KEPT)
def _subnet(cidr: str) -> IPv4Network | IPv6Network:
    import ipaddress

    return ipaddress.ip_network(cidr)


@lru_cache(_KEPT)
def _offset(cidr: str, text: str) -> int | None:
    """How far an address is from the beginning of a subnet; None for one that is elsewhere."""
    import ipaddress

    subnet, address = _subnet(cidr), ipaddress.ip_address(text)
    return int(address) - int(subnet.network_address) if address in subnet else None


def _lease(
    sql: sqlite3.Connection,
    interface: int,
    network: Network,
    ends: _Ends,
    given: str | None,
    position: int = 0,
) -> str:
    cidr = ends.cidr
    family = family_of(cidr)
    if network.block_size is not None:
        return _lease_of_block(sql, interface, network, ends, given, position)
    if given is None:
        offset, subnet = _lowest_free(sql, network, family, ends.offsets()), _subnet(cidr)
        last = subnet.num_addresses - (2 if family == 4 else 1)
        if offset > last:
            raise Conflict(
                f"network {network.name!r} has no free address left in {cidr}",
                hint="remove VMs, or make a larger network",
            )
        address = str(subnet.network_address + offset)
    else:
        import ipaddress

        address = given
        offset = int(ipaddress.ip_address(given)) - int(_subnet(cidr).network_address)
        refuse_taken_address(sql, address)
    _insert(sql, interface, network, address, offset, position)
    return address


def _insert(
    sql: sqlite3.Connection,
    interface: int,
    network: Network,
    address: str,
    offset: int,
    position: int,
) -> None:
    sql.execute(
        "INSERT INTO lease (address, interface, network, family, offset, position)"
        " VALUES (?,?,?,?,?,?)",
        (
            address, interface, network.id, family_of(address),
            offset if offset < _LARGEST_OFFSET else None, position,
        ),
    )  # fmt: skip


def free_in_blocks(sql: sqlite3.Connection, network: Network, taken: Collection[str]) -> int | None:
    """The first free offset in this host's blocks of a network; None: they are full."""
    from hvtx.store import blocks

    return next(blocks.free(sql, network, never_leased(network, taken)), None)


def never_leased(network: Network, taken: Collection[str]) -> list[int]:
    """Offsets in a network of blocks that no guest has: its ends, its gateway, and ``taken``."""
    cidr, gateway = network.ranges[0]
    last = [_subnet(cidr).num_addresses - 1] if family_of(cidr) == 4 else []
    return [0, *_Ends(cidr, gateway, taken).offsets(), *last]


def _lease_of_block(
    sql: sqlite3.Connection,
    interface: int,
    network: Network,
    ends: _Ends,
    given: str | None,
    position: int,
) -> str:
    """Lease an address of a block that is this host's. Raises NoRoom, Conflict."""
    import ipaddress

    base = _subnet(ends.cidr).network_address
    if given is None:
        offset = free_in_blocks(sql, network, ends.taken)
        if offset is None:
            raise NoRoom(
                f"network {network.name!r} has no free address left in this host's blocks",
                hint="try again: a block is claimed first; hvtx cluster status shows them",
            )
        address = str(base + offset)
    else:
        address, offset = given, int(ipaddress.ip_address(given)) - int(base)
        refuse_taken_address(sql, address)
        refuse_others_block(sql, network, address)
    _insert(sql, interface, network, address, offset, position)
    return address


def refuse_others_block(sql: sqlite3.Connection, network: Network, address: str) -> None:
    """Raise Conflict if the address is in none of this host's blocks of a network."""
    import ipaddress

    from hvtx.store import blocks

    base = ipaddress.ip_network(network.subnets[0]).network_address
    if not blocks.holds(sql, network, int(ipaddress.ip_address(address)) - int(base)):
        raise Conflict(
            f"{address} is in no block of network {network.name!r} that this host has",
            hint="hvtx cluster status tells the blocks; without an address asked for, a free"
            " one is chosen",
        )


def refuse_taken_mac(sql: sqlite3.Connection, mac: str) -> None:
    """Raise Conflict if an interface of a VM or a network's bridge has the MAC address."""
    bridge = sql.execute("SELECT name FROM network WHERE mac = ?", (mac,)).fetchone()
    if bridge:
        raise Conflict(
            f"the MAC address {mac} is that of network {bridge[0]!r}'s bridge",
            hint="choose another MAC address",
        )
    holder = sql.execute(
        "SELECT v.name FROM interface i JOIN vm v ON v.id = i.vm WHERE i.mac = ?", (mac,)
    ).fetchone()
    if holder:
        raise Conflict(
            f"the MAC address {mac} is VM {holder[0]!r}'s", hint="choose another MAC address"
        )


def refuse_taken_address(sql: sqlite3.Connection, address: str) -> None:
    """Raise Conflict if a VM has a lease of the address."""
    holder = sql.execute(
        "SELECT v.name FROM lease l JOIN interface i ON i.id = l.interface"
        " JOIN vm v ON v.id = i.vm WHERE l.address = ?",
        (address,),
    ).fetchone()
    if holder:
        words, hint = withheld(sql, holder[0])
        raise Conflict(
            f"the address {address} is VM {holder[0]!r}'s{words}",
            hint=f"choose another address{hint}",
        )


def withheld(sql: sqlite3.Connection, vm: str) -> tuple[str, str]:
    """What to add to a conflict and its hint, if the VM has stopped and flows to it have not."""
    waits = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM resource r JOIN vm v ON v.id = r.vm WHERE v.name = ?"
        " AND r.state = 'releasing' AND instr(r.observed, ?))",
        (vm, f'"{FLOWS}"'),
    ).fetchone()[0]
    if not waits:
        return "", ""
    return ", and what flows to it has not all ended", "; hvtx gc --apply ends it"


def _lowest_free(
    sql: sqlite3.Connection, network: Network, family: int, taken: Sequence[int]
) -> int:
    """The smallest offset from 1 that is neither leased nor among ``taken``, which is sorted.

    Offsets are counted and not listed: up to one that is free there are fewer than their number.
    In most networks all up to the last are had, which one count tells.
    """
    where = "FROM lease WHERE network = ? AND family = ? AND offset"
    own = (network.id, family)
    near = [offset for offset in dict.fromkeys(taken) if 0 < offset < _LARGEST_OFFSET]
    marks = ",".join("?" * len(near))
    found = sql.execute(f"SELECT offset {where} IN ({marks})", (*own, *near))
    leased = {row[0] for row in found}
    more = [offset for offset in near if offset not in leased]

    def had(most: int) -> int:
        found = sql.execute(f"SELECT count(*) {where} BETWEEN 1 AND ?", (*own, most)).fetchone()
        return int(found[0]) + sum(offset <= most for offset in more)

    top = sql.execute(f"SELECT max(offset) {where} > 0", own).fetchone()[0] or 0
    last = max(top, *more, 0)
    if had(last) == last:
        return last + 1
    low, high = 1, last  # up to ``high`` one is free, up to ``low - 1`` none
    while low < high:
        middle = (low + high) // 2
        if had(middle) < middle:
            high = middle
        else:
            low = middle + 1
    return low


def _claim_port(sql: sqlite3.Connection, interface: int, port: Publish) -> None:
    holder = port_holder(sql, port)
    if holder:
        raise port_conflict(sql, port, holder)
    sql.execute(
        "INSERT INTO port (interface, protocol, host_ip, host_port, guest_port) VALUES (?,?,?,?,?)",
        (interface, port.protocol, port.host_ip, port.host_port, port.guest_port),
    )


def set_ports(sql: sqlite3.Connection, vm: str, interfaces: Sequence[Interface]) -> None:
    """Publish for the interfaces of a VM (by id) the ports that they have, and no others.

    Raises Conflict for one that another VM has; then nothing may be kept of the transaction.
    """
    wanted: list[tuple[int, Publish]] = []
    for interface in interfaces:
        row = sql.execute(
            "SELECT id FROM interface WHERE vm = ? AND position = ?", (vm, interface.position)
        ).fetchone()[0]
        there = {
            Publish(*known)
            for known in sql.execute(
                "SELECT protocol, host_ip, host_port, guest_port FROM port WHERE interface = ?",
                (row,),
            )
        }
        sql.executemany(
            "DELETE FROM port WHERE interface = ? AND protocol = ? AND host_ip IS ?"
            " AND host_port = ?",
            [(row, p.protocol, p.host_ip, p.host_port) for p in there - set(interface.publish)],
        )
        wanted += [(row, port) for port in interface.publish if port not in there]
    for row, port in wanted:
        _claim_port(sql, row, port)


def ports_of_container(sql: sqlite3.Connection, container: str, but: str) -> dict[Publish, str]:
    """By the ports of a container's interfaces the VM (a name) of each; but for the VM ``but``."""
    found = sql.execute(
        "SELECT v.name, p.protocol, p.host_ip, p.host_port, p.guest_port FROM attachment a"
        " JOIN vm v ON v.id = a.vm JOIN interface i ON i.vm = v.id"
        " JOIN port p ON p.interface = i.id WHERE a.container = ? AND v.name <> ?",
        (container, but),
    )
    return {Publish(*port): vm for vm, *port in found}


def port_conflict(sql: sqlite3.Connection, port: Publish, vm: str) -> Conflict:
    """The error of a port that a VM has."""
    words, hint = withheld(sql, vm)
    return Conflict(
        f"port {port.host_port}/{port.protocol} is published for VM {vm!r}{words}",
        hint=f"choose another host port{hint}",
    )


def port_holder(sql: sqlite3.Connection, port: Publish) -> str | None:
    """The VM that a published port collides with, if any."""
    row = sql.execute(
        "SELECT v.name FROM port p JOIN interface i ON i.id = p.interface JOIN vm v ON v.id = i.vm"
        " WHERE p.protocol = ? AND p.host_port = ?"
        " AND (p.host_ip IS NULL OR ? IS NULL OR p.host_ip = ?)",
        (port.protocol, port.host_port, port.host_ip, port.host_ip),
    ).fetchone()
    return row[0] if row else None


def loopback6_ports(sql: sqlite3.Connection) -> int:
    """How many published ports are meant for [::1] too, which NAT cannot serve."""
    return int(
        sql.execute(
            "SELECT count(*) FROM port p WHERE p.host_ip = '::1' OR p.host_ip IS NULL AND EXISTS"
            " (SELECT * FROM lease l WHERE l.interface = p.interface AND l.family = 6)"
        ).fetchone()[0]
    )


def counts(sql: sqlite3.Connection) -> dict[tuple[str, int], int]:
    """How many addresses are leased, by network (id) and family (4, 6)."""
    return {
        (network, family): number
        for network, family, number in sql.execute(
            "SELECT network, family, count(*) FROM lease GROUP BY network, family"
        )
    }
