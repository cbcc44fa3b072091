"""The table ``network``, with the subnets of a network."""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable

from hvtx.errors import NotFound
from hvtx.model import json_text
from hvtx.model.address import family_of
from hvtx.model.typed import Any
from hvtx.model.vm import Network
from hvtx.store import settings
from hvtx.store.codec import decode
from hvtx.store.records.vm import likely


def networks(sql: sqlite3.Connection) -> list[Network]:
    """All networks by name."""
    return _found(sql, "1")


def _found(sql: sqlite3.Connection, where: str, values: tuple[Any, ...] = ()) -> list[Network]:
    """Networks by name; ``where``, a constant, speaks of the table ``network``."""
    subnets: dict[str, list[tuple[str, str]]] = {}
    first = []
    for *columns, cidr, gateway in sql.execute(
        "SELECT id, name, bridge, mac, mtu, nat, isolate, firewall, gateway6, settings,"
        " s.cidr, s.gateway"
        " FROM network LEFT JOIN subnet s ON s.network = id"
        f" WHERE {where} ORDER BY name, s.family",
        values,
    ):
        if columns[0] not in subnets:
            subnets[columns[0]] = []
            first.append(columns)
        if cidr is not None:
            subnets[columns[0]].append((cidr, gateway))
    return [
        Network(
            id=row[0],
            name=row[1],
            bridge=row[2],
            mac=row[3],
            mtu=row[4],
            nat=bool(row[5]),
            isolate=bool(row[6]),
            firewall=row[7],
            subnets=tuple(cidr for cidr, _ in subnets[row[0]]),
            gateways=tuple(gateway for _, gateway in subnets[row[0]]),
            gateway6=row[8],
            **settings.network_fields(decode(row[9])),
        )
        for row in first
    ]


def provisional_networks(sql: sqlite3.Connection) -> dict[str, int]:
    """The networks (by id) that an operation is making or removing, or was; which."""
    return dict(sql.execute("SELECT id, operation FROM network WHERE operation IS NOT NULL"))


def networks_by_id(sql: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Network]:
    """The networks with these ids; few, as of one VM."""
    wanted = tuple(ids)
    found = _found(sql, f"network.id IN ({','.join('?' * len(wanted))})", wanted)
    return {network.id: network for network in found}


def find_network(sql: sqlite3.Connection, name: str) -> Network | None:
    """The network of this name."""
    found = _found(sql, "name = ?", (name,))
    return found[0] if found else None


def get_network(sql: sqlite3.Connection, name: str) -> Network:
    """The network of this name; raises NotFound."""
    network = find_network(sql, name)
    if network is None:
        raise no_network(name, (row[0] for row in sql.execute("SELECT name FROM network")))
    return network


def no_network(name: str, known: Iterable[str]) -> NotFound:
    """The same of a network."""
    return NotFound(
        f"there is no network {name!r}", hint=likely(name, known, "`hvtx network ls` lists them")
    )


def to_have_network(name: str) -> str:
    """What to do where the network that a configuration names is not there."""
    return f"hvtx network create {name} --subnet CIDR, or declare subnets in the configuration"


def add_network(sql: sqlite3.Connection, network: Network, operation: int) -> None:
    """Insert a network with its subnets."""
    sql.execute(
        "INSERT INTO network"
        " (id, name, bridge, mac, mtu, nat, isolate, firewall, gateway6, settings, operation)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            network.id,
            network.name,
            network.bridge,
            network.mac,
            network.mtu,
            int(network.nat),
            int(network.isolate),
            network.firewall,
            network.gateway6,
            json_text.dumps(settings.of_network(network)),
            operation,
        ),
    )
    for cidr, gateway in network.ranges:
        sql.execute(
            "INSERT INTO subnet (network, family, cidr, gateway) VALUES (?,?,?,?)",
            (network.id, family_of(cidr), cidr, gateway),
        )


def set_network(sql: sqlite3.Connection, network: Network) -> None:
    """Put what a network is set to in the place of what it was; all else of it stays."""
    sql.execute(
        "UPDATE network SET settings = ?, isolate = ? WHERE id = ?",
        (json_text.dumps(settings.of_network(network)), int(network.isolate), network.id),
    )


def set_network_confirmed(sql: sqlite3.Connection, network: str) -> None:
    """A network (by id) that was provisional is on record for good."""
    sql.execute("UPDATE network SET operation = NULL WHERE id = ?", (network,))


def set_network_leaving(sql: sqlite3.Connection, network: str, operation: int) -> None:
    """A network (by id) is provisional again: ``operation`` removes it."""
    sql.execute("UPDATE network SET operation = ? WHERE id = ?", (operation, network))


def remove_network(sql: sqlite3.Connection, network: str) -> None:
    """Forget a network; its VMs must be gone (a foreign key sees to it)."""
    sql.execute("DELETE FROM network WHERE id = ?", (network,))


def users_of_network(sql: sqlite3.Connection, network: str) -> list[str]:
    """Names of the VMs with an interface in the network."""
    return [
        row[0]
        for row in sql.execute(
            "SELECT DISTINCT v.name FROM interface i JOIN vm v ON v.id = i.vm"
            " WHERE i.network = ? ORDER BY v.name",
            (network,),
        )
    ]


def taps_in_networks(
    sql: sqlite3.Connection, networks: Iterable[str], life: int, most: int
) -> dict[str, int]:
    """How many TAPs that were made in a life each of these networks has.

    Only of those with more interfaces on record than ``most``: the others need no look at the
    rows of their VMs, which no index finds by network.
    """
    found: dict[str, int] = {}
    for network in networks:
        members = sql.execute("SELECT count(*) FROM interface WHERE network = ?", (network,))
        if members.fetchone()[0] > most:
            taps = sql.execute(
                "SELECT count(*) FROM resource WHERE state <> 'released'"
                " AND kind IN ('tap', 'veth') AND network = ? AND life = ?"
                " AND vm IN (SELECT vm FROM interface WHERE network = ?)",
                (network, life, network),
            )
            found[network] = int(taps.fetchone()[0])
    return found
