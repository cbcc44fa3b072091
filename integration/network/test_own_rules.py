"""hvtx's own tables and chains, changed by others: told, put back or named with the command."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import pytest

from hvtx.commands.doctor import CHECKS
from hvtx.engine.finding import Finding
from hvtx.engine.gc_plan import make_plan
from hvtx.engine.runtime import Runtime, Settings
from hvtx.model.plan import Item
from hvtx.model.reason import Reason
from integration import lab
from integration.commands.test_repair import handles_aside
from integration.lab.program import Forked, Program, preload

REPAIR = "hvtx repair"
T = TypeVar("T")


class Case(NamedTuple):
    """What somebody does, what is said of it, and who puts it right."""

    acts: str  # a line each; T is the table's name, C the chains' prefix, DEV and BR devices
    said: str
    fix: str = REPAIR  # the beginning of the command
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
    found = asked(lambda runtime: make_plan(runtime).plan.acting())
    return [item for item in found if item.reason != Reason.DUPLICATE_COPY]


def dumped() -> dict[str, object]:
    """All of the host, but for handles and the order in which chains were made."""
    found = handles_aside(lab.dump())

    def place(item: dict[str, Any]) -> tuple[str, ...]:
        (kind, body), *_ = item.items()
        if kind == "metainfo":
            return ("",)
        inside = body.get("chain", "") if kind == "rule" else body["name"]
        return (kind, body.get("family", ""), body.get("table", ""), inside)

    legacy: dict[str, list[str]] = found["legacy"]  # type: ignore[assignment]
    told = {
        table: sorted(line for line in lines if "OTHER" not in line)
        for table, lines in legacy.items()
    }
    return {**found, "nft": sorted(found["nft"], key=place), "legacy": told}  # type: ignore[call-overload]


def names(hvtx: Program) -> dict[str, str]:
    """What the capitals in a case stand for."""
    shown = hvtx.vm("web")
    installation = shown["resources"][0]["mark"].split(":")[2]
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    known = {"T": f"hvtx-{installation}", "C": f"HVTX-{installation}", "BR": bridge,
             "DEV": hvtx.device("web")}  # fmt: skip
    for family in ("bridge", "inet"):  # the mark of each base row, and of a guest's flows
        listed = lab.run("nft", "list", "table", family, known["T"], check=False)
        known[family] = next(iter(re.findall(r'comment "([^"]*)"', listed)), "")
        own = re.findall(r'" comment "([^"]*)" : accept', listed)
        known["network"] = next(iter(own), "")
        known["flows"] = next(iter(re.findall(r'16384 comment "([^"]*)"', listed)), "")
    legacy = hvtx.environment["HVTX_FIREWALL"] == "iptables"  # to ask for a table makes it
    saved = lab.run("iptables-legacy-save", "-t", "mangle") if legacy else ""
    known["jump"] = next(iter(re.findall(r'FORWARD .*comment "?(hvtx:[^ "]*)', saved)), "")
    return known


def act(known: dict[str, str], lines: str) -> None:
    """Do what somebody does."""
    for line in lines.splitlines():
        words = shlex.split(line)
        for name, value in known.items():
            words = [word.replace(f"<{name}>", value) for word in words]
            words = [value if word == name and name.isupper() else word for word in words]
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
    Case("nft add element bridge T links6 { * }", "links6: an element that is not hvtx's: `*`",
         "nft 'delete element bridge T links6 { * }'"),
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
    Case('sh -c "nft delete rule bridge <T> guard_udp6 handle $(nft -a list chain bridge <T> '
         "guard_udp6 | sed -n 's/.*sport 547.*handle //p')\"",
         "guard_udp6: a rule is gone: `udp sport 547 drop`"),
    Case('nft add rule bridge T guard_udp6 udp sport 547 drop comment \'"<bridge>"\'',
         "guard_udp6: 1 more of a rule that hvtx has once"),
    Case('nft insert rule bridge T guard accept comment \'"<bridge>"\'',
         "guard: 1 more with hvtx's mark that is another rule"),
    Case('sh -c "nft delete rule bridge <T> guard_ah6 handle $(nft -a list chain bridge <T> '
         "guard_ah6 | sed -n 's/.*drop.*handle //p')\"\n"
         'nft insert rule bridge T guard_ah6 drop comment \'"<bridge>"\'',
         "guard_ah6: its rules stand in another order"),
    Case('nft add element bridge T own4 { <DEV> . 10.77.0.9 comment \'"<flows>"\' }',
         "own4: an element that is not", "nft 'delete element bridge T own4 {"),
    Case("nft add set bridge T some { type ifname; }", "some: a set that is not hvtx's",
         "nft delete set bridge T some", "warning"),
    Case("tc filter add dev DEV ingress pref 5 bpf da bytecode '1,6 0 0 0'", "tap <DEV>: a filter of tc that "
         "is not hvtx's decides before hvtx's own (ingress, pref 5)",
         "tc filter del dev <DEV> ingress pref 5", "warning"),
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
    Case("nft add element inet T masq4 { * }", "masq4: an element that is not hvtx's: `*`",
         "nft 'delete element inet T masq4 { * }'"),
    Case("nft add element inet T vm_policies { * : accept }", "vm_policies: an element that is not "
         "hvtx's: `* -> ", "nft 'delete element inet T vm_policies { * }'"),
    Case("nft flush set inet T guests4", "a part of it was gone"),
    Case("nft delete element inet T flows4 { 10.77.0.2 . <BR> }\nnft add element inet T flows4 "
         '{ 10.77.0.2 . <BR> ct count over 9999999 comment \'"<flows>"\' }',
         "`10.77.0.2 <BR>` is for 9999999 flows, and hvtx's for 16384"),
    Case("nft delete element inet T within { <BR> . <BR> }\nnft add element inet T within "
         '{ <BR> . <BR> comment \'"<network>"\' : drop }', "leads elsewhere"),
]  # fmt: skip


LEGACY = [
    Case("iptables-legacy -t mangle -I <C>-FWD -j ACCEPT",
         "iptables mangle <C>-FWD: a rule that is not hvtx's: `-j ACCEPT`",
         "iptables-legacy -t mangle -D <C>-FWD -j ACCEPT"),
    Case("ip6tables-legacy -t mangle -A <C>-FWD -s fd00::/8 -m comment --comment 'a b' -j DROP",
         "ip6tables mangle <C>-FWD: a rule that is not hvtx's",
         "ip6tables-legacy -t mangle -D <C>-FWD -s fd00::/8 -m comment --comment"),
    Case("iptables-legacy -I <C>-PASS -j DROP", "iptables filter <C>-PASS: a rule that is not",
         "iptables-legacy -t filter -D <C>-PASS -j DROP"),
    Case("iptables-legacy -t nat -I <C>-POST -j RETURN", "iptables nat <C>-POST: a rule that",
         "iptables-legacy -t nat -D <C>-POST -j RETURN"),
    Case("iptables-legacy -t nat -I <C>-PRE -p tcp -j ACCEPT", "nat <C>-PRE: a rule that is not",
         "iptables-legacy -t nat -D <C>-PRE -p tcp -j ACCEPT"),
    Case("iptables-legacy -N OTHER\niptables-legacy -A OTHER -j DROP\n"
         "iptables-legacy -I <C>-PASS -j OTHER", "filter <C>-PASS: a rule that is not hvtx's: "
         "`-j OTHER`", "iptables-legacy -t filter -D <C>-PASS -j OTHER"),
    Case("iptables-legacy -F OTHER\niptables-legacy -X OTHER\n"
         "iptables-legacy -t mangle -A <C>-FWD -m comment --comment <jump> -j ACCEPT",
         "a rule with hvtx's mark that is not hvtx's: `-j ACCEPT`",
         "iptables-legacy -t mangle -D <C>-FWD "),
    Case("iptables-legacy -I FORWARD -i eth9 -j <C>-PASS", "iptables filter FORWARD: a rule that "
         "is not hvtx's leads to hvtx's chain", "iptables-legacy -t filter -D FORWARD -i eth9 -j"),
    Case("iptables-legacy -t mangle -F <C>-FWD", "iptables mangle <C>-FWD: a rule is gone: `"),
    Case("ip6tables-legacy -t mangle -F <C>-FWD", "ip6tables mangle <C>-FWD: a rule is gone: `"),
    Case("iptables-legacy -t mangle -D FORWARD 1", "mangle FORWARD: a rule is gone: `-j <C>-FWD`"),
    Case("ip6tables-legacy -t mangle -D FORWARD 1", "ip6tables mangle FORWARD: a rule is gone"),
    Case("iptables-legacy -t mangle -F\niptables-legacy -t mangle -X", "a rule is gone: `-j <C>-F"),
    Case("iptables-legacy -D INPUT 1", "iptables filter INPUT: a rule is gone"),
    Case("iptables-legacy -t nat -D POSTROUTING 1", "nat POSTROUTING: a rule is gone"),
    Case("iptables-legacy -t mangle -A FORWARD -m comment --comment <jump> -j <C>-FWD",
         "iptables mangle FORWARD: 2 copies of `-j <C>-FWD`", level="warning"),
    Case("nft add table bridge T { flags dormant; }", "the table is dormant"),
    Case("nft insert rule bridge T prerouting accept", "prerouting: a rule that is not hvtx's",
         "nft delete rule bridge T prerouting handle "),
]  # fmt: skip


def settles(hvtx: Program, cases: Sequence[Case]) -> None:
    """Each is told, nothing of it is gc's, its fix is done, and all is as before."""
    before, wrong, known = dumped(), [], names(hvtx)

    def here(words: str) -> str:
        for name in ("T", "DEV", "BR", "C"):
            words = words.replace(f"<{name}>", known[name]).replace(f" {name} ", f" {known[name]} ")
        return words

    for case in cases:
        act(known, case.acts)
        found = damage()
        fitting = [f for f in found if here(case.said) in f.message
                   and (f.hint or "").startswith(here(case.fix))]  # fmt: skip
        if not fitting or {f.level for f in fitting} != {case.level}:
            wrong.append((case.acts, "is not told", found, ""))
        if acting():
            wrong.append((case.acts, "is gc's", acting(), ""))
        for _ in range(3):  # a fix of ours may wait for that of somebody else's
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


