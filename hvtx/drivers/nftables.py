"""The nftables backend: one skeleton per installation, elements per VM and network.

Elements go in by one atomic batch and come out by compare-and-swap: read the generation, read each
element with its comment, delete only those whose comment is the row's mark, in a batch that the
kernel refuses if anything changed in between. The socket is kept open for the driver's life, since
closing one after deletions waits some 14 ms for the kernel's RCU.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hvtx.drivers.base import Host, stand_for
from hvtx.drivers.nftjudging import (
    counts_others,
    damaged,
    describe,
    digests,
    families_of,
    judge,
    layouts_of,
    place_of,
    strangers,
    surplus,
    without_comment,
)
from hvtx.errors import Conflict, Contended, HostRefused, HvtxError, NotPermitted
from hvtx.host import libnftables, nftshape, traces
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.nfnetlink import (
    SET_ANONYMOUS,
    BatchRefused,
    Command,
    Nftables,
    Piece,
    Rule,
    Table,
    add_element,
    add_rule,
    all_elements,
    delete_element,
    delete_rule,
    delete_table,
    translates,
    xt_comment,
)
from hvtx.host.nftlayout import (
    FAMILIES,
    PASSING,
    SKELETONS,
    declarations,
    pieces,
    render,
    renderer,
    rule_lines,
    table_name,
    table_text,
    unplaced,
)
from hvtx.host.nftshape import digest
from hvtx.model.hook import DORMANT
from hvtx.model.mark import FAMILY as MARKED
from hvtx.model.resource import GONE, Entry, Outcome, Resource

if TYPE_CHECKING:
    from hvtx.model.ruleset import SeenTable

BACKEND = "nftables"
IMPORTED = "imported"  # a stranger's rule that was taken over: `place`, `native` (docs/adr/0008)
ATTEMPTS = 60  # of a compare-and-swap or a consistent read, each a fraction of a millisecond
_PAUSE = 0.001  # seconds, after a lost race, growing with the attempts
_TABLE_TEXT = "table"
_ABSENT = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})
_HOOKS = {
    (family, chain.name): nftshape.hook_of(chain.hook)
    for family, skeleton in SKELETONS.items()
    for chain in skeleton.chains
}
_RULE_LINE = r"(?s)\t\t(.*) # handle (\d+)"  # compiled only where strangers' rules are read
_CHAIN_LINE = r"\tchain (\S+) \{"

T = TypeVar("T")


class NoNftables(HostRefused):
    """The kernel has no nf_tables, so none of our objects exists."""


class _Stale(Exception):
    """What was read is no longer so."""


# ---------------------------------------------------------------- decisions, pure


def rule_mark(rule: Rule) -> str | None:
    """A rule's mark, from its comment or an xtables comment match."""
    comment = rule.comment or xt_comment(rule)
    return comment if comment and comment.startswith(MARKED) else None


def outdated(row: Resource) -> bool:
    """Whether a base row's tables were made by a version that made them otherwise."""
    return row.spec["what"] == "base" and row.observed.get("layout") != layouts_of(row)


def listed_rules(listing: str) -> dict[tuple[str, int], str]:
    """``{(chain, handle): text}`` from what ``nft -a list table`` prints."""
    found: dict[tuple[str, int], str] = {}
    chain = ""
    for line in libnftables.lines_of(listing):
        if opened := re.match(_CHAIN_LINE, line):
            chain = opened[1]
        elif rule := re.fullmatch(_RULE_LINE, line):
            found[chain, int(rule[2])] = rule[1]
    return found


def refusal(problem: OSError, doing: str) -> HvtxError:
    """The error that a person reads for one from the kernel."""
    words = f"nf_tables refused {doing}: {problem.strerror}"
    if problem.errno in {errno.EPERM, errno.EACCES}:
        return NotPermitted(words, hint="run as root, or with CAP_NET_ADMIN")
    if problem.errno in _ABSENT:
        return NoNftables(
            f"the kernel has no nf_tables for {doing}: {problem.strerror}",
            hint="`modprobe nf_tables`, or choose `--firewall iptables`",
        )
    if problem.errno == errno.ENOENT:
        return HostRefused(
            f"hvtx's nft table or set is gone: {words}", hint="`hvtx repair` puts it back"
        )
    return HostRefused(words, hint="`hvtx doctor` shows what this kernel's nf_tables lacks")


