"""What others print of their rules proves itself, or it is unknown: never gone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_import import IP, RULES, TAP, Theirs, dead_pid, outcomes
from integration.lab.program import Forked, Program, preload

NATIVE = {  # rules that make iptables-nft call a table incompatible, by table and chain
    "ct": "ct state established accept",
    "set": "ip saddr { 192.0.2.1, 192.0.2.2 } accept",
    "map": "ip saddr vmap { 192.0.2.1 : accept, 192.0.2.2 : accept }",
    "fib": "fib daddr type local accept",
    "dscp": "ip dscp 3 accept",  # iptables-nft-save ends with 3
    "range": "ip saddr 192.0.2.1-192.0.2.9 accept",  # printed as `-s 192.0.2.9/32`
}


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Theirs]:
    made = Theirs(tmp_path, "iptables-nft")
    yield made
    made.end()


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked(HVTX_FIREWALL="nftables")


def foreign_object(
    rule: str = NATIVE["ct"], where: str = "nat POSTROUTING", verb: str = "add"
) -> None:
    """A rule of an administrator's in the table of iptables-nft."""
    lab.run("nft", verb, "rule", "ip", *where.split(), *shlex.split(rule))


def ruleset() -> str:
    return lab.run("nft", "-s", "list", "ruleset")


def of_vm(text: str) -> list[str]:
    return [line for line in text.splitlines() if IP in line]


@pytest.mark.parametrize(
    ("native", "verb"), [("ct", "insert"), *((name, "add") for name in NATIVE)]
)
def test_rules_beside_a_native_one_are_taken_over_and_collected(
    native: str, verb: str, theirs: Theirs, hvtx: Program
) -> None:
    """iptables-nft-save ends with 0 and prints nothing of the table: its rules are there."""
    foreign_object(NATIVE[native], verb=verb)
    foreign_object(NATIVE[native], "filter FORWARD", verb)
    before = ruleset()
    path = theirs.state(theirs.hold())
    done = hvtx("import", "my-hypervisor", path, "--json").json()
    assert done["summary"] == {"imported": 5, "already": 0, "skipped": 0, "failed": 0}
    marks = {r["mark"] for r in hvtx.vm("first")["resources"]}
    now = ruleset()
    for mark in marks:
        now = now.replace(f' comment "{mark}"', "")
    assert now == before
    again = hvtx("import", "my-hypervisor", path, "--json").json()
    assert again["summary"] == {"imported": 0, "already": 5, "skipped": 0, "failed": 0}
    theirs.end()
    hvtx("gc", "--apply")
    assert of_vm(ruleset()) == []
    assert TAP not in lab.run("ip", "-o", "link")
    assert ruleset().count("192.0.2") == before.count("192.0.2")
    assert ruleset().count("192.168.9.0/24") == before.count("192.168.9.0/24")
    assert hvtx.is_clean()


def test_a_rule_that_is_really_gone_is_gone(theirs: Theirs, hvtx: Program) -> None:
    """Beside a native rule as well: what is not there is proven absent, not unknown."""
    lab.run("iptables-nft", *shlex.split(RULES[1]))
    foreign_object()
    done = hvtx("import", "my-hypervisor", theirs.state(dead_pid()), "--json").json()
    reasons = [item["reason"] for item in done["vms"][0]["items"]]
    assert reasons == [None, None, "already-gone", None]


