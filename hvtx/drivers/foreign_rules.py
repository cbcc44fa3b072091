"""Foreign rules: read whole, and removed one by one on the user's word.

Only the emergency mode and `import` come here. A rule is removed if it is still exactly what was
seen: in nf_tables its handle, expressions and place, by compare-and-swap with the ruleset's
generation; in a legacy table its entry, byte by byte, from a fresh read under the xtables lock.
"""

from __future__ import annotations

import errno
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

from hvtx.drivers.base import Host
from hvtx.errors import Contended, HostRefused, HvtxError, NotPermitted
from hvtx.host import libnftables, xtnames
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.nfanswers import Rule, expressions, xt_comment
from hvtx.host.nfgeneration import Acted, StillChanging, consistently
from hvtx.host.nfmessages import Command, comment_rule, delete_rule
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import SET_ANONYMOUS
from hvtx.host.retry import retry_transient
from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.mark import FAMILY
from hvtx.model.place import Place, legacy_place, nft_place
from hvtx.model.resource import GONE, Outcome
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:  # loaded where there are legacy tables, or rules of iptables-nft
    from hvtx.host import nftwords, xtables, xtsaved

_ATTEMPTS = 30
_PAUSE = 0.002  # seconds, growing with the attempts
_FAMILIES = frozenset({"ip", "ip6", "inet", "bridge"})
_OF_IPTABLES = frozenset({"ip", "ip6"})  # where iptables-nft puts its rules
_MOVING = frozenset({"counter", "last", "quota"})  # expressions that hold what was counted
_ABSENT = Outcome(False, "contended", "the rule changed after it was read")
_NO_NFTABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})


class ForeignRules:
    """Reads and removes others' rules in the calling thread's network namespace."""

    def __init__(self, host: Host) -> None:
        """Open nothing yet."""
        self._timeout = host.lock_timeout

    def rules(self) -> tuple[ForeignRule, ...]:
        """All rules of nf_tables and of the legacy tables, ours too (they carry marks).

        Raises Contended, NotPermitted, HostRefused (``cannot-observe``).
        """
        return (*_nft_rules(), *_legacy_rules())

    def places(self) -> tuple[Place, ...]:
        """Every table, chain and named set.

        Raises NotPermitted, HostRefused (``cannot-observe``).
        """
        return (*_nft_places(), *_legacy_places())

    def remove(self, rule: ForeignRule) -> Outcome:
        """Remove one rule if it is still what was seen. Never raises.

        Of several equal rules of a legacy chain the first goes. Absent is ``gone``.
        """
        if rule.mark is not None:
            return Outcome(False, "foreign", f"{rule.key} carries a mark: {rule.mark}")
        act = _remove_nft if rule.backend == "nftables" else self._remove_legacy
        try:
            return act(rule)
        except HvtxError as problem:
            contended = problem.code in ("contended", "busy")
            return Outcome(False, "contended" if contended else "observe-failed", problem.message)
        except (OSError, ValueError, DumpInterrupted) as problem:
            return Outcome(False, "observe-failed", f"{rule.key}: {problem}")

    def mark(self, rule: ForeignRule, mark: str) -> Outcome:
        """Put the very same rule, with ``mark`` as its comment, in the rule's place.

        One kernel transaction: no packet meets the chain without the rule. ``gone`` if it is done.
        Never raises.
        """
        act = _mark_nft if rule.backend == "nftables" else self._mark_legacy
        try:
            return act(rule, mark)
        except HvtxError as problem:
            return Outcome(False, problem.code, problem.message)
        except (OSError, ValueError, DumpInterrupted) as problem:
            return Outcome(False, "host-refused", f"{rule.key}: {problem}")

    def _mark_legacy(self, rule: ForeignRule, mark: str) -> Outcome:
        tool, _, table, chain = rule.place
        family = 6 if tool == xtnames.TOOLS[6] else 4

        def change(edit: xtables.Edit) -> bool:
            return edit.has(chain) and edit.set_comment(chain, rule.identity, mark)

        from hvtx.host import xtables

        edited = xtables.Edited.UNCHANGED
        if table in xtnames.listed(family):
            edited = xtables.edit(family, table, self._timeout, change)
        if edited is not xtables.Edited.AS_MEANT:
            return Outcome(False, "contended", f"{rule.key} changed after it was read")
        return GONE

    def _remove_legacy(self, rule: ForeignRule) -> Outcome:
        tool, _, table, chain = rule.place
        family = 6 if tool == xtnames.TOOLS[6] else 4
        if table not in xtnames.listed(family):
            return GONE
        from hvtx.host import xtables

        def change(edit: xtables.Edit) -> bool:
            return edit.has(chain) and edit.delete_rule(chain, rule.identity)

        if xtables.edit(family, table, self._timeout, change) is xtables.Edited.OTHERWISE:
            return Outcome(
                False, "contended", f"{rule.place} changed although its lock was held: look again"
            )
        return GONE


