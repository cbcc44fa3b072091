"""hvtx's own tables and chains, changed by others: told, put back or named with the command."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import pytest

from hvtx.engine.collect import make_plan
from hvtx.engine.diagnose import CHECKS
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime, Settings
from hvtx.model.plan import Item
from integration import lab
from integration.program import Forked, Program, preload
from integration.test_repair import handles_aside

REPAIR = "hvtx repair"
T = TypeVar("T")


class Case(NamedTuple):
    """What somebody does, what is said of it, and who puts it right."""

    acts: str  # a line each; T is the table's name, C the chains' prefix, DEV and BR devices
    said: str
    mend: str = REPAIR  # the beginning of the command
    level: str = "error"


@pytest.fixture
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A network of both families and a running VM, on a backend."""
    preload()
    program = Forked(HVTX_FIREWALL=getattr(request, "param", "nftables"))
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    os.kill(program.vm("web")["pid"], signal.SIGKILL)


def asked(question: Callable[[Runtime], T]) -> T:
    """The answer of the engine, as `doctor` or `gc --plan` has it, without a process of its own."""
    settings = Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], vm_user="root")
    with closing(Runtime(settings, writable=False)) as runtime:
        try:
            return question(runtime)
        finally:
            runtime.firewall("nftables").close()  # type: ignore[attr-defined]


def damage() -> list[Finding]:
    """What `doctor` says of damage, but that there is none."""
    found = asked(lambda runtime: list(CHECKS["damage"](runtime)))
    return [finding for finding in found if finding.level != "ok"]


def acting() -> list[Item]:
    """What gc would do now."""
    return list(asked(lambda runtime: make_plan(runtime).plan.acting()))


def dumped() -> dict[str, object]:
    """All of the host, but for handles and the order in which chains were made."""
    found = handles_aside(lab.dump())

    def place(item: dict[str, Any]) -> tuple[str, ...]:
        (kind, body), *_ = item.items()
        if kind == "metainfo":
            return ("",)
        inside = body.get("chain", "") if kind == "rule" else body["name"]
        return (kind, body.get("family", ""), body.get("table", ""), inside)

    return {**found, "nft": sorted(found["nft"], key=place)}  # type: ignore[call-overload]


def names(hvtx: Program) -> dict[str, str]:
    """What the capitals in a case stand for."""
    shown = hvtx.vm("web")
    installation = shown["resources"][0]["mark"].split(":")[2]
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    return {"T": f"hvtx-{installation}", "C": f"HVTX-{installation}", "BR": bridge,
            "DEV": hvtx.device("web")}  # fmt: skip


def act(known: dict[str, str], lines: str) -> None:
    """Do what somebody does."""
    for line in lines.splitlines():
        words = shlex.split(line)
        for name, value in known.items():
            words = [
                value if word == name
                else word.replace(f"{name}-", f"{value}-").replace(f"<{name}>", value)
                for word in words
            ]  # fmt: skip
        lab.run(*words)


def follow(hvtx: Program, hints: Sequence[str]) -> None:
    """Do what is said; all that `hvtx repair` is said for by one."""
    for hint in hints:
        command = hint.removesuffix(REPAIR).removesuffix("; ")
        if command:
            lab.run("sh", "-c", command)
    if any(hint.endswith(REPAIR) for hint in hints):
        hvtx("repair", code=None)