# ---------------------------------------------------------------- the driver


class NftablesDriver:
    """Makes, removes and reads the nftables objects of one installation.

    Works in the network namespace of the thread that first uses it; not for two threads at once.
    """

    def __init__(self, host: Host) -> None:
        """Open nothing yet."""
        self._installation = host.installation
        self._state_directory = host.state_directory
        self._table = table_name(host.installation)
        self._open: Nftables | None = None

    def close(self) -> None:
        """Close the socket (after deletions this waits some 14 ms)."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _socket(self) -> Nftables:
        if self._open is None:
            self._open = Nftables()
        return self._open

    # ---- create

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make all rows: base first, then every element in one batch.

        Returns ``{"rules": {"inet raw": [digest, …]}, "layout": {"inet": …}}`` for a base row and
        ``{"elements": n}``
        for others. Raises Conflict (taken), HostRefused (tables gone, kernel), NotPermitted.
        """
        bases = [row for row in resources if row.spec["what"] == "base"]
        self._create_tables([(row, family) for row in bases for family in families_of(row)])
        observed = {row.id: self._observed_base(row) for row in bases}
        wanted: list[tuple[Resource, Piece]] = []
        for row in resources:
            if row.spec["what"] != "base":
                wanted += stand_for(row, [(row, p) for p in pieces(self._installation, row.spec)])
        if wanted:
            self._refuse_unguarded()
        try:
            self._socket.batch([add_element(piece, row.mark) for row, piece in wanted])
        except BatchRefused as problem:
            raise self._not_made(problem, wanted) from problem
        except OSError as problem:
            raise refusal(problem, "our elements") from problem
        for row in resources:
            observed.setdefault(row.id, {"elements": 0})
        for row, _ in wanted:
            observed[row.id]["elements"] += 1
        return observed

    def _refuse_unguarded(self) -> None:
        """Nobody is called guarded by chains that the kernel does not ask."""
        flags, hooks = self._consistently(
            lambda _: (
                nftshape.flags(self._socket, self._table),
                nftshape.hooks(self._socket, self._table),
            ),
            "our chains",
        )
        for (family, name), hook in _HOOKS.items():
            what = f"hvtx's table {family} {self._table}"
            if flags.get(family, 0) & DORMANT:
                words = f"{what} is dormant: its rules hold no guest"
            elif hook and family in flags and hooks.get(family, {}).get(name) != hook:
                words = f"chain {name} of {what} is gone or another: its rules hold no guest"
            else:
                continue
            raise HostRefused(words, hint="`hvtx repair` puts it back")

    def _not_made(
        self, problem: BatchRefused, wanted: Sequence[tuple[Resource, Piece]]
    ) -> HvtxError:
        if problem.index < 0:
            return refusal(problem, "our elements")
        row, piece = wanted[problem.index]
        if problem.errno != errno.EEXIST:
            return refusal(problem, f"{describe(piece)} for {row.key}")
        try:
            there = self._socket.lookup([piece])[0]
        except OSError:
            there = None
        whose = (there and there.comment) or "no mark of hvtx"
        return Conflict(
            f"{row.key}: {describe(piece)} is taken; what is there carries {whose}",
            hint=f"`hvtx explain {row.key}` says whose it is",
        )

    def _create_tables(self, wanted: Sequence[tuple[Resource, str]]) -> None:
        """Make the tables of these base rows and families, all or none."""
        families = [family for _, family in wanted]
        text = "".join(table_text(f, self._installation, row.mark) for row, f in wanted)
        if traces.CHAIN_FAMILY in families:
            text += self._trace()
        try:
            if text:
                libnftables.run(text)
        except HostRefused as problem:
            if "File exists" not in problem.message:
                raise
            raise Conflict(
                f"a table {self._table} is there already, and is not of this record",
                hint=" and ".join(f"`nft list table {f} {self._table}`" for f in families)
                + " show it; `hvtx gc --plan` says whose it is",
            ) from problem

    def _observed_base(self, row: Resource) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            rules = digests(self._own_rules(), row.mark)
            return {"rules": rules, "layout": layouts_of(row)}

        return self._consistently(lambda _: read(), "our tables")

    def _own_rules(self) -> list[Rule]:
        return [rule for family in FAMILIES for rule in self._rules_of(family, self._table)]

    def _rules_of(self, family: str, table: str) -> list[Rule]:
        try:
            return self._socket.rules(family, table)
        except OSError as problem:
            if problem.errno == errno.ENOENT:
                return []
            raise

    # ---- reading and acting under one generation

    def _consistently(self, action: Callable[[int], T], doing: str) -> T:
        """Do ``action(generation)`` until nothing changed meanwhile.

        An action that acts carries the generation in its batch. Raises Contended after
        ``ATTEMPTS``, NotPermitted or HostRefused for other refusals.
        """
        generation = -1
        for attempt in range(ATTEMPTS):
            try:
                generation = self._socket.generation()
                result = action(generation)
                if isinstance(result, _Acted) or self._same(generation):
                    return result
            except (DumpInterrupted, _Stale):
                pass
            except OSError as problem:
                if problem.errno not in {errno.ERESTART, errno.ENOBUFS, errno.ENOENT, errno.EINTR}:
                    raise refusal(problem, doing) from problem
                if problem.errno == errno.ENOENT and self._same(generation):
                    raise refusal(problem, doing) from problem
            time.sleep(_PAUSE * min(attempt, 10))
        raise Contended(
            f"nf_tables changed {ATTEMPTS} times while {doing} was worked on",
            hint="something changes the ruleset in a loop; try again when it is calmer",
        )

    def _same(self, generation: int) -> bool:
        return self._socket.generation() == generation

    # ---- release

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove what carries its row's mark: elements first, in one batch, base rows last."""
        outcomes: dict[int, Outcome] = {}
        rows = []
        for row in resources:
            if row.spec["what"] == IMPORTED:
                outcomes[row.id] = self.remove(self.expected(row)[0])
            elif row.spec["what"] != "base":
                rows.append(row)
        if rows:
            ids = [row.id for row in rows]
            outcomes.update(self._guarded(ids, lambda: self._release_elements(rows)))
        for row in resources:
            if row.spec["what"] == "base":
                outcomes.update(self._guarded([row.id], partial(self._release_base, row)))
        return outcomes

    def _guarded(
        self, ids: Sequence[int], action: Callable[[], Mapping[int, Outcome]]
    ) -> Mapping[int, Outcome]:
        """The outcomes of ``action``, or one reason for all of ``ids`` where it failed."""
        try:
            return action()
        except NoNftables:
            kept = GONE
        except Contended as problem:
            kept = Outcome(False, "contended", problem.message)
        except (HvtxError, OSError, ValueError) as problem:
            kept = Outcome(False, "observe-failed", str(problem))
        return dict.fromkeys(ids, kept)

    def _release_elements(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        wanted = [(row, p) for row in rows for p in pieces(self._installation, row.spec)]

        def swap(generation: int) -> _Acted:
            there = self._socket.lookup([piece for _, piece in wanted])
            outcomes = {row.id: GONE for row in rows}
            commands: list[Command] = []
            for (row, piece), element in zip(wanted, there, strict=True):
                outcome = judge(piece, element, row.mark)
                if outcome is None:
                    commands.append(delete_element(piece))
                elif not outcome.gone:
                    outcomes[row.id] = outcome
            self._act(generation, 0, commands, GONE)
            return _Acted(outcomes)

        return self._consistently(swap, "the release of elements").outcomes

    def _release_base(self, row: Resource) -> Mapping[int, Outcome]:
        def swap(generation: int) -> _Acted:
            tables = [
                table
                for table in self._socket.tables()
                if table.name == self._table and table.family in families_of(row)
            ]
            outcome = next((o for t in tables if (o := self._removable(t, row.mark))), GONE)
            commands = [delete_table(table.family, table.name) for table in tables]
            return self._act(generation, row.id, commands if outcome.gone else [], outcome)

        return self._consistently(swap, f"table {self._table}").outcomes

    def _act(
        self, generation: int, number: int, commands: Sequence[Command], outcome: Outcome
    ) -> _Acted:
        """Do ``commands`` under ``generation``; without any, make sure that it still holds."""
        self._socket.batch(commands, generation)
        if not commands and not self._same(generation):
            raise _Stale
        return _Acted({number: outcome})

    def _removable(self, table: Table, mark: str) -> Outcome | None:
        """None if a table and all in it carry ``mark``, else why it stays."""
        where = f"table {table.family} {table.name}"
        if table.comment is None:
            return Outcome(False, "mark-stripped", f"{where} has no comment")
        if table.comment != mark:
            return Outcome(False, "mark-mismatch", f"{where} carries {table.comment!r}")
        stranger = self._stranger_in(table, mark)
        if stranger:
            return Outcome(False, "foreign-dependents", f"{where} still holds {stranger}")
        return None

    def _stranger_in(self, table: Table, mark: str) -> str:
        socket, here = self._socket, (table.family, table.name)
        sets = [s for s in socket.sets() if (s.family, s.table) == here]
        sets = [s for s in sets if not s.flags & SET_ANONYMOUS]
        named = [("set", s.name) for s in sets]
        named += [
            (kind, thing.name)
            for kind, things in (("chain", socket.chains()), ("object", socket.objects()))
            for thing in things
            if (thing.family, thing.table) == here
        ]
        elements = [
            (s.name, all_elements(socket.dump_elements(*here, s.name)))
            for s in sets
            if (s.family, s.name) not in PASSING
        ]
        return strangers(table.family, mark, named, socket.rules(*here), elements)

    # ---- copies and repair

    def remove_copies(self, resource: Resource) -> Outcome:
        """Remove the surplus identical copies of a base row's rules, keeping the first of each.

        Elements cannot have copies. Raises nothing for a single item.
        """

        def swap(generation: int) -> _Acted:
            found = surplus(self._own_rules(), resource.mark)
            return self._act(generation, resource.id, [delete_rule(r) for r in found], GONE)

        def attempt() -> Mapping[int, Outcome]:
            return self._consistently(swap, f"copies in table {self._table}").outcomes

        return self._guarded([resource.id], attempt)[resource.id]

    def remove(self, entry: Entry) -> Outcome:
        """Remove one object that was seen, if it is still exactly that; of copies, the last.

        A table goes only if all in it carries the same mark. Never raises.
        """
        if entry.mark is None:
            return Outcome(False, "foreign", f"`{entry.text}` in {entry.place} carries no mark")

        def swap(generation: int) -> _Acted:
            found = self._removal(entry)
            if isinstance(found, Outcome):
                return self._act(generation, 0, [], found)
            return self._act(generation, 0, [found], GONE)

        def attempt() -> Mapping[int, Outcome]:
            return self._consistently(swap, entry.place).outcomes

        return self._guarded([0], attempt)[0]

    def _removal(self, entry: Entry) -> Command | Outcome:
        """What removes the object of ``entry``; an outcome if it is gone or must stay."""
        _, family, table, *rest = entry.place.split(" ")
        mark = entry.mark or ""
        if not rest:
            there = [t for t in self._socket.tables() if (t.family, t.name) == (family, table)]
            kept = self._removable(there[0], mark) if there else GONE
            return delete_table(family, table) if kept is None else kept
        same = entry._replace(handle=0, nat=False)
        rules = [
            rule
            for rule, seen in self._rule_entries(self._rules_of(family, table))
            if seen._replace(handle=0, nat=False) == same
        ]
        if rules:
            return delete_rule(rules[-1])
        name = rest[0]
        if any((s.family, s.table, s.name) == (family, table, name) for s in self._socket.sets()):
            for key, data, comment, _ in all_elements(
                self._socket.dump_elements(family, table, name)
            ):
                if comment == mark and render(family, name, key, data) == entry.text:
                    return delete_element(Piece(family, table, name, key))
        return GONE

    def mend(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put back what is missing or changed of rows that should be whole; keep what is right.

        Returns what :meth:`create` returns. Raises Conflict where something else took the place.
        """
        observed: dict[int, dict[str, Any]] = {}
        rows = []
        for row in resources:
            if row.spec["what"] == "base":
                observed[row.id] = self._mend_base(row)
            else:
                rows.append(row)
        observed.update(self._mend_elements(rows))
        return observed

    def _mend_elements(self, rows: Sequence[Resource]) -> dict[int, dict[str, Any]]:
        wanted: list[tuple[Resource, Piece]] = []
        for row in rows:
            wanted += stand_for(row, [(row, p) for p in pieces(self._installation, row.spec)])

        def swap(generation: int) -> _Acted:
            there = self._socket.lookup([piece for _, piece in wanted])
            commands: list[Command] = []
            for (row, piece), element in zip(wanted, there, strict=True):
                if element is not None and element.comment != row.mark:
                    raise Conflict(
                        f"{row.key}: {describe(piece)} is taken; what is there carries "
                        f"{element.comment or 'no mark of hvtx'}",
                        hint=f"`hvtx explain {row.key}` says whose it is",
                    )
                if element is None or element.data != piece.data or counts_others(element, piece):
                    commands += [] if element is None else [delete_element(piece)]
                    commands.append(add_element(piece, row.mark))
            self._socket.batch(commands, generation)
            return _Acted({})

        if wanted:
            self._consistently(swap, "the repair of elements")
        found: dict[int, dict[str, Any]] = {row.id: {"elements": 0} for row in rows}
        for row, _ in wanted:
            found[row.id]["elements"] += 1
        return found

    def _mend_base(self, row: Resource) -> dict[str, Any]:
        tables = self._consistently(lambda _: self._socket.tables(), f"table {self._table}")
        families = families_of(row)
        ours = {t.family: t for t in tables if t.name == self._table and t.family in families}
        for table in ours.values():
            if table.comment != row.mark:
                raise Conflict(
                    f"table {table.family} {table.name} is there, but carries "
                    f"{table.comment or 'no mark'}",
                    hint=f"look at it with `nft list table {table.family} {table.name}`",
                )
        absent = [family for family in families if family not in ours]
        self._create_tables([(row, family) for family in absent])
        broken = damaged(self._own_rules(), row.observed, row.mark, families)
        if outdated(row):
            broken = {(family, c.name) for family in families for c in SKELETONS[family].chains}
        self._wake(families)
        elsewhere = self._elsewhere(families)
        broken = {(family, chain) for family, chain in broken | elsewhere if family in ours}
        if broken:
            self._rebuild(row, broken, elsewhere)
            self._hook_again(row, self._elsewhere(families))
        return self._observed_base(row)

    def _wake(self, families: Iterable[str]) -> None:
        def swap(generation: int) -> _Acted:
            flags = nftshape.flags(self._socket, self._table)
            asleep = [family for family in families if flags.get(family, 0) & DORMANT]
            self._socket.batch([nftshape.wake(f, self._table) for f in asleep], generation)
            return _Acted({})

        self._consistently(swap, f"table {self._table}")

    def _elsewhere(self, families: Collection[str]) -> set[tuple[str, str]]:
        """Chains that are gone, or called at another hook, priority or policy than ours."""
        seen = self._consistently(lambda _: nftshape.hooks(self._socket, self._table), "chains")
        return {
            (family, name)
            for (family, name), hook in _HOOKS.items()
            if family in families and seen.get(family, {}).get(name, 0) != hook
        }

    def _hook_again(self, row: Resource, chains: set[tuple[str, str]]) -> None:
        """Put chains back to their hooks with their rules, in one transaction.

        Raises Conflict where a rule of somebody else would go with one.
        """

        def swap(generation: int) -> _Acted:
            rules, commands = self._own_rules(), list[Command]()
            seen = nftshape.hooks(self._socket, self._table)
            for family, name in sorted(chains):
                hook = _HOOKS[family, name]
                made = nftshape.new_chain(family, self._table, name, hook)
                there = seen.get(family, {}).get(name)
                if hook and there and there._replace(policy=hook.policy) == hook:
                    commands.append(made)  # only its policy
                    continue
                inside = [rule for rule in rules if (rule.family, rule.chain) == (family, name)]
                if any(rule.comment != row.mark for rule in inside):
                    raise Conflict(
                        f"chain {name} of table {family} {self._table} is not as hvtx made it, and"
                        " has a rule of somebody else",
                        hint="`hvtx doctor` names the command that removes it; then: hvtx repair",
                    )
                commands += [nftshape.delete_chain(family, self._table, name), made]
                commands += map(add_rule, inside)
            self._socket.batch(commands, generation)
            return _Acted({})

        if chains:
            self._consistently(swap, f"the repair of table {self._table}")

    def own_tables(self) -> tuple[SeenTable, ...]:
        """Our tables as they are, whole; none without nf_tables. Raises Contended, NotPermitted."""
        from hvtx.host import nftseen

        try:
            return self._consistently(
                lambda _: nftseen.seen(self._socket, self._table, self._listing), "our tables"
            )
        except NoNftables:
            return ()

    def _rebuild(
        self, row: Resource, broken: set[tuple[str, str]], elsewhere: set[tuple[str, str]]
    ) -> None:
        """Append the whole of each broken chain, then take its older marked rules away.

        In this order the chain is never without its rules; the second step is compare-and-swap,
        so it can only meet rules that carry the mark now.
        """
        lines, sizes = [], {}
        for family in {family for family, _ in broken}:
            moved = {chain for where, chain in elsewhere if where == family}
            lines += [f"table {family} {self._table} {{", declarations(family, moved), "}"]
            for chain in SKELETONS[family].chains:
                if (family, chain.name) in broken:
                    lines += rule_lines(family, self._table, row.mark, chain)
                    sizes[family, chain.name] = len(chain.rules)
        libnftables.run("\n".join(lines) + "\n")

        def swap(generation: int) -> _Acted:
            older: list[Rule] = []
            rules = self._own_rules()
            for (family, chain), size in sizes.items():
                marked = [
                    r for r in rules if (r.family, r.chain, r.comment) == (family, chain, row.mark)
                ]
                older += marked[:-size]
            self._socket.batch([delete_rule(rule) for rule in older], generation)
            return _Acted({})

        self._consistently(swap, f"the repair of table {self._table}")

    # ---- expected and observe

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row; those of a base row's rules come from ``observed``."""
        if resource.spec["what"] == IMPORTED:
            spec = resource.spec
            return (Entry(BACKEND, spec["place"], spec["native"], resource.mark),)
        if resource.spec["what"] != "base":
            mark = resource.mark
            return tuple(
                [
                    Entry(BACKEND, place_of(family, self._table, name), text(key, data), mark)
                    for family, _, name, key, data, _, _ in unplaced(resource.spec)
                    for text in [renderer(family, name)]
                ]
            )
        found = [
            Entry(BACKEND, place_of(family, self._table), _TABLE_TEXT, resource.mark)
            for family in families_of(resource)
        ]
        for key, texts in resource.observed.get("rules", {}).items():
            family, chain = key.split(" ")
            where = place_of(family, self._table, chain)
            found += [Entry(BACKEND, where, text, resource.mark) for text in texts]
        return tuple(found)

    def others(self) -> frozenset[str]:
        """Other installations with tables here: each has some, whatever its own backend is.

        Raises Contended, NotPermitted; empty without nf_tables.
        """
        try:
            tables = self._consistently(lambda _: self._socket.tables(), "the list of tables")
        except NoNftables:
            return frozenset()
        names = {table.name for table in tables} - {self._table}
        return frozenset(n.removeprefix("hvtx-") for n in names if n.startswith(table_name("")))

    def _trace(self) -> str:
        trace = traces.trace_of(self._state_directory)
        words = f' comment "{trace}";' if trace else ""
        chain = f" chain {traces.CHAIN} {{{words} }}"
        return f"table {traces.CHAIN_FAMILY} {self._table} {{\n{chain}\n}}\n"

    def leave_trace(self) -> None:
        """Say in our own table where our store is now; nothing happens where there is none."""
        chain = f"{traces.CHAIN_FAMILY} {self._table} {traces.CHAIN}"
        # what an older hvtx made has no such chain: it is added first, so that it can be deleted
        with suppress(HvtxError):
            libnftables.run(f"add chain {chain}\ndelete chain {chain}\n{self._trace()}")

    def traces(self) -> dict[str, str]:
        """What installations' tables say of where their stores are; empty: it cannot be told.

        Raises Contended, NotPermitted; empty without nf_tables.
        """
        try:
            found = self._consistently(
                lambda _: self._socket.chain_comments(traces.CHAIN), "the list of chains"
            )
        except NoNftables:
            return {}
        return {
            chain.name.removeprefix("hvtx-"): chain.comment or ""
            for chain in found
            if chain.family == traces.CHAIN_FAMILY and chain.name.startswith("hvtx-")
        }

    def observe(self) -> tuple[Entry, ...]:
        """Every element, rule and table of this installation, every marked one, foreign NAT rules.

        All under one generation. Raises Contended, NotPermitted; empty without nf_tables.
        """
        try:
            return self._consistently(lambda _: self._read(), "the ruleset")
        except NoNftables:
            return ()

    def _read(self) -> tuple[Entry, ...]:
        tables = self._socket.tables()
        if not tables:
            return ()
        found = []
        for table in tables:
            comment = table.comment or ""
            mark = comment if comment.startswith(MARKED) else None
            if mark or (table.name == self._table and table.family in FAMILIES):
                place = place_of(table.family, table.name)
                found.append(Entry(BACKEND, place, _TABLE_TEXT, mark))
        found += [entry for _, entry in self._rule_entries(self._socket.rules())]
        for named in self._socket.sets():
            if not named.flags & SET_ANONYMOUS:
                self._read_set(named.family, named.table, named.name, found)
        return tuple(found)

    def _rule_entries(self, rules: Iterable[Rule]) -> Iterator[tuple[Rule, Entry]]:
        """The rules that concern us, with their entries.

        nft is asked for text only where a rule is marked outside tables like ours, translates
        addresses, or stands in our table without a mark.
        """
        listings: dict[tuple[str, str], dict[tuple[str, int], str]] = {}
        for rule in rules:
            mark = rule_mark(rule)
            where = place_of(rule.family, rule.table, rule.chain)
            if mark and rule.table.startswith("hvtx-"):
                yield rule, Entry(BACKEND, where, digest(rule), mark, rule.handle)
                continue
            nat = translates(rule.expressions)
            if not (mark or nat or rule.table == self._table):
                continue
            of = (rule.family, rule.table)
            if of not in listings:
                listings[of] = self._listing(*of)
            text = listings[of].get((rule.chain, rule.handle))
            if text is None and mark:
                raise _Stale  # nft read the table at another moment
            if text is None:  # or prints it in a form that nobody can read
                text = digest(rule)
            yield rule, Entry(BACKEND, where, without_comment(text), mark, rule.handle, nat)

    def _listing(self, family: str, table: str) -> dict[tuple[str, int], str]:
        command = (
            f'list table {family} "{table}"'
            if not _plain(table)
            else (f"list table {family} {table}")
        )
        try:
            return listed_rules(libnftables.run(command, handles=True, stateless=True, terse=True))
        except HostRefused as problem:
            if "No such file" in problem.message:
                raise _Stale from problem
            raise

    def _read_set(self, family: str, table: str, name: str, found: list[Entry]) -> None:
        """Append the entries of one set: all of ours, only marked ones of strangers."""
        ours = table == self._table and family in FAMILIES
        if ours and (family, name) in PASSING:
            return
        bodies = self._socket.dump_elements(family, table, name)
        if not ours:
            needle = MARKED.encode()
            bodies = [body for body in bodies if needle in body]
        if not bodies:
            return
        elements = all_elements(bodies)
        where = place_of(family, table, name)
        write = renderer(family, name) if ours else _rendered(family, name)
        keys = set()
        for key, data, comment, _ in elements:
            mark = comment if comment and comment.startswith(MARKED) else None
            if ours:
                keys.add(key)
            elif mark is None:
                continue
            found.append(Entry(BACKEND, where, write(key, data), mark))
        if ours and len(keys) != len(elements):
            # a hash table that grew during the walk repeats some elements, and so may lack others
            raise _Stale


class _Acted(NamedTuple):
    """The result of an action that carried the generation itself."""

    outcomes: Mapping[int, Outcome]


def _rendered(family: str, name: str) -> Callable[[bytes, bytes], str]:
    return lambda key, data: render(family, name, key, data)


def _plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./\-]*", name) is not None