@pytest.mark.parametrize("hvtx", ["iptables"], indirect=True)
def test_what_others_do_in_legacy_chains(hvtx: Program) -> None:
    """Rules in our chains, jumps to them, what is gone, what there is twice."""
    settles(hvtx, LEGACY)


@pytest.mark.parametrize("hvtx", ["iptables"], indirect=True)
def test_what_lets_packets_past_the_guards_of_the_legacy_backend(hvtx: Program) -> None:
    """An accept of somebody else before our jump; what drops, marks or is for others is none."""
    quiet = """\
iptables-legacy -t mangle -I FORWARD -s 192.0.2.0/24 -j DROP
iptables-legacy -t mangle -I FORWARD -j MARK --set-mark 7
iptables-legacy -t mangle -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-legacy -t mangle -N OTHER
iptables-legacy -t mangle -I FORWARD -j OTHER
ip6tables-legacy -t mangle -I FORWARD -i eth9 -o eth8 -j ACCEPT
iptables-legacy -t mangle -I FORWARD -i eth9 -o eth8 -j ACCEPT
iptables-legacy -I FORWARD -j ACCEPT
iptables-legacy -I INPUT -j ACCEPT
iptables-legacy -t nat -I PREROUTING -p tcp --dport 99 -j DNAT --to 192.0.2.1"""
    act(names(hvtx), quiet)
    assert damage() == []
    for tool, rule in (
        ("iptables", "-t mangle -A OTHER -p tcp -j ACCEPT"),
        ("iptables", "-t mangle -I FORWARD -j ACCEPT"),
        ("ip6tables", "-t mangle -I FORWARD -s fd77::/64 -j ACCEPT"),
    ):
        lab.run(f"{tool}-legacy", *rule.split())
        said = f"{tool} mangle FORWARD: `"
        assert [(f.level, f.hint) for f in damage() if said in f.message] == [("error", REPAIR)]
        hvtx("repair")
        assert damage() == []
        first = lab.run(f"{tool}-legacy", "-t", "mangle", "-S", "FORWARD", "1")
        assert "-FWD" in first
        if "OTHER" not in rule:
            lab.run(f"{tool}-legacy", *rule.replace("-I", "-C").split())  # theirs stays
    for tool in ("iptables", "ip6tables"):  # where a guest's connections are counted
        lab.run(f"{tool}-legacy", "-t", "mangle", "-I", "PREROUTING", "-j", "ACCEPT")
        said = f"{tool} mangle PREROUTING: `"
        assert [(f.level, f.hint) for f in damage() if said in f.message] == [("error", REPAIR)]
        hvtx("repair")
        assert damage() == []
        first = lab.run(f"{tool}-legacy", "-t", "mangle", "-S", "PREROUTING", "1")
        assert "connlimit" in first