def test_rules_of_many_kinds_beside_a_native_one(theirs: Theirs, hvtx: Program) -> None:
    """Matches and targets of xtables, comments, own chains, negations: each is found by its words."""
    lab.run("iptables-nft", "-N", "vm-first")
    more = [
        f"-D FORWARD -s {IP}/32 -m comment --comment 'web \"one\"' -j ACCEPT",
        f"-D FORWARD -d {IP}/32 -p udp -m multiport --dports 53,123 -j vm-first",
        (
            f"-D vm-first ! -s {IP}/32 -p tcp -m tcp ! --dport 22 -j REJECT"
            " --reject-with icmp-port-unreachable"
        ),
        (
            f"-D FORWARD -s {IP}/32 -p icmp -m icmp --icmp-type 8 -m limit --limit 5/sec -j LOG"
            " --log-prefix 'vm: '"
        ),
        (
            f"-t nat -D PREROUTING -p tcp -m tcp --dport 99 -m addrtype --dst-type LOCAL"
            f" -j DNAT --to-destination {IP}:99"
        ),
    ]
    for rule in more:
        lab.run("iptables-nft", *shlex.split(rule.replace("-D ", "-A ")))
    foreign_object()
    foreign_object(where="filter FORWARD", verb="insert")
    path = theirs.state(dead_pid())
    document = json.loads(Path(path).read_text())
    document["network_ownership"]["iptables_rules"] = [*RULES, *more]
    Path(path).write_text(json.dumps(document))
    done = hvtx("import", "my-hypervisor", path, "--json", code=None).json()
    assert [item["reason"] for item in done["vms"][0]["items"]] == [None] * (1 + 8), done
    hvtx("gc", "--apply")
    assert of_vm(ruleset()) == []


@pytest.mark.parametrize("broken", ["cut", "silent", "fails", "noise", "killed"])
def test_a_listing_that_proves_nothing_is_unknown(
    broken: str, theirs: Theirs, hvtx: Program, tmp_path: Path
) -> None:
    """A program that prints less than is there, ends early or fails: nothing is called gone."""
    directory = tmp_path / "bin"
    directory.mkdir(mode=0o755)
    words = {
        "cut": "printf '*nat\\n:POSTROUTING ACCEPT [0:0]\\n'",
        "silent": "exit 0",
        "fails": "echo trouble >&2; exit 1",
        "noise": "echo trouble; echo 'Segmentation fault' >&2",
        "killed": "kill -KILL $$",
    }[broken]
    for family in ("", "6"):
        program = directory / f"ip{family}tables-nft-save"
        program.write_text(f"#!/bin/sh\n{words}\n")
        program.chmod(0o755)
    path = f"{directory}:{os.environ['PATH']}"
    before = lab.dump()
    state = theirs.state(dead_pid())
    done = hvtx("import", "my-hypervisor", state, "--json", code=9, PATH=path).json()
    assert done["summary"]["imported"] == 0
    assert {kind for kind, _ in outcomes(done).items()} == {"tap", "rule"}
    assert "observe-failed" in {item["reason"] for item in done["vms"][0]["items"]}
    assert "already-gone" not in {item["reason"] for item in done["vms"][0]["items"]}
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    after = lab.dump()
    assert (before["nft"], before["links"]) == (after["nft"], after["links"])
    ran = hvtx("adopt", f"iptables {RULES[1].replace('-D ', '-A ')}", "--vm", "first", code=None,
               PATH=path)  # fmt: skip
    assert ran.code == 6, ran
    done = hvtx("import", "my-hypervisor", state, "--json").json()
    assert done["summary"]["imported"] == 5


ODD = {
    "a comment of two lines": 'dnat to 192.0.2.9 comment "one\ntwo"',
    "a comment like a rule's end": 'dnat to 192.0.2.9 comment "x # handle 4\n\t\taccept # handle 5"',
    "a comment like a chain's end": 'dnat to 192.0.2.9 comment "one\n\t}\n}"',
    "a map": "dnat to tcp dport map { 80 : 192.0.2.1, 81 : 192.0.2.2 }",
}


