"""The nftables backend as the engine calls it: elements of VMs and networks, in one batch."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from functools import partial

from hvtx.drivers.base import PASSAGE, Host, not_among, of_passages, stand_for
from hvtx.drivers.nftables import tables
from hvtx.drivers.nftables.judging import (
    counts_others,
    describe,
)
from hvtx.drivers.nftables.session import Acted, NoNftables, Session, guarded, refusal
from hvtx.drivers.nftables.tables import refuse_unguarded
from hvtx.errors import Conflict, HvtxError
from hvtx.host.nfmessages import Command, add_element, delete_element
from hvtx.host.nfnetlink import BatchRefused
from hvtx.model.firewall import firewall_spec
from hvtx.model.hook import SetElement
from hvtx.model.resource import Entry, Outcome, Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.rulesets.nftables_elements import pieces
from hvtx.rulesets.nftables_layout import table_name

if TYPE_CHECKING:
    from hvtx.drivers.nftables.own_elements import OwnElements
    from hvtx.model.ruleset import SeenTable

IMPORTED = "imported"  # somebody else's rule that was taken over: `place`, `native` (docs/adr/0008)


class NftablesDriver:
    """Makes, removes and reads the nftables objects of one installation.

    Works in the network namespace of the thread that first uses it; not for two threads at once.
    """

    def __init__(self, host: Host) -> None:
        """Open nothing yet."""
        self._session = Session(host)

    def close(self) -> None:
        """Close the socket (after deletions this waits some 14 ms)."""
        self._session.close()

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make all rows: base first, then every element in one batch.

        Returns ``{"rules": {"inet raw": [digest, …]}, "layout": {"inet": …}}`` for a base row and
        ``{"elements": n}``
        for others. Raises Conflict (taken), HostRefused (tables gone, kernel), NotPermitted.
        """
        accepting, resources = of_passages(resources)
        bases = [row for row in resources if row.role == "base"]
        observed: dict[int, dict[str, Any]] = (
            _making().create(self._session, bases) if bases else {}
        )
        wanted: list[tuple[Resource, SetElement]] = []
        for row in resources:
            if row.role != "base":
                wanted += stand_for(
                    row, [(row, p) for p in pieces(self._session.installation, firewall_spec(row))]
                )
        if wanted:
            refuse_unguarded(self._session)
        try:
            self._session.socket.batch([add_element(piece, row.mark) for row, piece in wanted])
        except BatchRefused as problem:
            raise self._not_made(problem, wanted) from problem
        except OSError as problem:
            raise refusal(problem, "our elements") from problem
        for row in resources:
            observed.setdefault(row.id, {"elements": 0})
        for row, _ in wanted:
            observed[row.id]["elements"] += 1
        return observed | (_passages().put(self._session, accepting) if accepting else {})

    def _not_made(
        self, problem: BatchRefused, wanted: Sequence[tuple[Resource, SetElement]]
    ) -> HvtxError:
        if problem.index < 0:
            return refusal(problem, "our elements")
        row, piece = wanted[problem.index]
        if problem.errno != errno.EEXIST:
            return refusal(problem, f"{describe(piece)} for {row.key}")
        try:
            there = self._session.socket.lookup([piece])[0]
        except OSError:
            there = None
        whose = (there and there.comment) or "no mark of hvtx"
        return Conflict(
            f"{row.key}: {describe(piece)} exists already, and carries {whose}",
            hint=f"`hvtx explain {row.key}` shows its owner",
        )

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove what carries its row's mark: elements first, in one batch, base rows last."""
        release = _release()
        outcomes: dict[int, Outcome] = {}
        rows = []
        accepting, resources = of_passages(resources)
        if accepting:
            ids = [row.id for row in accepting]
            outcomes.update(guarded(ids, lambda: _passages().taken(self._session, accepting)))
        for row in resources:
            if row.role == IMPORTED:
                outcomes[row.id] = self.remove(self.expected(row)[0])
            elif row.role != "base":
                rows.append(row)
        if rows:
            ids = [row.id for row in rows]
            outcomes.update(guarded(ids, lambda: release.release_elements(self._session, rows)))
        for row in resources:
            if row.role == "base":
                outcomes.update(
                    guarded([row.id], partial(release.release_base, self._session, row))
                )
        return outcomes

    def exchange(
        self, gone: Sequence[Resource], made: Sequence[Resource]
    ) -> Mapping[int, dict[str, Any]]:
        """Elements of ``made`` take the place of those of ``gone``, in one batch.

        See :class:`hvtx.drivers.base.ExchangingDriver`.
        """
        from hvtx.drivers.nftables.exchange import exchange  # no start needs it

        return exchange(self._session, gone, made)

    def remove_copies(self, resource: Resource) -> Outcome:
        """Remove the surplus identical copies of a base row's rules, keeping the first of each.

        Elements cannot have copies. Raises nothing for a single item.
        """
        if resource.role == PASSAGE:
            found = guarded([resource.id], lambda: _passages().one_each(self._session, resource))
            return found[resource.id]
        outcome: Outcome = _release().remove_copies(self._session, resource)
        return outcome

    def remove(self, entry: Entry) -> Outcome:
        """Remove one object that was seen, if it is still exactly that; of copies, the last.

        A table goes only if all in it carries the same mark. Never raises.
        """
        outcome: Outcome = _release().remove(self._session, entry)
        return outcome

    def repair(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put back what is missing or changed of rows that should be whole; keep what is right.

        Returns what :meth:`create` returns. Raises Conflict where something else took the place.
        """
        accepting, resources = of_passages(resources)
        observed: dict[int, dict[str, Any]] = {}
        if accepting:
            observed |= _passages().put(self._session, accepting)
        rows = []
        for row in resources:
            if row.role == "base":
                observed[row.id] = _making().repair_tables(self._session, row)
            else:
                rows.append(row)
        observed.update(self._repair_elements(rows))
        return observed

    def _repair_elements(self, rows: Sequence[Resource]) -> dict[int, dict[str, Any]]:
        wanted: list[tuple[Resource, SetElement]] = []
        for row in rows:
            wanted += stand_for(
                row, [(row, p) for p in pieces(self._session.installation, firewall_spec(row))]
            )

        def swap(generation: int) -> Acted:
            there = self._session.socket.lookup([piece for _, piece in wanted])
            commands: list[Command] = []
            for (row, piece), element in zip(wanted, there, strict=True):
                if element is not None and element.comment != row.mark:
                    raise Conflict(
                        f"{row.key}: {describe(piece)} exists already, and carries "
                        f"{element.comment or 'no mark of hvtx'}",
                        hint=f"`hvtx explain {row.key}` shows its owner",
                    )
                if element is None or element.data != piece.data or counts_others(element, piece):
                    commands += [] if element is None else [delete_element(piece)]
                    commands.append(add_element(piece, row.mark))
            self._session.socket.batch(commands, generation)
            return Acted({})

        if wanted:
            self._session.consistently(swap, "the repair of elements")
        found: dict[int, dict[str, Any]] = {row.id: {"elements": 0} for row in rows}
        for row, _ in wanted:
            found[row.id]["elements"] += 1
        return found

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row; those of a base row's rules come from ``observed``."""
        from hvtx.drivers.nftables.expected import entries

        return entries(resource, self._session.table)

    def lacking(self, resources: Sequence[Resource]) -> list[Resource]:
        """Those rows of which an object is not there as on record. Raises as :meth:`observe`."""
        from hvtx.drivers.nftables.lacking import lacking

        whole, rows = of_passages(resources)
        seen = not_among(self.observe(), self.expected, whole) if whole else []
        return [*seen, *lacking(self._session, rows)]

    def counted(self, resources: Sequence[Resource]) -> dict[int, tuple[int, int]]:
        """Packets and bytes in the counters of rows, as far as they are there and have one."""
        from hvtx.drivers.nftables.ruleset import counted

        return counted(self._session, resources)

    def others(self) -> frozenset[str]:
        """Other installations with tables here: each has some, whatever its own backend is.

        Raises Contended, NotPermitted; empty without nf_tables.
        """
        begin = table_name("")
        parts = {n.removeprefix(begin) for _, n in self.tables() if n.startswith(begin)}
        own = self._session.table.removeprefix(begin)
        return frozenset(part for part in parts if part != own and "-" not in part)

    def tables(self) -> frozenset[tuple[str, str]]:
        """Family and name of every table here. Raises Contended, NotPermitted."""
        return tables.known(self._session)

    def may_translate(self) -> bool:
        """Whether others may give packets a destination. Raises OSError, HvtxError."""
        return tables.may_translate(self._session)

    def leave_trace(self) -> None:
        """Say in our own table where our store is now; nothing happens where there is none."""
        _making().leave_trace(self._session)

    def traces(self) -> dict[str, str]:
        """What installations' tables say of where their stores are; empty: it cannot be told.

        Raises Contended, NotPermitted; empty without nf_tables.
        """
        return tables.traces(self._session)

    def own_tables(self) -> tuple[SeenTable, ...]:
        """Our tables as they are, whole; none without nf_tables. Raises Contended, NotPermitted."""
        found: tuple[SeenTable, ...] = _whole().own_tables(self._session)
        return found

    def observe(self) -> tuple[Entry, ...]:
        """Every element, rule and table of this installation, every marked one, foreign NAT rules.

        All under one generation. Raises Contended, NotPermitted; empty without nf_tables.
        """
        from hvtx.drivers.nftables.ruleset import read

        try:
            return self._session.consistently(lambda _: read(self._session), "the ruleset")
        except NoNftables:
            return ()

    def observe_bulk(self) -> tuple[tuple[Entry, ...], OwnElements]:
        """What :meth:`observe` gives, with the elements of our own sets apart, as bytes."""
        found: tuple[tuple[Entry, ...], OwnElements] = _whole().observe_bulk(self._session)
        return found


def _whole() -> Any:
    from hvtx.drivers.nftables import whole  # plans and doctor need it, no start does

    return whole


def _making() -> Any:
    from hvtx.drivers.nftables import making  # tables are made with the first network

    return making


def _release() -> Any:
    from hvtx.drivers.nftables import release  # no start needs it

    return release


def _passages() -> Any:
    from hvtx.drivers.nftables import passages  # with the rules of iptables-nft: most have none

    return passages
