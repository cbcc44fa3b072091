"""The fake nf_tables: tables with rules and sets, one generation, atomic batches, and nft's words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hvtx.errors import HostRefused
from hvtx.host.netlink import attribute, attribute_map, nested, text
from hvtx.host.nfanswers import Element, Named, Rule, Table, parse_elements
from hvtx.host.nfmessages import Command, add_element
from hvtx.host.nfnetlink import BatchRefused
from hvtx.host.nfnumbers import (
    DELRULE,
    DELSETELEM,
    DELTABLE,
    FAMILIES,
    GETCHAIN,
    GETSET,
    GETTABLE,
    NEWSETELEM,
)
from hvtx.host.nftshape import new_chain
from hvtx.model.hook import SetElement
from hvtx.rulesets.nftables_base import SKELETONS, hook_of

_CREATE = re.compile(r'create table (\S+) (\S+) \{ comment "([^"]*)"; \}')
_OPEN = re.compile(r"(?:add )?table (\S+) (\S+) \{")
_INSIDE = re.compile(r" ?(set|map|chain) (\S+) \{")
_RULE = re.compile(r'add rule (\S+) (\S+) (\S+) (.*?)(?: comment "([^"]*)")?')
_LIST = re.compile(r'list table (\S+) "?([^"\s]+)"?')
_VERDICTS = {"within", "vm_policies", "vm_input", "network_policies", "network_input"}
_NAT = ("masquerade", "dnat", "snat", "redirect")


@dataclass
class FakeTable:
    """A table: its comment, chains, rules in order, and sets of elements by key."""

    comment: str | None
    chains: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    sets: dict[str, dict[bytes, Element]] = field(default_factory=dict)


class Ruleset:
    """All tables of a network namespace."""

    def __init__(self) -> None:
        """Empty."""
        self.tables: dict[tuple[str, str], FakeTable] = {}
        self.generation = 1
        self._handle = 0

    # -- what hvtx.host.nfnetlink does ---------------------------------------------------------

    def batch(self, commands: Sequence[Command], generation: int | None) -> None:
        """All commands or none."""
        if not commands:
            return
        if generation is not None and generation != self.generation:
            raise BatchRefused(errno.ERESTART, os.strerror(errno.ERESTART), -1)
        before = _copy(self.tables) if len(commands) > 1 else None
        for index, command in enumerate(commands):
            code = self._one(command)
            if code:
                if before is not None:
                    self.tables = before
                raise BatchRefused(code, os.strerror(code), index)
        self.generation += 1

    def _one(self, command: Command) -> int:
        fields = attribute_map(command.body)
        name = fields[1].rstrip(b"\0").decode()
        table = self.tables.get((command.family, name))
        if table is None:
            return errno.ENOENT
        if command.number == DELTABLE:
            del self.tables[command.family, name]
            return 0
        if command.number == DELRULE:
            handle = int.from_bytes(fields[3], "big")
            left = [rule for rule in table.rules if rule.handle != handle]
            gone = len(left) == len(table.rules)
            table.rules = left
            return errno.ENOENT if gone else 0
        found: list[Element] = []
        parse_elements(bytes(4) + command.body, found)
        elements = table.sets.get(fields[2].rstrip(b"\0").decode())
        if elements is None:
            return errno.ENOENT
        key = found[0].key
        if command.number == NEWSETELEM:
            if key in elements:
                return errno.EEXIST
            elements[key] = found[0]
            return 0
        assert command.number == DELSETELEM
        return 0 if elements.pop(key, None) else errno.ENOENT

    def lookup(self, pieces: Sequence[SetElement]) -> list[Element | None]:
        """What stands at the keys."""
        found = []
        for piece in pieces:
            table = self.tables.get((piece.family, piece.table))
            elements = table.sets.get(piece.set, {}) if table else {}
            found.append(elements.get(piece.key))
        return found

    def all_tables(self) -> list[Table]:
        """Every table."""
        return [Table(f, n, table.comment) for (f, n), table in self.tables.items()]

    def all_rules(self, family: str = "", name: str = "") -> list[Rule]:
        """The rules of one table, or all."""
        if name and (family, name) not in self.tables:
            return []
        return [
            rule
            for (f, n), table in self.tables.items()
            if not name or (f, n) == (family, name)
            for rule in table.rules
        ]

    def named(self, what: str) -> list[Named]:
        """All chains or sets."""
        return [
            Named(f, n, inside)
            for (f, n), table in self.tables.items()
            for inside in (table.chains if what == "chains" else table.sets)
        ]

    def dump(self, family: str, name: str, of: str) -> list[bytes]:
        """A set's elements as the kernel sends them."""
        return [
            _body(
                SetElement(family, name, of, e.key, e.data, of in _VERDICTS, e.flows, e.interval),
                e.comment,
            )
            for e in self.tables[family, name].sets[of].values()
        ]

    def shapes(self, number: int) -> list[bytes]:
        """All tables, chains or sets as the kernel sends them; chains are at their hooks."""
        found = []
        for (family, name), table in self.tables.items():
            head = bytes((FAMILIES[family], 0, 0, 0))
            if number == GETTABLE:
                found.append(head + text(1, name))
            elif number == GETCHAIN:
                skeleton = SKELETONS.get(family)
                hooks = {c.name: hook_of(c.hook) for c in skeleton.chains} if skeleton else {}
                found += [
                    head + new_chain(family, name, chain, hooks.get(chain)).body
                    for chain in table.chains
                ]
            elif number == GETSET:
                found += [head + text(1, name) + text(2, one) for one in table.sets]
        return found

    # -- what nft does ---------------------------------------------------------------------------

    def run(self, commands: str) -> str:
        """The commands of hvtx.rulesets.nftables_base, `add rule`, and `list table`; all or none."""
        asked = _LIST.fullmatch(commands.strip())
        if asked:
            return self._listing(asked[1], asked[2])
        before = _copy(self.tables)
        try:
            self._define(commands)
        except HostRefused:
            self.tables = before
            raise
        self.generation += 1
        return ""

    def _define(self, commands: str) -> None:
        inside: FakeTable | None = None
        for line in commands.splitlines():
            if made := _CREATE.fullmatch(line):
                if (made[1], made[2]) in self.tables:
                    raise HostRefused("nft refused: Could not process rule: File exists")
                self.tables[made[1], made[2]] = FakeTable(made[3])
            elif opened := _OPEN.fullmatch(line):
                inside = self.tables.setdefault((opened[1], opened[2]), FakeTable(None))
            elif line == "}":
                inside = None
            elif inside is not None and (found := _INSIDE.match(line)):
                if found[1] == "chain":
                    if found[2] not in inside.chains:
                        inside.chains.append(found[2])
                else:
                    inside.sets.setdefault(found[2], {})
            elif rule := _RULE.fullmatch(line):
                self.add_rule(rule[1], rule[2], rule[3], rule[4], rule[5])
            elif line.strip():
                raise AssertionError(f"the fake nft does not know: {line}")

    def add_rule(
        self, family: str, table: str, chain: str, words: str, comment: str | None
    ) -> Rule:
        """Append a rule."""
        there = self.tables.get((family, table))
        if there is None or chain not in there.chains:
            raise HostRefused("nft refused: No such file or directory")
        self._handle += 1
        rule = Rule(family, table, chain, self._handle, _expressions(words), comment)
        there.rules.append(rule)
        return rule

    def _listing(self, family: str, name: str) -> str:
        table = self.tables.get((family, name))
        if table is None:
            raise HostRefused("nft refused: No such file or directory")
        lines = [f"table {family} {name} {{"]
        for chain in table.chains:
            lines.append(f"\tchain {chain} {{")
            for rule in table.rules:
                if rule.chain == chain:
                    told = f' comment "{rule.comment}"' if rule.comment else ""
                    lines.append(f"\t\t{words_of(rule)}{told} # handle {rule.handle}")
            lines.append("\t}")
        return "\n".join([*lines, "}"]) + "\n"

    # -- what others do -------------------------------------------------------------------------

    def save(self) -> dict[tuple[str, str], FakeTable]:
        """`nft list ruleset`."""
        return _copy(self.tables)

    def flush(self) -> None:
        """`nft flush ruleset`."""
        self.tables = {}
        self.generation += 1

    def restore(self, saved: dict[tuple[str, str], FakeTable]) -> bool:
        """`nft -f` of what was saved; False (and nothing done) where an element differs.

        What is there stays: rules are appended once more, elements that are there are left.
        """
        before = _copy(self.tables)
        for place, table in _copy(saved).items():
            there = self.tables.setdefault(place, FakeTable(table.comment))
            there.chains += [chain for chain in table.chains if chain not in there.chains]
            for rule in table.rules:
                self._handle += 1
                there.rules.append(rule._replace(handle=self._handle))
            for name, elements in table.sets.items():
                here = there.sets.setdefault(name, {})
                for key, element in elements.items():
                    if key in here and here[key].data != element.data:
                        self.tables = before
                        return False
                    here.setdefault(key, element)
        self.generation += 1
        return True


def _copy(tables: dict[tuple[str, str], FakeTable]) -> dict[tuple[str, str], FakeTable]:
    return {
        place: FakeTable(
            table.comment,
            list(table.chains),
            list(table.rules),
            {name: dict(elements) for name, elements in table.sets.items()},
        )
        for place, table in tables.items()
    }


def words_of(rule: Rule) -> str:
    """The words of a fake rule, from its expressions."""
    return attribute_map(attribute_map(rule.expressions)[1])[2].decode()


def _expressions(words: str) -> bytes:
    first = nested(1, text(1, "words"), attribute(2, words.encode()))
    nat = any(word in words.split() for word in _NAT)
    return first + (nested(2, text(1, "masq")) if nat else b"")


@lru_cache(maxsize=4096)
def _body(piece: SetElement, comment: str | None) -> bytes:
    return bytes(4) + add_element(piece, comment or "").body