@pytest.mark.parametrize("odd", ODD)
def test_a_strangers_rule_that_is_hard_to_read(theirs: Theirs, hvtx: Program, odd: str) -> None:
    """It neither stops gc nor hides its neighbours, which are taken over and collected."""
    lab.run("nft", "-f", "-", stdin="add table ip odd\n"
            "add chain ip odd pre { type nat hook prerouting priority -100; }\n"
            f"add rule ip odd pre {ODD[odd]}\nadd rule ip odd pre tcp dport 99 dnat to 192.0.2.8\n"
            f"add rule ip nat PREROUTING {ODD[odd]}\n")  # fmt: skip
    before = lab.dump()["nft"]
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    items = hvtx("gc", "--plan", "--all", "--json").json()["items"]
    assert len([i for i in items if i["kind"] == "rule" and "nft ip odd pre" in i["key"]]) == 2
    hvtx("network", "rm", "net")
    told = hvtx("explain", "odd", "--json").json()
    assert any(line.startswith("2 rules in it") for line in told["evidence"])
    done = hvtx("import", "my-hypervisor", theirs.state(dead_pid()), "--json").json()
    assert done["summary"]["imported"] == 5
    hvtx("gc", "--apply")
    assert of_vm(ruleset()) == []
    left = [item for item in lab.dump()["nft"] if "rule" in item]
    assert len(left) == len([item for item in before if "rule" in item]) - len(RULES)


@pytest.mark.parametrize("flag", ["dormant", "owner"])
def test_a_strangers_table_with_a_flag(hvtx: Program, flag: str) -> None:
    """nft 1.0.6 prints no JSON for any table then, and ends with 0."""
    keeper = subprocess.Popen(
        ["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert keeper.stdin is not None
    try:
        keeper.stdin.write(f"add table ip held {{ flags {flag}; }}\nadd chain ip held pre\n")
        keeper.stdin.write("add rule ip held pre ip saddr 192.0.2.7 accept\n")
        keeper.stdin.write("list chain ip held pre\n")
        keeper.stdin.flush()
        assert keeper.stdout is not None
        while "192.0.2.7 accept" not in keeper.stdout.readline():
            pass
        told = hvtx("explain", "held", "--json").json()
        assert (told["kind"], told["owner"], told["key"]) == ("table", "foreign", "nft ip held")
        told = hvtx("explain", "192.0.2.7", "--json").json()
        assert any("nft ip held pre" in line for line in told["evidence"])
        hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
        assert "could not be" not in hvtx("doctor", code=None).out
        hvtx("network", "rm", "net")
    finally:
        keeper.communicate(timeout=20)


@pytest.mark.parametrize("broken", ["lacks a rule", "lacks a chain", "lacks a table", "cut"])
def test_a_legacy_listing_that_is_not_whole(hvtx: Program, tmp_path: Path, broken: str) -> None:
    """It ends with 0 and looks well: nothing of what it leaves out is gone, nothing is done."""
    legacy = Forked(HVTX_FIREWALL="iptables")
    legacy("network", "create", "net", "--subnet", "10.77.0.0/24")
    legacy("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    lab.end(legacy.vm("web")["pid"])
    real = shutil.which("iptables-legacy-save")
    edit = {
        "lacks a rule": "grep -v DNAT",
        "lacks a chain": "grep -v -e HVTX-.*-PRE",
        "lacks a table": "sed '/^*nat/,/^COMMIT/d'",
        "cut": "sed '/^COMMIT/,$d'",
    }[broken]
    directory = tmp_path / "bin"
    directory.mkdir(mode=0o755)
    program = directory / "iptables-legacy-save"
    program.write_text(f"#!/bin/sh\n{real} | {edit}\n")
    program.chmod(0o755)
    path = f"{directory}:{os.environ['PATH']}"
    before = lab.dump()
    ran = legacy("gc", "--plan", "--json", code=None, PATH=path).json()
    judged = {(i["kind"], i["action"]) for i in ran["items"]}
    assert ran["refused"] or not judged & {
        (kind, action) for kind in ("publish", "masquerade") for action in ("forget", "delete")
    }, judged
    legacy("gc", "--apply", code=None, PATH=path)
    assert lab.dump()["legacy"] == before["legacy"]
    rows = {row["kind"] for row in legacy.vm("web")["resources"]}
    assert {"publish", "masquerade"} <= rows
    legacy("gc", "--apply")
    legacy("vm", "rm", "web")
    legacy("network", "rm", "net")
    assert legacy.is_clean()
