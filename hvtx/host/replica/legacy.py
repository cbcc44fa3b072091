"""The legacy tables of the host once more, by the tools that save and restore them.

Only where the kernel lists tables; reading one that is not listed would make it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from hvtx.errors import HvtxError
from hvtx.host import program, xtnames, xtsaved
from hvtx.host.replica import xtwords
from hvtx.model.typed import NamedTuple

_SECONDS = 10
_LOCK = "XTABLES_LOCKFILE"
_COUNTED = re.compile(r"\[(\d+):\d+\] (-A (\S+) .*)")
_POLICY = re.compile(r":(\S+) (DROP|REJECT) \[(\d+):\d+\]")
_ENDS = re.compile(r" -j (DROP|REJECT|NFQUEUE|QUEUE|STEAL|TARPIT)\b")
_REFUSED = re.compile(r"line:? (\d+)")
_MOST_ATTEMPTS = 16
_MODULES = "/sys/module"
_RANK = {name: n for n, name in enumerate(("raw", "mangle", "nat", "filter", "security"))}


class Line(NamedTuple):
    """A rule or policy that can end a packet, and how many it has met."""

    table: str
    chain: str
    text: str
    packets: int


def read() -> tuple[dict[int, str], tuple[str, ...]]:
    """What the tools print of each family that has tables, and what cannot be had, in words."""
    found, lacks = {}, []
    for family, tool in xtnames.TOOLS.items():
        try:
            if xtnames.listed(family):
                found[family] = xtsaved.save_text(family)
        except HvtxError as problem:
            lacks.append(f"legacy {tool} tables cannot be copied: {problem.message}")
    lacks += [
        f"the legacy ebtables table {table} cannot be copied"
        for table in ("broute", "filter", "nat")
        if _used(f"{_MODULES}/ebtable_{table}/refcnt")
    ]
    return found, tuple(lacks)


def _used(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read()) > 0
    except (OSError, ValueError):
        return False


class Written(NamedTuple):
    """What was restored: the host's rule by the scratch's of the same table, both as printed.

    ``doubts`` are rules of the scratch of which it is not known what they do on the host.
    """

    rules: dict[tuple[str, str], str]
    doubts: frozenset[tuple[str, str]] = frozenset()


def write(texts: Mapping[int, str]) -> tuple[dict[int, Written], list[str]]:
    """Restore them in the calling thread's namespace; and what fails, in words."""
    lacks, found = [], {}
    for family, text in texts.items():
        made = xtwords.quiet(text)
        for _ in range(_MOST_ATTEMPTS):
            words = _restored(family, made.text)
            refused = _REFUSED.search(words)
            if refused is None or (less := xtwords.without(made, int(refused[1]))) is None:
                break
            made = less
        if words:
            lacks.append(f"legacy {xtnames.TOOLS[family]} tables cannot be copied: {words}")
        found[family] = Written(made.rules, made.doubts)
    return found, lacks


def _restored(family: int, text: str) -> str:
    call = called(family, "restore")
    if call is None:
        return "there is no program that restores them"
    lock = os.memfd_create("xtables.lock")
    try:
        done = subprocess.run(
            call, input=text.encode(errors="surrogateescape"), capture_output=True, check=False,
            timeout=_SECONDS, pass_fds=(lock,), env=_environment(lock),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    finally:
        os.close(lock)
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def _environment(lock: int) -> dict[str, str]:
    """The scratch has a lock of its own: nobody who runs iptables waits for it."""
    return {**os.environ, _LOCK: f"/proc/self/fd/{lock}"}


def called(family: int, verb: str) -> tuple[str, ...] | None:
    """The program that saves or restores the legacy tables of a family; None if there is none."""
    tool = xtnames.TOOLS[family]
    for argv in ((f"{tool}-legacy-{verb}",), ("xtables-legacy-multi", f"{tool}-{verb}")):
        if (found := program.find((argv[0],))) is not None:
            return (found, *argv[1:])
    return None


def counted(family: int, *, every: bool = False) -> list[Line]:
    """The lines of the calling thread's namespace with their counters; none if unreadable."""
    call = called(family, "save")
    if call is None:
        return []
    try:
        done = subprocess.run([*call, "-c"], capture_output=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return lines(done.stdout.decode(errors="replace"), every=every)


def lines(text: str, *, every: bool = False) -> list[Line]:
    """What can end a packet, of what ``iptables-save -c`` prints; or ``every`` rule. Pure."""
    found, table = [], ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif (rule := _COUNTED.fullmatch(line)) and (every or _ENDS.search(rule[2])):
            found.append(Line(table, rule[3], rule[2], int(rule[1])))
        elif policy := _POLICY.fullmatch(line):
            words = f"policy {policy[2]}"
            found.append(Line(table, policy[1], words, int(policy[3])))
    return found


def moved(before: Sequence[Line], after: Sequence[Line]) -> list[Line]:
    """The lines that met a packet in between, in the order of their tables. Pure."""
    found = [line for line, old in zip(after, before, strict=False) if line.packets > old.packets]
    return sorted(found, key=lambda one: _RANK.get(one.table, len(_RANK)))
