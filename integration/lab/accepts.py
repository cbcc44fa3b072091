"""hvtx's accepts that stand among others' rules, in the tables `filter` of iptables-nft."""

from __future__ import annotations

import shlex

from hvtx.host import libnftables, xtnames
from integration import lab


def own_accepts() -> dict[str, list[str]]:
    """By tool, the words that insert each of hvtx's rules where it stands, from the first on.

    A tool is asked only where its table exists: asking would make it.
    """
    tables = {tuple(line.split()[1:3]) for line in libnftables.run("list tables").splitlines()}
    found = {}
    for family, name in ((4, "ip"), (6, "ip6")):
        if (name, "filter") in tables:
            tool = f"{xtnames.TOOLS[family]}-nft"
            found[tool] = _placed(lab.run(tool, "-S").splitlines())
    return found


def _placed(lines: list[str]) -> list[str]:
    numbers: dict[str, int] = {}
    found = []
    for line in lines:
        word, chain, rest = (*line.split(" ", 2), "")[:3]
        if word != "-A":
            continue
        numbers[chain] = numbers.get(chain, 0) + 1
        if "hvtx:1:" in rest:
            found.append(f"{chain} {numbers[chain]} {rest}")
    return found


def put_accepts(wanted: dict[str, list[str]]) -> None:
    """Have exactly ``wanted`` of hvtx's rules, each where it was; others' are not touched."""
    for tool, here in own_accepts().items():
        for rule in reversed(here):
            chain, number, _ = rule.split(" ", 2)
            lab.run(tool, "-w", "-D", chain, number)
        for rule in wanted.get(tool, ()):
            lab.run(tool, "-w", "-I", *shlex.split(rule))
