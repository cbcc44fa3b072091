"""The words of iptables for rules that iptables-nft made, or why they are not known.

nft prints such rules without their comments, and not as iptables-nft would take them for its own.
``iptables-nft-save`` proves nothing by itself (1.8.9): of a table with a rule that iptables does
not know it prints a remark and ends with 0, or it ends with 3 in the middle of its list; and rules
that it knows in part it prints without the rest (``ip saddr 10.0.0.1-10.0.0.5`` as
``-s 10.0.0.5/32``, a set as nothing).

So words count if they make the very same rule again. That is tried in a network namespace that
lives for this only: rules that were not printed where they stand are put there byte by byte and
printed, and what is printed is restored there and compared. The caller's namespace is only read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing

from hvtx.host import program, xtsaved
from hvtx.host.network_namespace import enter_new
from hvtx.host.nfanswers import Named, Rule, expressions, is_xt_comment, xt_comment
from hvtx.host.nfmessages import add_rule, delete_rules
from hvtx.host.nfnetlink import BatchRefused, Nftables
from hvtx.host.own_thread import in_own_thread
from hvtx.model.typed import NamedTuple

TOOLS = {"ip": "iptables", "ip6": "ip6tables"}
_BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
# Expressions that no iptables-nft writes (up to iptables 1.8.11, nft-shared.c).
_NATIVE = frozenset(
    {
        "connlimit", "ct", "dup", "dynset", "exthdr", "fib", "flow_offload", "fwd", "hash",
        "inner", "last", "lookup", "notrack", "numgen", "objref", "osf", "queue", "quota",
        "reject", "rt", "socket", "synproxy", "tproxy", "tunnel", "xfrm",
    }
)  # fmt: skip
_INCOMPATIBLE = "is incompatible"
_UNKNOWN_TO_IT = "Parsing nftables rule failed"
_UNLIKE = "iptables makes another rule of what it prints for this one"
_CHAIN = re.compile(r"[^\s!-]\S{0,27}")
_SECONDS = 60
_TRIALS = 160  # of 5 to 10 ms each
_REFUSED = 32  # rules that may be left out one by one


class Spelling(NamedTuple):
    """By table and handle of rules that may be iptables': their words, or why not.

    ``printed`` is what iptables-nft-save prints of a rule without its being proven: that may be the
    words of another rule.
    """

    words: Mapping[tuple[str, int], str]
    doubts: Mapping[tuple[str, int], str]
    printed: Mapping[tuple[str, int], str]


NOTHING = Spelling({}, {}, {})


class _UntoldError(Exception):
    """A program's output that proves nothing; its text says why."""


class _Found:
    """What is known of one table's rules so far, by handle."""

    def __init__(self) -> None:
        self.words: dict[int, str] = {}
        self.doubts: dict[int, str] = {}
        self.printed: dict[int, str] = {}


def spelling(family: str, rules: Sequence[Rule], chains: Callable[[], Sequence[Named]]) -> Spelling:
    """The words of the rules of a family that stand in tables of iptables' names.

    ``rules`` are all of the kernel's, ``chains`` gives its chains.
    """
    here: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.family == family and rule.table in _BUILT_IN:
            here.setdefault(rule.table, []).append(rule)
    if not any(not _is_native(rule) for inside in here.values() for rule in inside):
        return NOTHING
    try:
        saved = _printed(_call(family, "save"))
    except _UntoldError:
        saved = {}
    names = [(chain.table, chain.name) for chain in chains() if chain.family == family]
    found = {table: _Found() for table in here}

    def work() -> None:
        for table, inside in here.items():
            own = [name for where, name in names if where == table]
            known = _paired(saved, table, inside) or {}
            _spell(family, table, own, inside, known, found[table])

    why = _apart(work)
    for table, inside in here.items():
        for rule in inside:
            if why and not _is_native(rule) and rule.handle not in found[table].words:
                found[table].doubts.setdefault(rule.handle, why)
        found[table].printed.update(_paired(saved, table, inside) or {} if why else {})
    return Spelling(
        {(table, n): text for table, of in found.items() for n, text in of.words.items()},
        {(table, n): text for table, of in found.items() for n, text in of.doubts.items()},
        {(table, n): text for table, of in found.items() for n, text in of.printed.items()},
    )


def _paired(
    saved: Mapping[tuple[str, str], Sequence[str]], table: str, rules: Sequence[Rule]
) -> dict[int, str] | None:
    """Words by handle; None if another number of rules was printed than there is (pure)."""
    chains: dict[str, list[int]] = {}
    for rule in rules:
        chains.setdefault(rule.chain, []).append(rule.handle)
    for chain, handles in chains.items():
        if len(saved.get((table, chain), ())) != len(handles):
            return None
    return {
        handle: text
        for chain, handles in chains.items()
        for handle, text in zip(handles, saved[table, chain], strict=True)
    }


def _call(family: str, verb: str) -> str:
    """Where the program stands; raises _UntoldError."""
    name = f"{TOOLS[family]}-nft-{verb}"
    found = program.find((name,))
    if found is None:
        raise _UntoldError(f"there is no {name}, which could tell: install the package iptables")
    return found


def _run(*argv: str, given: bytes = b"") -> bytes:
    import subprocess

    name = os.path.basename(argv[0])
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=_SECONDS, input=given)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _UntoldError(f"{name}: {problem}") from problem
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())
        raise _UntoldError(f"{name} ended with {done.returncode}: {said}")
    return done.stdout