@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_no_vm_starts_beside_guards_that_are_not_asked(hvtx: Program) -> None:
    """6, all undone, and the hint is followed."""
    tried = ("vm", "run", "two", "--network", "net", "--", "sleep", "600")
    for lines, said in (
        ("nft add table bridge T { flags dormant; }", "is dormant"),
        ("nft delete chain bridge T prerouting", "chain prerouting of hvtx's table bridge"),
        ("nft add chain bridge T input { policy drop; }", "chain input of hvtx's table bridge"),
    ):
        act(names(hvtx), lines)
        refused = hvtx(*tried, code=6)
        assert said in refused.err
        assert "hvtx repair" in refused.err
        hvtx("vm", "show", "two", code=3)
        hvtx("repair")
        assert damage() == []
    hvtx(*tried)
    hvtx("vm", "rm", "--force", "two")


@pytest.mark.parametrize("hvtx", ["nftables", "iptables"], indirect=True)
def test_what_is_whole_is_not_told(hvtx: Program) -> None:
    """Everything that hvtx does by itself, others beside it, a reload of all rules."""
    assert damage() == []
    more = ("--subnet", "10.78.0.0/24", "--subnet", "fd78::/64", "--isolate", "--no-nat")
    hvtx("network", "create", "apart", *more)
    ports = ("-p", "127.0.0.1:81:81", "-p", "53:53/udp")
    hvtx("vm", "run", "two", "--network", "apart", *ports, "--", "sleep", "600")
    assert damage() == []
    hvtx("vm", "restart", "two")
    assert damage() == []
    lab.end(hvtx.vm("two")["pid"])
    assert damage() == []
    hvtx("gc", "--apply")
    assert damage() == []
    act(
        {},
        """\
iptables-legacy -N DOCKER-USER
iptables-legacy -I FORWARD -j DOCKER-USER
iptables-legacy -t nat -N DOCKER
iptables-legacy -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
nft add table inet wall
nft add chain inet wall pass { type filter hook forward priority 5; policy drop; }""",
    )
    saved = {tool: lab.run(f"{tool}-legacy-save") for tool in ("iptables", "ip6tables")}
    rules = lab.run("nft", "list", "ruleset")
    assert damage() == []
    lab.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}")
    for tool, text in saved.items():
        lab.run(f"{tool}-legacy-restore", stdin=text)
    assert damage() == []
    hvtx("vm", "rm", "two")
    hvtx("network", "rm", "apart")
    assert damage() == []


