"""The laws of the structure, and the places that do not keep them yet (allowed.toml).

A list may only get shorter and its numbers only smaller: a place that is not on it fails, and so
does a line that says more than there is. `scripts/measure --lower` takes out what is not needed
any more; nothing puts a line in but an editor, and the review of the change sees it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.structure import counts
from tests.structure.counts import Counts
from tests.structure.source import TOP, Module, program

ALLOWED = TOP / "tests/structure/allowed.toml"
_ENTRY = re.compile(r'"(?P<key>[^"]+)" = (?P<value>\d+)(?P<rest>.*)')


class Law(NamedTuple):
    """Something that is counted, and what to do where there is too much of it."""

    name: str  # its table in allowed.toml
    count: Callable[[Module], Counts]
    instead: str

    def counted(self) -> dict[str, int]:
        """What there is in the program today."""
        return counts.added([self.count(module) for module in program()])


LAWS = (
    Law("module-lines", counts.module_lines, "split it by meaning: at most 400 lines"),
    Law("function-lines", counts.function_lines, "split it by meaning: at most 50 lines"),
    Law("class-lines", counts.class_lines, "split it by meaning: at most 250 lines"),
    Law("sql-calls", counts.sql_calls, "give the store a function with a name, and call that"),
    Law("sql-words", counts.sql_words, "give the store a query with a name, and ask that"),
    Law("kernel-files", counts.kernel_files, "read and write /proc and /sys in hvtx/host"),
    Law("place-splits", counts.place_splits, "pass the place as a value with named parts"),
    Law("families-by-colon", counts.families_by_colon, "ask its holder, or model/address"),
    Law("untyped-specs", counts.spec_keys, "read a row by a function of hvtx/model with types"),
    Law("imports-in-functions", counts.lazy_imports, "import at the top, or say what it costs"),
    Law("commands-that-call-commands", counts.command_arrows, "put what both need below both"),
    Law("changes-of-the-host", counts.host_changes, "change the host in a driver"),
    Law("calls-of-drivers", counts.driver_calls, "let an operation call it (engine/transaction)"),
    Law("documents", counts.documents, "make a schema's JSON in its module of hvtx/documents"),
    Law("runtime-parameters", counts.runtime_parameters, "pass the values that are used"),
    Law("impure-calls", counts.impure_calls, "let the engine ask, and pass the answer"),
)


@cache
def allowed() -> dict[str, dict[str, Any]]:
    """allowed.toml as it is."""
    return tomllib.loads(ALLOWED.read_text())


def breaches(law: Law, found: Mapping[str, int], listed: Mapping[str, int]) -> Iterator[str]:
    """Where there is more than is listed, or less (pure)."""
    for place in sorted(found.keys() | listed.keys()):
        now, before = found.get(place, 0), listed.get(place, 0)
        if now > before:
            yield f"{place}: {now}, and {before} allowed ({law.name}): {law.instead}"
        elif now < before:
            yield f"{place}: {now}, and {before} listed ({law.name}): run scripts/measure --lower"


def unshown(untested: Collection[str], shown: Mapping[str, str], top: Path) -> Iterator[str]:
    """Modules without a test of their name and without a line that says what shows them; and
    lines that are not needed or name no file.
    """
    for path in sorted(set(untested) - shown.keys()):
        yield f"{path}: write {counts.test_of(path)}, or say in [shown-by] which test shows it"
    for path, test in shown.items():
        if path not in untested:
            yield f"{path}: it has {counts.test_of(path)}, or is gone: take it from [shown-by]"
        elif not (top / test).is_file():
            yield f"{path}: [shown-by] names {test}, which is not there"


def lowered(text: str, found: Mapping[str, Mapping[str, int]]) -> str:
    """allowed.toml with smaller numbers and without what is gone; nothing gets larger (pure)."""
    table, kept = "", []
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            table = line.strip().strip("[]")
        entry = _ENTRY.fullmatch(line.rstrip("\n")) if table in found else None
        if entry is None:
            kept.append(line)
        elif now := found[table].get(entry["key"], 0):
            value = min(now, int(entry["value"]))
            kept.append(f'"{entry["key"]}" = {value}{entry["rest"]}\n')
    return "".join(kept)