def _printed(*argv: str) -> dict[tuple[str, str], list[str]]:
    """``{(table, chain): words}`` as a save program prints them; raises _UntoldError."""
    text = _run(*argv).decode(errors="surrogateescape")
    try:
        saved = xtsaved.parse("\n".join(x for x in text.split("\n") if not x.startswith("#")))
    except ValueError as problem:
        raise _UntoldError(f"{os.path.basename(argv[0])} printed {problem}") from problem
    found: dict[tuple[str, str], list[str]] = {}
    for seen in saved.rules:
        comment = f"-m comment --comment {seen.mark} " if seen.mark else ""
        found.setdefault((seen.table, seen.chain), []).append(comment + seen.text)
    if not saved.chains and _INCOMPATIBLE not in text:
        raise _UntoldError(f"{os.path.basename(argv[0])} printed nothing")
    return found


# -- elsewhere -------------------------------------------------------------------------------------


def _apart(work: Callable[[], None]) -> str:
    """Do ``work()`` in a network namespace of its own, which ends with the call; why it failed."""

    def inside() -> None:
        enter_new()
        work()

    try:
        in_own_thread(inside)
    except (_UntoldError, OSError, ValueError, RuntimeError) as problem:
        return str(problem) or repr(problem)
    return ""


def _is_native(rule: Rule) -> bool:
    try:
        return any(name in _NATIVE for name, _ in expressions(rule.expressions))
    except ValueError:
        return False


def _spell(
    family: str,
    table: str,
    chains: Sequence[str],
    rules: Sequence[Rule],
    known: Mapping[int, str],
    found: _Found,
) -> None:
    """Find the words of a table's rules; runs in a namespace that has no such table yet.

    ``known`` is what was printed of them where they stand, empty if that was not whole.
    """
    with closing(Nftables()) as socket:
        trial = _Trial(socket, family, table, chains)
        waiting = [[rule for rule in rules if not _is_native(rule)]]
        while waiting:
            some = waiting.pop()
            words = {r.handle: known[r.handle] for r in some if r.handle in known}
            why = ""
            try:
                if len(words) < len(some):
                    some = trial.put(some, found.doubts)
                    words = trial.printed(some)
                found_again = trial.made_of(words, some)
            except _UntoldError as untold:
                why = "" if _UNKNOWN_TO_IT in str(untold) else str(untold)
            else:
                for rule in some:
                    _judge(rule, words[rule.handle], found_again.get(rule.handle), found)
                continue
            if len(some) > 1:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
            elif why and some:
                found.doubts[some[0].handle] = why


def _judge(rule: Rule, words: str, again: Rule | None, found: _Found) -> None:
    if again is not None and _alike(rule) == _alike(again):
        found.words[rule.handle] = words
    else:
        found.printed[rule.handle] = words
        found.doubts[rule.handle] = _UNLIKE


def _alike(rule: Rule) -> tuple[str | None, tuple[tuple[str, bytes], ...]]:
    """What two rules have in common that do the same, in the form that iptables-nft gives them.

    A comment may stand in a match of xtables or beside the rule; counters do nothing.
    """
    comment = rule.comment or xt_comment(rule)
    return comment, tuple(
        (name, data)
        for name, data in expressions(rule.expressions)
        if name != "counter" and not is_xt_comment(name, data)
    )


class _Trial:
    """The table of a scratch namespace, where rules and words are tried."""

    def __init__(self, socket: Nftables, family: str, table: str, chains: Sequence[str]) -> None:
        built_in = _BUILT_IN[table]
        names = dict.fromkeys([*built_in, *(c for c in chains if _CHAIN.fullmatch(c))])
        head = [f":{name} {'ACCEPT' if name in built_in else '-'} [0:0]" for name in names]
        self._socket, self._family, self._table = socket, family, table
        self._head = [f"*{table}", *head]
        self._left = _TRIALS
        self._restore(())

    def _restore(self, lines: Iterable[str]) -> None:
        """Have just these rules in the table, made by iptables-nft."""
        if self._left <= 0:
            raise _UntoldError("its table has too many rules that iptables does not know")
        self._left -= 1
        text = "\n".join((*self._head, *lines, "COMMIT", ""))
        _run(_call(self._family, "restore"), given=text.encode(errors="surrogateescape"))

    def put(self, rules: Sequence[Rule], doubts: dict[int, str]) -> list[Rule]:
        """Have just these rules in the table; those that the kernel refuses there are doubts."""
        some = list(rules)
        for _ in range(_REFUSED):
            try:
                self._socket.batch([delete_rules(self._family, self._table), *map(add_rule, some)])
            except BatchRefused as refused:
                if not 0 < refused.index <= len(some):
                    raise
                rule = some.pop(refused.index - 1)
                doubts[rule.handle] = f"it cannot be tried apart from its table: {refused}"
            else:
                return some
        doubts.update({rule.handle: "too much of its table cannot be tried" for rule in some})
        return []

    def printed(self, rules: Sequence[Rule]) -> dict[int, str]:
        """What iptables-nft prints of rules that were put there; raises _UntoldError."""
        if not rules:
            return {}
        saved = _printed(_call(self._family, "save"), "-t", self._table)
        if not saved:
            raise _UntoldError(_UNKNOWN_TO_IT)
        found = _paired(saved, self._table, rules)
        if found is None:
            raise _UntoldError("iptables prints another number of rules")
        return found

    def made_of(self, words: Mapping[int, str], rules: Sequence[Rule]) -> dict[int, Rule]:
        """The rules that iptables-nft makes of the words, by the handles of ``rules``."""
        if not rules:
            return {}
        self._restore(f"-A {rule.chain} {words[rule.handle]}" for rule in rules)
        made: dict[str, list[Rule]] = {}
        for rule in self._socket.rules(self._family, self._table):
            made.setdefault(rule.chain, []).append(rule)
        found = {}
        for rule in rules:
            if not made.get(rule.chain):
                raise _UntoldError("iptables makes fewer rules than it prints")
            found[rule.handle] = made[rule.chain].pop(0)
        return found
