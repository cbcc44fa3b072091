"""Commands that remove what keeps a resource of hvtx from being released. Pure.

Everybody who could not release something asks here, so that each hint leads on: once what it says
is done, ``hvtx gc --apply`` goes on with the release, and the VM or network can be used again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Sequence

from hvtx.model.mark import parse_mark
from hvtx.model.place import NFT
from hvtx.model.plan import Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import (
    DEVICES,
    FIREWALL_KINDS,
    PORTS,
    Address,
    Entry,
    Kind,
    Link,
    Outcome,
    Resource,
    file_spec,
    filters_on,
    put_by_others,
)
from hvtx.model.seed import mark_path
from hvtx.model.shell import word
from hvtx.planner.presence import SET_VALUE, SnapshotIndex, index

AGAIN = "hvtx gc --apply"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_PID = re.compile(r"\(pid (\d+)\)")


def hint(
    snapshot: Snapshot, kept: Sequence[tuple[Resource, Outcome]], *, again: str = AGAIN
) -> str:
    """One line: what has to be done before the rest of ``kept`` can go, and then ``again``."""
    sights = index(snapshot)
    found: dict[str, None] = {}
    for row, outcome in kept:
        found.update(dict.fromkeys(_steps(row, outcome, snapshot, sights)))
    return "; ".join([*found, again])


def fixes(row: Resource, reason: Reason, snapshot: Snapshot, sights: SnapshotIndex) -> list[str]:
    """What has to be done before a thing of this row can be released; nothing for most."""
    return _steps(row, Outcome(False, reason), snapshot, sights)


def _steps(row: Resource, outcome: Outcome, snapshot: Snapshot, sights: SnapshotIndex) -> list[str]:
    if outcome.reason == Reason.IN_USE:
        return _end(row, outcome)
    if row.kind == Kind.FILE:
        return _moved_away(row, outcome)
    if row.kind in FIREWALL_KINDS:
        return [removal(entry) for entry in _in_the_way(row, snapshot, sights)]
    if row.kind not in DEVICES:
        return []  # what stands on its bridge is told of the bridge
    link = sights.by_index.get(row.ifindex)
    if outcome.reason == Reason.MARK_MISMATCH:
        foreign_object = sights.by_name.get(row.key)
        seen = link or foreign_object
        return [] if seen is None else [marked_again(row, seen)]
    if outcome.reason == Reason.FOREIGN_DEPENDENTS and link is not None:
        own = snapshot.settled.taps.union(r.ifindex for r in snapshot.rows if r.kind in PORTS)
        foreign_objects = [other for other in snapshot.links if other.ifindex not in own]
        known = row.addresses
        return taken_away(link, foreign_objects, snapshot.addresses, snapshot.filtered, known)
    return []


def _moved_away(row: Resource, outcome: Outcome) -> list[str]:
    """How what stands in the place of a file or a directory of the run directory goes.

    It may have the mark of a start that an older copy of the store does not know.
    """
    if outcome.reason != Reason.MARK_MISMATCH:
        return []
    path = file_spec(row)["path"]
    places = [path] if row.is_reservation else [path, mark_path(path)]
    return [f"rm -rf {shlex.join(places)}"]


def _end(row: Resource, outcome: Outcome) -> list[str]:
    """How who holds a device is ended; of a VM's other rows nothing more is said."""
    pids = dict.fromkeys(_PID.findall(outcome.message))
    if row.kind != Kind.TAP:
        return []
    if not pids:
        return [f"end the process that has {row.key} open (it is not seen from here)"]
    return [f"kill {pid}" for pid in pids]


def marked_again(row: Resource, seen: Link) -> str:
    """The command that gives our own device its mark, or removes what has only its name."""
    if seen.ifindex == row.ifindex and parse_mark(seen.alias) is None:
        return f"ip link set dev {word(seen.name)} alias {row.mark}"
    told = f"`hvtx explain {word(seen.name)}` shows its owner; if nobody needs it: "
    return f"{told}ip link del dev {word(seen.name)}"


def taken_away(
    link: Link,
    others: Iterable[Link],
    addresses: Iterable[Address],
    filtered: Collection[int],
    own: Collection[str],
) -> list[str]:
    """The commands that take off a device what ``others`` put on it; ``own``: our addresses."""
    found, name = [], word(link.name)
    for other in others:
        if other.lower == link.ifindex:
            found.append(f"ip link del dev {word(other.name)}")
        elif other.master == link.ifindex:
            found.append(f"ip link set dev {word(other.name)} nomaster")
    given = put_by_others(link.ifindex, addresses, own)
    found += [f"ip addr del {address} dev {name}" for address in given]
    for words in filters_on(link, filtered):
        if words == "traffic control":
            shown = [f"`tc qdisc show dev {name}`"]
            shown += [f"`tc filter show dev {name} {side}`" for side in ("ingress", "egress")]
            found.append(f"take away what {', '.join(shown)} show of others")
        else:
            found += [f"ip link set dev {name} {kind} off" for kind in ("xdp", "xdpgeneric")]
    return found


def _in_the_way(row: Resource, snapshot: Snapshot, sights: SnapshotIndex) -> list[Entry]:
    """What stands where a row's rules stood, with another mark than theirs, or changed."""
    expected = snapshot.expected.get(row.id, ())
    wanted = {entry.object_key for entry in expected}
    bare = [
        other
        for key in wanted
        for other in sights.bare.get(key)
        if other.mark is None or other.mark != row.mark
    ]
    changed = [
        entry for entry in sights.by_mark.get(row.mark, ()) if entry.object_key not in wanted
    ]
    return sorted(
        {*bare, *changed},
        key=lambda e: (e.backend, e.place.is_table, str(e.place), e.text, e.mark or "", e.handle),
    )


def removal(entry: Entry) -> str:
    """The command that removes a rule or an element from where it stands."""
    tool, family, table, chain = entry.place
    if tool != NFT:
        return f"{tool}-legacy -t {word(table)} -D {word(chain)} {_legacy_words(entry)}"
    if not all(map(_NAME.fullmatch, (table, chain or "_"))):
        return f"see nft -a list tables {family}: it has a name that nft has no words for"
    if not chain:
        return f"`hvtx explain {table}` tells of it"
    if entry.handle:
        return f"nft delete rule {family} {table} {chain} handle {entry.handle}"
    key = " . ".join(entry.text.partition(SET_VALUE)[0].replace("[", "").replace("]", "").split())
    return f"nft delete element {family} {table} {chain} {shlex.quote(f'{{ {key} }}')}"


def _legacy_words(entry: Entry) -> str:
    """A rule of a legacy table for a shell, of what `iptables -S` prints, where it can be read."""
    comment = ["-m", "comment", "--comment", entry.mark] if entry.mark else []
    matches, jump, target = entry.text.partition("-j ")
    try:
        first, last = shlex.split(matches), shlex.split(f"{jump}{target}")
    except ValueError:
        return f"RULE, which is: {entry.text}"
    return " ".join(one if one == "!" else word(one) for one in (*first, *comment, *last))