# -- nf_tables -------------------------------------------------------------------------------------


def _nft_rules() -> tuple[ForeignRule, ...]:
    try:
        socket = Nftables()
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return ()
        raise _refusal(problem) from problem
    try:
        return consistently(socket, lambda _: _nft_once(socket), _ATTEMPTS)
    except StillChanging as problem:
        raise Contended(
            "the nftables rules changed while they were read",
            hint="try again when no other program changes them",
        ) from problem
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return ()
        raise _refusal(problem) from problem
    finally:
        socket.close()


def _nft_places() -> Iterator[Place]:
    """By netlink: nft's JSON is none where somebody else's table has a flag (nft 1.0.6)."""
    try:
        with closing(Nftables()) as socket:
            tables = socket.tables()
            found = retry_transient(lambda: (*socket.chains(), *socket.sets()))
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return
        raise _refusal(problem) from problem
    except DumpInterrupted as problem:
        raise HostRefused(
            "the nftables chains and sets changed while they were read",
            hint="try again when no other program changes them",
            code="cannot-observe",
        ) from problem
    yield from (nft_place(table.family, table.name) for table in tables)
    for named in found:
        if not named.flags & SET_ANONYMOUS:
            yield nft_place(named.family, named.table, named.name)


def _refusal(problem: OSError) -> HvtxError:
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted("the nftables rules may not be read", hint="run hvtx as root")
    return HostRefused(
        f"the nftables rules could not be read: {problem.strerror}",
        hint="see what `nft list ruleset` says",
        code="cannot-observe",
    )


def _nft_once(socket: Nftables) -> tuple[ForeignRule, ...]:
    """One reading, which is of one moment if nothing changed meanwhile."""
    raw = [rule for rule in socket.rules() if rule.family in _FAMILIES]
    if not raw:
        return ()
    told = _spelt(raw, socket)
    texts = libnftables.rules_in(
        libnftables.run("list ruleset", handles=True, stateless=True, terse=True)
    )
    return _in_words(raw, told, texts)


def _spelt(raw: Sequence[Rule], socket: Nftables) -> Mapping[str, nftwords.Spelling]:
    """The words of iptables by family."""
    if not any(rule.family in _OF_IPTABLES for rule in raw):
        return {}
    from hvtx.host import nftwords

    return {family: nftwords.spelling(family, raw, socket.chains) for family in nftwords.TOOLS}


def _in_words(
    raw: Sequence[Rule],
    told: Mapping[str, nftwords.Spelling],
    texts: Mapping[tuple[str, str, str, int], str],
) -> tuple[ForeignRule, ...]:
    """Each rule with its position and its words: those of iptables, or else nft's (pure)."""
    places: dict[tuple[str, str, str], int] = {}
    found = []
    for rule in raw:
        chain = (rule.family, rule.table, rule.chain)
        places[chain] = place = places.get(chain, 0) + 1
        spelling = told.get(rule.family)
        number = (rule.table, rule.handle)
        native = texts.get((*chain, rule.handle), "")
        words, doubt, printed = None, "", ""
        if spelling is not None:
            words, doubt = spelling.words.get(number), spelling.doubts.get(number, "")
            printed = spelling.printed.get(number, "")
        if words is None and not native:
            doubt = doubt or "nft's output for it cannot be parsed"
        seen = _nft_rule(rule, place, words, native)
        found.append(seen._replace(doubt=doubt, printed=printed))
    return tuple(found)


def _nft_rule(rule: Rule, place: int, words: str | None, native: str) -> ForeignRule:
    comment = rule.comment or xt_comment(rule)
    text = words if words is not None else native or f"handle {rule.handle}"
    if words is not None:
        tool = f"{xtnames.TOOLS[6 if rule.family == 'ip6' else 4]}-nft"
        restore = f"{tool} -t {rule.table} -A {rule.chain} {text}"
    else:
        restore = "nft " + shlex.quote(f"add rule {rule.family} {rule.table} {rule.chain} {text}")
    return ForeignRule(
        backend="nftables",
        place=nft_place(rule.family, rule.table, rule.chain),
        text=text,
        mark=comment if comment and comment.startswith(FAMILY) else None,
        restore=restore,
        position=place,
        handle=rule.handle,
        identity=_unmoved(rule),
        native=re.sub(r' comment "[^"]*"$', "", native),
    )


