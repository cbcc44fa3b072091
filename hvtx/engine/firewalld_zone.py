"""Bridges of networks in firewalld's zone `hvtx` (docs/adr/0065).

A row `passage` with the backend `firewalld` for each network, made when firewalld is first met, by
`network create`, `vm start`, `recover` and `repair`. It stays while firewalld is stopped, and goes
with its network, or when somebody else puts the bridge elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.drivers.base import FirewallDriver
from hvtx.engine import notice
from hvtx.host import firewalld, ufw
from hvtx.host.firewalld import Firewalld
from hvtx.host.firewalld_zones import has_file
from hvtx.model.firewalld_zone import BACKEND, ZONE, is_others, is_waiting
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.resource import Resource
from hvtx.model.vm import Network
from hvtx.planner.firewalld_zone import Differs, Seen, bound, compare
from hvtx.planner.own_accepts import Net

_RELOAD = "firewall-cmd --reload"


def change(
    networks: Sequence[Network], rows: Sequence[Resource], *, runs: bool, thorough: bool
) -> Differs:
    """What of the rows and of what stands for them is not as it should be.

    ``runs``: firewalld's table is there. Rows stay while it is stopped, as long as it has its zone
    in a file. ``thorough``: they are compared with what firewalld says; else they are believed, and
    it is only asked where a network has none. Raises HostRefused.
    """
    if not runs:
        gone = tuple(rows) if rows and not has_file() else ()
        found = compare(networks, rows, None)
        return found._replace(drop=gone or found.drop)
    known = {row.network for row in rows}
    asked = thorough or any(n.passage and n.id not in known for n in networks)
    daemon = firewalld.running() if asked else None
    seen = None if daemon is None else _seen(daemon, networks, known)
    return compare(networks, rows, seen)


def _seen(daemon: Firewalld, networks: Iterable[Network], known: Iterable[str | None]) -> Seen:
    """What firewalld has; what lasts elsewhere is asked of bridges that it has not by a row."""
    zones, lasting, with_row = daemon.zones(), daemon.lasting(), set(known)
    kept = () if lasting is None else lasting.interfaces
    bare = [n.bridge for n in networks if n.passage and not (n.id in with_row and n.bridge in kept)]
    elsewhere = {bridge: daemon.permanent_zone_of(bridge) for bridge in bare}
    return Seen(zones, lasting, {bridge: zone for bridge, zone in elsewhere.items() if zone})


def drop_stale(
    driver: FirewallDriver, installation: str, bridges: Iterable[str], rows: Iterable[Resource]
) -> None:
    """Take out what rows of earlier lives of the host have left of bridges that are bound anew."""
    bound_anew, marks = set(bridges), {row.mark for row in rows}
    for entry in driver.observe():
        mark = parse_mark(entry.mark)
        ours = isinstance(mark, Mark) and mark.installation == installation
        if ours and entry.text in bound_anew and entry.mark not in marks:
            driver.remove(entry)


def warn_unknown(made: Iterable[Resource]) -> None:
    """Say what is left to a person of rows just made, where firewalld did not know their zone."""
    waiting = [row.bridge for row in made if row.backend == BACKEND and is_waiting(row)]
    if waiting:
        notice.warning(
            f"firewalld learns of its new zone {ZONE} by its next reload or start; until then it"
            f" stops guests of {', '.join(waiting)}: {with_ufw(_RELOAD)}"
        )


def fixes(nets: Iterable[Net]) -> dict[str, str]:
    """The command by which each bridge that firewalld stops gets into its zone, where there is one.

    A bridge that somebody else put into a zone has none here; none has, where the zone `hvtx` is
    somebody else's. Raises HostRefused.
    """
    own = [net.bridge for net in nets if net.passage]
    daemon = firewalld.running() if own else None
    if daemon is None:
        return {}
    zones, lasting = daemon.zones(), daemon.lasting()
    if lasting is not None and is_others(lasting):
        return {}
    placed = bound(zones)
    found = {}
    for bridge in own:
        kept = lasting is not None and bridge in lasting.interfaces
        if bridge in placed or (not kept and daemon.permanent_zone_of(bridge)):
            continue  # it is in a zone: what stops it there is not for want of one
        if ZONE in zones:
            found[bridge] = "hvtx repair"
        else:
            found[bridge] = _RELOAD if kept else f"hvtx repair; {_RELOAD}"
    return found


def with_ufw(commands: str) -> str:
    """Commands as a hint has them; ufw is loaded again where a reload of firewalld is among them.

    That empties the tables of iptables and leaves their policies: with ufw's the host is shut then.
    """
    if _RELOAD in commands and ufw.is_enabled():
        return f"{commands}; ufw reload"
    return commands


def will_bind(network: Network) -> bool:
    """Whether a network that might be made would be in the zone at once. Raises HostRefused."""
    daemon = firewalld.running() if network.passage else None
    if daemon is None or ZONE not in daemon.zones():
        return False
    lasting = daemon.lasting()
    return lasting is None or not is_others(lasting)


def of_kind(rows: Iterable[Resource]) -> tuple[list[Resource], list[Resource]]:
    """The rows that are of the zone, and the others."""
    every = list(rows)
    own = [row for row in every if row.backend == BACKEND]
    return own, [row for row in every if row not in own]