BRIDGE = [
    Case("nft insert rule bridge T prerouting accept", "prerouting: a rule that is not hvtx's: "
         "`accept`", "nft delete rule bridge T prerouting handle "),
    Case("nft add rule bridge T guard_ip4 drop", "guard_ip4: a rule that is not hvtx's: `drop`",
         "nft delete rule bridge T guard_ip4 handle "),
    Case("nft add table bridge T { flags dormant; }", "the table is dormant"),
    Case("nft add chain bridge T input { policy drop; }", "input: the chain has type filter hook "
         "input priority -300; policy drop"),
    Case("nft delete chain bridge T input", "input: the chain is gone"),
    Case("nft delete chain bridge T prerouting\n"
         "nft add chain bridge T prerouting { type filter hook prerouting priority 7; }",
         "priority 7; policy accept, and hvtx's has type filter hook prerouting priority -300"),
    Case("nft delete chain bridge T forward\n"
         "nft add chain bridge T forward { type filter hook output priority -300; }",
         "hook output"),
    Case("nft delete chain bridge T forward\nnft add chain bridge T forward",
         "forward: the chain has no hook"),
    Case("nft flush chain bridge T guard", "guard: a rule is gone: `iifname . ether saddr != @macs "
         "drop`"),
    Case("nft flush set bridge T own4", "a part of it was gone"),
    Case("nft add element bridge T own4 { <DEV> . 10.77.0.9 }", "own4: an element that is not "
         "hvtx's: `<DEV> 10.77.0.9`", "nft 'delete element bridge T own4 {"),
    Case("nft add element bridge T own6 { <DEV> . 0xfd770000000000000000000000000009 }",
         "own6: an element that is not hvtx's", "nft 'delete element bridge T own6 {"),
    Case("nft add element bridge T macs { <DEV> . 02:00:00:00:00:09 }", "macs: an element that is",
         "nft 'delete element bridge T macs {"),
    Case("nft add element bridge T lladdrs { <DEV> . 0x020000000009 }", "lladdrs: an element that",
         "nft 'delete element bridge T lladdrs {"),
    Case("nft delete element bridge T own4 { <DEV> . 10.77.0.2 }\n"
         "nft add element bridge T own4 { <DEV> . 10.77.0.2 }",
         "in the place of hvtx's stands another", "nft 'delete element bridge T own4 {"),
    Case("nft add chain bridge T more { type filter hook prerouting priority 5; policy drop; }\n"
         "nft add rule bridge T more ether type arp accept",
         "more: a base chain that is not hvtx's", "nft 'flush chain bridge T more; delete chain "),
    Case("nft add chain bridge T aside\nnft add rule bridge T aside drop\n"
         "nft insert rule bridge T guard jump aside",
         "guard: a rule that is not hvtx's: `jump aside`", "nft delete rule bridge T guard handle"),
    Case("nft add set bridge T some { type ifname; }", "some: a set that is not hvtx's",
         "nft delete set bridge T some", "warning"),
    Case("nft add counter bridge T many", "many: a counter that is not hvtx's",
         "nft delete counter bridge T many", "warning"),
]  # fmt: skip
INET = [
    Case("nft insert rule inet T forward accept", "forward: a rule that is not hvtx's: `accept`",
         "nft delete rule inet T forward handle "),
    Case("nft add rule inet T postrouting drop", "postrouting: a rule that is not hvtx's: `drop`",
         "nft delete rule inet T postrouting handle "),
    Case("nft add table inet T { flags dormant; }", "the table is dormant"),
    Case("nft add chain inet T forward { policy drop; }", "policy drop, and hvtx's"),
    Case("nft add chain inet T forward { policy drop; }\nnft insert rule inet T forward accept",
         "policy drop, and hvtx's"),
    Case("nft delete chain inet T prerouting\n"
         "nft add chain inet T prerouting { type nat hook prerouting priority 0; }",
         "prerouting: the chain has type nat hook prerouting priority 0"),
    Case("nft add element inet T masq4 { 192.0.2.1 }", "masq4: an element that is not hvtx's: "
         "`192.0.2.1`", "nft 'delete element inet T masq4 { 192.0.2.1 }'"),
    Case("nft add element inet T dnat4_any { tcp . 99 : 10.77.0.2 . 22 }", "dnat4_any: an element "
         "that is not hvtx's", "nft 'delete element inet T dnat4_any { 6 . 99 }'"),
    Case("nft add element inet T within { <BR> . docker0 : accept }", "within: an element that is",
         "nft 'delete element inet T within {"),
    Case("nft flush set inet T guests4", "a part of it was gone"),
]  # fmt: skip


def settles(hvtx: Program, cases: Sequence[Case]) -> None:
    """Each is told, nothing of it is gc's, its mend is done, and all is as before."""
    before, wrong, known = dumped(), [], names(hvtx)

    def here(words: str) -> str:
        words = words.replace("<DEV>", known["DEV"]).replace("<BR>", known["BR"])
        return words.replace(" T ", f" {known['T']} ").replace("C-", f"{known['C']}-")

    for case in cases:
        act(known, case.acts)
        found = damage()
        fitting = [f for f in found if here(case.said) in f.message
                   and (f.hint or "").startswith(here(case.mend))]  # fmt: skip
        if not fitting or {f.level for f in fitting} != {case.level}:
            wrong.append((case.acts, "is not told", found, ""))
        if acting():
            wrong.append((case.acts, "is gc's", acting(), ""))
        for _ in range(3):  # a mend of ours may wait for that of a stranger's
            follow(hvtx, [f.hint or "" for f in found])
            found = damage()
            if not found:
                break
        left = lab.difference(before, dumped())
        if found or left:
            wrong.append((case.acts, "is not settled", found, left))
            break
    assert not wrong, "\n".join(map(str, wrong))


def test_what_others_do_in_the_table_of_the_bridge_family(hvtx: Program) -> None:
    """Rules, flags, hooks, policies, chains, sets and elements of the guards."""
    settles(hvtx, BRIDGE)


def test_what_others_do_in_the_table_that_translates_and_forwards(hvtx: Program) -> None:
    """The same of what is routed."""
    settles(hvtx, INET)
