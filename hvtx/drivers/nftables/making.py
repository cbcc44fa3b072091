"""The tables of an installation, with their chains and rules: made, and put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from hvtx.drivers.nftables.judging import damaged, digests, families_of, layouts_of
from hvtx.drivers.nftables.session import Acted, Session
from hvtx.drivers.nftables.tables import outdated
from hvtx.errors import Conflict, HostRefused, HvtxError
from hvtx.host import libnftables, nftshape, store_location
from hvtx.host.nfanswers import Rule
from hvtx.host.nfmessages import Command, add_rule, delete_rule
from hvtx.model.firewall import nftables_observed, packed_digests
from hvtx.model.hook import DORMANT
from hvtx.model.resource import Resource
from hvtx.model.typed import Any
from hvtx.rulesets.nftables_base import SKELETONS, declarations, rule_lines, table_text
from hvtx.rulesets.nftables_layout import HOOKS


def create(session: Session, bases: Sequence[Resource]) -> dict[int, dict[str, Any]]:
    """Make the tables of base rows, all or none; what is kept of each, by row.

    Raises Conflict (one is there), HostRefused.
    """
    create_tables(session, [(row, family) for row in bases for family in families_of(row)])
    return {row.id: observed_base(session, row) for row in bases}


def create_tables(session: Session, wanted: Sequence[tuple[Resource, str]]) -> None:
    """Make the tables of these base rows and families, all or none."""
    families = [family for _, family in wanted]
    text = "".join(table_text(f, session.installation, row.mark) for row, f in wanted)
    if store_location.CHAIN_FAMILY in families:
        text += _trace(session)
    try:
        if text:
            libnftables.run(text)
    except HostRefused as problem:
        if "File exists" not in problem.message:
            raise
        raise Conflict(
            f"table {session.table} exists already, and does not belong to this record",
            hint=" and ".join(f"`nft list table {f} {session.table}`" for f in families)
            + " show it; `hvtx gc --plan` shows its owner",
        ) from problem


def _trace(session: Session) -> str:
    trace = store_location.trace_of(session.state_directory)
    words = f' comment "{trace}";' if trace else ""
    chain = f" chain {store_location.CHAIN} {{{words} }}"
    return f"table {store_location.CHAIN_FAMILY} {session.table} {{\n{chain}\n}}\n"


def leave_trace(session: Session) -> None:
    """Say in our own table where our store is now; nothing happens where there is none."""
    chain = f"{store_location.CHAIN_FAMILY} {session.table} {store_location.CHAIN}"
    # what an older hvtx made has no such chain: it is added first, so that it can be deleted
    with suppress(HvtxError):
        libnftables.run(f"add chain {chain}\ndelete chain {chain}\n{_trace(session)}")


def observed_base(session: Session, row: Resource) -> dict[str, Any]:
    """What is kept of the tables that a base row stands for, as they are now."""

    def read() -> dict[str, Any]:
        rules = digests(session.own_rules(), row.mark)
        kept = {key: packed_digests(found) for key, found in rules.items()}
        return {"rules": kept, "layout": layouts_of(row)}

    return session.consistently(lambda _: read(), "our tables")


def repair_tables(session: Session, row: Resource) -> dict[str, Any]:
    """Put back tables, chains, hooks and rules of a base row; raises Conflict."""
    tables = session.consistently(lambda _: session.socket.tables(), f"table {session.table}")
    families = families_of(row)
    ours = {t.family: t for t in tables if t.name == session.table and t.family in families}
    for table in ours.values():
        if table.comment != row.mark:
            raise Conflict(
                f"table {table.family} {table.name} is there, but carries "
                f"{table.comment or 'no mark'}",
                hint=f"look at it with `nft list table {table.family} {table.name}`",
            )
    absent = [family for family in families if family not in ours]
    create_tables(session, [(row, family) for family in absent])
    broken = damaged(session.own_rules(), nftables_observed(row), row.mark, families)
    if outdated(row):
        broken = {(family, c.name) for family in families for c in SKELETONS[family].chains}
    _wake(session, families)
    elsewhere = _elsewhere(session, families)
    broken = {(family, chain) for family, chain in broken | elsewhere if family in ours}
    if broken:
        _rebuild(session, row, broken, elsewhere)
        _hook_again(session, row, _elsewhere(session, families))
    return observed_base(session, row)


def _wake(session: Session, families: Iterable[str]) -> None:
    def swap(generation: int) -> Acted:
        flags = nftshape.flags(session.socket, session.table)
        asleep = [family for family in families if flags.get(family, 0) & DORMANT]
        session.socket.batch([nftshape.wake(f, session.table) for f in asleep], generation)
        return Acted({})

    session.consistently(swap, f"table {session.table}")


def _elsewhere(session: Session, families: Collection[str]) -> set[tuple[str, str]]:
    """Chains that are gone, or called at another hook, priority or policy than ours."""
    seen = session.consistently(lambda _: nftshape.hooks(session.socket, session.table), "chains")
    return {
        (family, name)
        for (family, name), hook in HOOKS.items()
        if family in families and seen.get(family, {}).get(name, 0) != hook
    }


def _hook_again(session: Session, row: Resource, chains: set[tuple[str, str]]) -> None:
    """Put chains back to their hooks with their rules, in one transaction.

    Raises Conflict where a rule of somebody else would go with one.
    """

    def swap(generation: int) -> Acted:
        rules, commands = session.own_rules(), list[Command]()
        seen = nftshape.hooks(session.socket, session.table)
        for family, name in sorted(chains):
            hook = HOOKS[family, name]
            made = nftshape.new_chain(family, session.table, name, hook)
            there = seen.get(family, {}).get(name)
            if hook and there and there._replace(policy=hook.policy) == hook:
                commands.append(made)  # only its policy
                continue
            inside = [rule for rule in rules if (rule.family, rule.chain) == (family, name)]
            if any(rule.comment != row.mark for rule in inside):
                raise Conflict(
                    f"chain {name} of table {family} {session.table} was modified, and "
                    "contains a foreign rule",
                    hint="`hvtx doctor` names the command that removes it; then: hvtx repair",
                )
            commands += [nftshape.delete_chain(family, session.table, name), made]
            commands += map(add_rule, inside)
        session.socket.batch(commands, generation)
        return Acted({})

    if chains:
        session.consistently(swap, f"the repair of table {session.table}")


def _rebuild(
    session: Session, row: Resource, broken: set[tuple[str, str]], elsewhere: set[tuple[str, str]]
) -> None:
    """Append the whole of each broken chain, then take its older marked rules away.

    In this order the chain is never without its rules; the second step is compare-and-swap,
    so it can only meet rules that carry the mark now.
    """
    lines, sizes = [], {}
    for family in {family for family, _ in broken}:
        moved = {chain for where, chain in elsewhere if where == family}
        lines += [f"table {family} {session.table} {{", declarations(family, moved), "}"]
        for chain in SKELETONS[family].chains:
            if (family, chain.name) in broken:
                lines += rule_lines(family, session.table, row.mark, chain)
                sizes[family, chain.name] = len(chain.rules)
    libnftables.run("\n".join(lines) + "\n")

    def swap(generation: int) -> Acted:
        older: list[Rule] = []
        rules = session.own_rules()
        for (family, chain), size in sizes.items():
            marked = [
                r for r in rules if (r.family, r.chain, r.comment) == (family, chain, row.mark)
            ]
            older += marked[:-size]
        session.socket.batch([delete_rule(rule) for rule in older], generation)
        return Acted({})

    session.consistently(swap, f"the repair of table {session.table}")