def test_explain_says_whose_a_rule_in_our_table_is(hvtx: Program) -> None:
    """A rule, a chain and an element that are not hvtx's, with the command that removes them."""
    known = names(hvtx)
    table = known["T"]
    act(
        known,
        """\
nft insert rule bridge T prerouting meta mark 99 accept
nft add chain bridge T more
nft add element bridge T own4 { <DEV> . 10.77.0.9 }""",
    )
    told = hvtx("explain", "mark 0x00000063 accept", "--json").json()
    assert told["owner"] == "foreign"
    assert any("nft delete rule bridge" in line for line in told["evidence"])
    told = hvtx("explain", f"nft bridge {table} prerouting", "--json").json()
    assert told["owner"] == "hvtx"
    assert any("not hvtx's: " in line and "nft delete rule" in line for line in told["evidence"])
    told = hvtx("explain", f"nft bridge {table} more", "--json").json()
    assert told["owner"] == "foreign"
    assert any("delete chain" in line for line in told["evidence"])
    told = hvtx("explain", f"{known['DEV']} 10.77.0.9", "--json").json()
    assert told["owner"] == "foreign"
    assert any("delete element" in line for line in told["evidence"])
    assert hvtx("explain", f"{known['DEV']} 10.77.0.2", "--json").json()["owner"] == "hvtx"