def _unmoved(rule: Rule) -> bytes:
    """A rule's expressions without what traffic changes in them."""
    return b"\0".join(
        name.encode() + (b"" if name in _MOVING else data)
        for name, data in expressions(rule.expressions)
    )


def _remove_nft(rule: ForeignRule) -> Outcome:
    return _swap_nft(rule, delete_rule)


def _mark_nft(rule: ForeignRule, mark: str) -> Outcome:
    return _swap_nft(rule, lambda seen: comment_rule(seen, mark), absent=_ABSENT)


def _swap_nft(
    rule: ForeignRule, change: Callable[[Rule], Command], *, absent: Outcome = GONE
) -> Outcome:
    """Do ``change`` to the rule if it is still what was seen, by compare-and-swap."""
    _, family, table, chain = rule.place
    with closing(Nftables()) as socket:

        def swap(generation: int) -> Acted | Outcome:
            there = [r for r in socket.rules(family, table) if r.handle == rule.handle]
            if not there:
                return absent
            seen = there[0]
            comment = seen.comment or xt_comment(seen) or ""
            same = (seen.chain, _unmoved(seen)) == (chain, rule.identity)
            if not same or comment.startswith(FAMILY):
                return Outcome(False, "contended", f"{rule.key} changed: look again")
            socket.batch([change(seen)], generation)
            return Acted({0: GONE})

        try:
            found = consistently(socket, swap, _ATTEMPTS)
        except StillChanging:
            return Outcome(
                False, "contended", f"nf_tables kept changing: {rule.key} was not removed"
            )
        except OSError as problem:
            if problem.errno == errno.ENOENT:  # with its table
                return absent
            raise
    return found.outcomes[0] if isinstance(found, Acted) else found


# -- legacy tables ---------------------------------------------------------------------------------


def _legacy_rules() -> Iterator[ForeignRule]:
    for family in xtnames.TOOLS:
        if xtnames.listed(family):
            yield from _legacy_family(family)


def _legacy_family(family: int) -> list[ForeignRule]:
    """The rules of a family: words and entries, read so that they are of the same moment."""
    from hvtx.host import xtsaved

    tool = xtnames.TOOLS[family]
    for attempt in range(_ATTEMPTS):
        before = _entries(family)
        saved = xtsaved.saved(family)
        if before == _entries(family):
            paired = _paired(saved.rules, before)
            if paired is not None:
                return [_legacy_rule(tool, *found) for found in paired]
        time.sleep(_PAUSE * min(attempt + 1, 10))
    raise Contended(
        f"the {tool} rules changed while they were read",
        hint="try again when no other program changes them",
    )


def _legacy_places() -> Iterator[Place]:
    for family, tool in xtnames.TOOLS.items():
        there = sorted(xtnames.listed(family))
        if not there:
            continue
        from hvtx.host import xtsaved

        for table in there:
            yield legacy_place(tool, table)
        for table, chain in sorted(xtsaved.saved(family).chains):
            yield legacy_place(tool, table, chain)


def _entries(family: int) -> dict[tuple[str, str], list[bytes]]:
    from hvtx.host import xtblob

    found = {}
    for table in sorted(xtnames.listed(family)):
        blob = xtblob.read(family, table)
        if blob is not None:
            for chain, rules in xtblob.entries(family, blob).items():
                found[table, chain] = rules
    return found


def _paired(
    rules: Sequence[xtsaved.SavedRule], entries: Mapping[tuple[str, str], Sequence[bytes]]
) -> list[tuple[xtsaved.SavedRule, int, bytes]] | None:
    """Printed rules with their positions and entries; None if they do not fit (pure)."""
    places: dict[tuple[str, str], int] = {}
    found = []
    for rule in rules:
        here = (rule.table, rule.chain)
        places[here] = place = places.get(here, 0) + 1
        known = entries.get(here, ())
        if place > len(known):
            return None
        found.append((rule, place, known[place - 1]))
    whole = all(places.get(chain, 0) == len(known) for chain, known in entries.items())
    return found if whole else None


def _legacy_rule(tool: str, rule: xtsaved.SavedRule, place: int, entry: bytes) -> ForeignRule:
    return ForeignRule(
        backend="iptables",
        place=legacy_place(tool, rule.table, rule.chain),
        text=rule.text,
        mark=rule.mark,
        restore=f"{tool}-legacy -t {rule.table} -A {rule.chain} {rule.text}",
        position=place,
        identity=entry,
    )
