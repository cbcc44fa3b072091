"""hvtx's own tables and chains, read whole and compared with the record.

One dump of each kind and set, none for a single VM. The host is read before the record, so that
what an operation makes meanwhile is not taken for somebody else's; and what differs is looked at a
second time, since an operation may have been in the middle of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hvtx.drivers.nftables.tables import outdated
from hvtx.engine.repaired import Failed
from hvtx.engine.runtime import Runtime
from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import nftshape, store_location
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.resource import FIREWALL_KINDS, PORTS, Resource, State
from hvtx.model.ruleset import Difference, SeenLine, SeenTable, WantedLine
from hvtx.planner import ownrules
from hvtx.rulesets.nftables_layout import BACKEND
from hvtx.rulesets.nftables_wanted import wanted_tables
from hvtx.store import records


def look(runtime: Runtime) -> list[Difference]:
    """Everything that is not as it was made; changes nothing.

    Raises Contended, NotPermitted, HostRefused.
    """
    found = _once(runtime)
    if found:
        again = set(_once(runtime))
        found = [difference for difference in found if difference in again]
    return found


def filters_ahead(rows: Sequence[Resource]) -> Iterator[Difference]:
    """Filters of others that decide on our devices before those that hold guests after a flush."""
    from hvtx.host.filters import ahead
    from hvtx.host.tc import EGRESS, INGRESS

    devices = {row.ifindex: row for row in rows}
    sides = {i: INGRESS if row.kind in PORTS else EGRESS for i, row in devices.items()}
    for index, preference in ahead(sides):
        row = devices[index]
        side = "ingress" if row.kind in PORTS else "egress"
        words = f"a filter of tc that is not hvtx's decides before hvtx's own ({side}, pref"
        fix = f"tc filter del dev {row.key} {side} pref {preference}"
        yield Difference(f"{row.kind} {row.key}", f"{words} {preference})", fix, stops=False)


def of_others(differences: Sequence[Difference]) -> list[Failed]:
    """What stands in our tables, does something there, and is not to be removed: for `repair`."""
    return [
        Failed(
            "rule",
            str(one.place),
            f"it is left alone, since it is {_whose(one)}: {one.fix}",
            missing=one.words,
        )
        for one in differences
        if one.row is None and one.stops
    ]


def removals(runtime: Runtime, rows: Sequence[Resource]) -> list[str]:
    """The commands that take away what others have put into the tables and chains of these rows.

    The rows are of tables and chains that are to go, and could not since they are not hvtx's alone.
    """
    own = [row for row in rows if row.role == "base"]
    if not own:
        return []
    going = {row.mark for row in own}
    known = (
        frozenset(row.mark for row in runtime.read(records.resources_of_kind, *FIREWALL_KINDS))
        - going
    )
    found = [
        *_of_tables(own, runtime.nftables().own_tables(), known, frozenset()),
        *_of_lines(runtime.installation, own, _lines(runtime), known, frozenset()),
    ]
    return list(dict.fromkeys(one.fix for one in found if one.row is None))


def _whose(one: Difference) -> str:
    return "not on record" if one.unrecorded else "somebody else's"


def _once(runtime: Runtime) -> list[Difference]:
    tables = runtime.nftables().own_tables()
    lines = _lines(runtime)
    carried = {element.comment for table in tables for element in table.elements}
    carried |= {line.mark for line in lines}
    with runtime.reading() as sql:
        every = [r for r in records.resources(sql) if r.kind in FIREWALL_KINDS]
        marks = {row.mark for row in every}
        unknown = [mark for mark in carried - marks if mark and parse_mark(mark)]
        released = records.tombstones(sql, unknown)
    own = [row for row in every if _made_here(runtime, row)]
    known = frozenset(marks - {row.mark for row in own}) | frozenset(released)
    ours = runtime.installation
    lost = frozenset(mark for mark in unknown if mark and _is_ours(ours, mark)) - known
    return [*_of_tables(own, tables, known, lost), *_of_lines(ours, own, lines, known, lost)]


def _is_ours(installation: str, text: str) -> bool:
    mark = parse_mark(text)
    return isinstance(mark, Mark) and mark.installation == installation


def _made_here(runtime: Runtime, row: Resource) -> bool:
    whole = row.state == State.COMMITTED and row.life == runtime.life.id
    return whole and not row.imported and row.role != "imported"


def _of_tables(
    rows: Sequence[Resource],
    seen: Sequence[SeenTable],
    known: frozenset[str],
    lost: frozenset[str],
) -> Iterator[Difference]:
    own = [row for row in rows if row.backend == BACKEND]
    older = {row.id for row in own if outdated(row)}
    for wanted, table in wanted_tables(own, map(_without_trace, seen), known, older):
        whole = wanted._replace(unrecorded=lost)
        yield from ownrules.of_table(whole, table, nftshape.hook_words)


def _without_trace(table: SeenTable) -> SeenTable:
    """A table without the empty chain that only says where the store is."""
    trace = (table.family, store_location.CHAIN) == (
        store_location.CHAIN_FAMILY,
        store_location.CHAIN,
    )
    inside = any(rule.chain == store_location.CHAIN for rule in table.rules)
    if not trace or inside or table.hooks.get(store_location.CHAIN) is not None:
        return table
    return table._replace(hooks={n: h for n, h in table.hooks.items() if n != store_location.CHAIN})


def _lines(runtime: Runtime) -> list[SeenLine]:
    """The rules of the legacy tables, where the installation has some there.

    None where they cannot be read: what is known of each row says so.
    """
    used = runtime.read(records.resources_of_kind, *FIREWALL_KINDS)
    if not any(row.backend == "iptables" for row in used):
        return []
    try:
        return _legacy_rules()
    except (NotPermitted, HostRefused):
        return []


def _legacy_rules() -> list[SeenLine]:
    from hvtx.host import xtnames, xtsaved

    found = []
    for family, tool in xtnames.TOOLS.items():
        places: dict[tuple[str, str], int] = {}
        for rule in xtsaved.saved(family).rules:
            chain = (rule.table, rule.chain)
            places[chain] = place = places.get(chain, 0) + 1
            found.append(SeenLine(tool, *chain, rule.text, rule.mark, place))
    return found


def _of_lines(
    installation: str,
    rows: Sequence[Resource],
    seen: Sequence[SeenLine],
    known: frozenset[str],
    lost: frozenset[str],
) -> list[Difference]:
    own = [row for row in rows if row.backend == "iptables"]
    if not seen or not own:
        return []
    from hvtx.host import xtnames
    from hvtx.rulesets import iptables_rules as iptables

    wanted = [
        WantedLine(
            row.id, row.mark, xtnames.TOOLS[rule.family], rule.table, rule.chain, rule.text,
            (rule.table, rule.chain) in iptables.GUARDS,
        )
        for row in own
        for rule in iptables.rules_of(installation, row)
    ]  # fmt: skip
    chains = {
        table: frozenset(iptables.own_chains(installation, table)) for table in iptables.TABLES
    }
    return ownrules.of_lines(wanted, seen, chains, known, lost)
