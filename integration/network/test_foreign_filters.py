"""The firewall beside others: flushed, dropped before us, two backends, tables of every kind."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.iptables import IptablesDriver
from hvtx.host import xtables
from hvtx.model.resource import Kind, Resource, State
from integration import lab
from integration.lab.program import Forked, Program, preload

BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program on a backend, with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    for vm in program("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


def legacy(hvtx: Program) -> bool:
    return hvtx.environment["HVTX_FIREWALL"] == "iptables"


def leave(hvtx: Program) -> None:
    """Take everything away."""
    hvtx("vm", "rm", "--force", "web")
    hvtx("network", "rm", "net")


def found(hvtx: Program, check: str) -> list[dict[str, object]]:
    every = hvtx("doctor", "--json", code=None).json()["findings"]
    return [f for f in every if f["check"] == check and f["level"] != "ok"]


def test_what_was_flushed_can_be_stopped_and_removed(hvtx: Program) -> None:
    """`nft flush ruleset` and `iptables -F`, -X: what is gone is gone, and no error."""
    lab.run("nft", "flush", "ruleset")
    for table in ("nat", "filter") if legacy(hvtx) else ():
        lab.run("iptables-legacy", "-t", table, "-F")
        lab.run("iptables-legacy", "-t", table, "-X")
    assert {f["hint"] for f in found(hvtx, "damage")} == {"hvtx repair"}
    hvtx("vm", "stop", "web", "--force")
    assert hvtx.vm("web")["state"] == "defined"
    assert hvtx.is_clean()
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")
    assert "hvtx" not in lab.run("nft", "list", "ruleset")
    assert "hvnet" not in lab.run("ip", "link")


def test_rules_that_nothing_leads_to(hvtx: Program) -> None:
    """The rules stand, and the way to them was cut: told, and put back."""
    if legacy(hvtx):
        mangle = ("iptables-legacy", "-t", "mangle")
        jump = re.search(r"-A (FORWARD .*-j HVTX\S+)", lab.run(*mangle, "-S"))
        assert jump is not None
        lab.run(*mangle, "-D", *jump[1].replace('"', "").split())
        before = "FORWARD"
    else:
        text = lab.run("nft", "-a", "list", "chain", "inet", table(), "prerouting")
        handle = re.search(r"goto dnat4 .*# handle (\d+)", text)
        assert handle is not None
        lab.run("nft", "delete", "rule", "inet", table(), "prerouting", "handle", handle[1])
        before = "base"
    assert before
    assert [f["message"] for f in found(hvtx, "damage")]
    hvtx("repair")
    assert found(hvtx, "damage") == []
    if legacy(hvtx):
        assert "-j HVTX" in lab.run(*mangle, "-S", "FORWARD").splitlines()[1]
    else:
        assert "goto dnat4" in lab.run("nft", "list", "chain", "inet", table(), "prerouting")


def table() -> str:
    """The name of the installation's nft table."""
    seen = re.search(r"table inet (hvtx-\S+)", lab.run("nft", "list", "tables"))
    assert seen is not None
    return seen[1]


DROPS = {
    "legacy, everything": ("iptables-legacy", "-I", "FORWARD", "-j", "DROP"),
    "legacy, our bridge": ("iptables-legacy", "-I", "FORWARD", "-o", "hvnet", "-j", "REJECT"),
    "nft, everything": "table inet t { chain f { type filter hook forward priority 5; drop; }; }",
    "nft, our bridge": 'table ip t { chain f { type filter hook forward priority -5; iifname'
    ' "hvnet" counter reject; }; }',
    "legacy, a protocol": ("iptables-legacy", "-I", "FORWARD", "-p", "tcp", "-j", "DROP"),
    "nft, input": "table inet t { chain f { type filter hook input priority 5; drop; }; }",
}  # fmt: skip
HARMLESS = {
    "legacy, another device": ("iptables-legacy", "-I", "FORWARD", "-i", "eth7", "-j", "DROP"),
    "nft, another device": 'table inet t { chain f { type filter hook forward priority 5; oifname'
    ' "eth7" drop; }; }',
}  # fmt: skip


@pytest.mark.parametrize(
    ("hvtx", "what"),
    [("iptables", "legacy, everything"), *(("nftables", what) for what in (*DROPS, *HARMLESS))],
    indirect=["hvtx"],
)
def test_a_drop_before_us_is_named(hvtx: Program, what: str) -> None:
    """No accept of ours overrides it, so `doctor` names the very rule; others' it leaves alone."""
    words = {**DROPS, **HARMLESS}[what]
    if isinstance(words, str):
        lab.run("nft", "-f", "-", stdin=words.replace("; }", "\n }") + "\n")
    else:
        lab.run(*words)
    told = found(hvtx, "forward")
    assert [f["level"] for f in told] == (["error"] if what in DROPS else [])
    assert all("hvnet" in str(f["hint"]) for f in told)
    if what.startswith("legacy, everything") and legacy(hvtx):
        lab.run("iptables-legacy", "-D", "FORWARD", "-j", "DROP")
        lab.run("iptables-legacy", "-A", "FORWARD", "-j", "DROP")
        assert [f["level"] for f in found(hvtx, "forward")] == ["error"]  # wherever it stands


def test_the_mark_in_the_other_backend() -> None:
    """A rule of ours copied to the other kind of tables: each is judged alone, the copy stays."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="iptables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    mark = next(r["mark"] for r in hvtx.vm("web")["resources"] if r["kind"] == "publish")
    rule = ("-p", "tcp", "--dport", "8080", "-m", "comment", "--comment", mark, "-j", "DNAT",
            "--to-destination", "10.77.0.2:80")  # fmt: skip
    lab.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", *rule)
    theirs = lab.run("iptables-nft-save", "-t", "nat")
    seen = {
        (i["action"], i["reason"]) for v in hvtx.plan().values() for i in v if i["mark"] == mark
    }
    assert seen == {("skip", "vm-alive"), ("skip", "duplicate-mark")}
    lab.end(hvtx.vm("web")["pid"])
    hvtx("gc", "--apply")
    assert "8080" not in lab.run("iptables-legacy-save", "-t", "nat")
    assert strip(lab.run("iptables-nft-save", "-t", "nat")) == strip(theirs)


def strip(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_tools_on_the_path_are_switched(tmp_path: Path) -> None:
    """`update-alternatives` changed what `iptables` is: the row knows its backend, not the PATH."""
    preload()
    clean = lab.dump()
    tools, called = tmp_path / "bin", tmp_path / "called"
    tools.mkdir()
    for name in ("iptables", "iptables-save", "iptables-restore", "ip6tables", "nft"):
        script = tools / name
        script.write_text(f"#!/bin/sh\necho {name} >> {called}\nexit 1\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    path = f"{tools}:{os.environ['PATH']}"
    made = Forked(HVTX_FIREWALL="iptables", PATH=path)
    made("network", "create", "net", "--subnet", "10.77.0.0/24")
    later = Forked(HVTX_FIREWALL="nftables", PATH=path)
    later("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    kinds = {r["key"] for r in later.vm("web")["resources"] if r["kind"] == "publish"}
    assert kinds == {"8080/tcp"}
    assert "8080" in lab.run("iptables-legacy-save", "-t", "nat")
    leave(later)
    assert not called.exists()
    after = lab.dump()
    assert lab.difference(clean["nft"], after["nft"]) == ""
    assert "HVTX" not in str(after["legacy"])


def test_policies_and_counters_of_others() -> None:
    """What others set between two of our commits stands, and no count of theirs begins anew."""
    driver = IptablesDriver(Host("aaaaaaaaaa", "", "", 5.0))

    def row(number: int, what: str, **more: object) -> Resource:
        spec = {"backend": "iptables", "what": what, **more}
        mark = f"hvtx:1:aaaaaaaaaa:{number}.bbbbbbbbbbbbbbbb"
        return Resource(number, Kind.FILTER, what, State.INTENDED, mark, spec, {}, 1, 1, None, None)

    base = row(1, "base")
    own = row(2, "forward", ipv4="10.77.0.2", ipv6=None, bridge="hvnet")
    lab.run("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-c", "11", "1100", "-j", "DROP")
    driver.create([base])
    lab.run("iptables-legacy", "-P", "FORWARD", "DROP")
    lab.run(
        "iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.7", "-c", "1000", "64000", "-j", "LOG"
    )
    lab.run("iptables-legacy", "-D", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    driver.create([own])
    driver.repair([base, own])
    for _ in range(2):
        text = lab.run("iptables-legacy-save", "-c", "-t", "filter")
        assert ":FORWARD DROP" in text
        assert "[1000:64000] -A FORWARD -s 192.0.2.7/32 -j LOG" in text
        assert "192.0.2.1" not in text
        driver.release([own, base])
    assert "HVTX" not in text


def test_a_stranger_who_takes_another_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its rule comes between our look and our commit: the kernel says EAGAIN, and both stand."""
    driver = IptablesDriver(Host("aaaaaaaaaa", "", "", 5.0))
    commit, late = xtables.Edit.commit, []

    def slow(self: xtables.Edit) -> bool:
        if len(late) < 3:
            late.append(len(late))
            lab.run("env", f"XTABLES_LOCKFILE={tmp_path}/another", "iptables-legacy", "-w",
                    "-t", "mangle", "-A", "FORWARD", "-s", f"192.0.2.{len(late)}", "-j",
                    "LOG")  # fmt: skip
        return commit(self)

    monkeypatch.setattr(xtables.Edit, "commit", slow)
    spec = {"backend": "iptables", "what": "base"}
    mark = "hvtx:1:aaaaaaaaaa:1.bbbbbbbbbbbbbbbb"
    driver.create([Resource(1, Kind.FILTER, "b", State.INTENDED, mark, spec, {}, 1, 1, None, None)])
    assert len(late) == 3
    text = lab.run("iptables-legacy-save")
    assert re.findall(r"-s (192[\d.]+)/32 -j LOG", text) == [f"192.0.2.{n}" for n in (1, 2, 3)]
    assert text.count(mark) == 4


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize("end", ["0", " "])
def test_a_longer_mark_is_another(hvtx: Program, end: str) -> None:
    """A comment that begins with a mark of ours is not that mark."""
    mark = next(r["mark"] for r in hvtx.vm("web")["resources"] if r["kind"] == "publish")
    lab.run("nft", "-f", "-", stdin=f'table ip theirs {{\n chain c {{\n tcp dport 8080 accept comment'
            f' "{mark}{end}"\n }}\n }}\n')  # fmt: skip
    theirs = lab.run("nft", "list", "table", "ip", "theirs")
    lab.end(hvtx.vm("web")["pid"])
    assert ("skip", "mark-unreadable") in hvtx.plan()
    hvtx("gc", "--apply")
    hvtx("gc", "--apply", "--unrecorded")
    assert lab.run("nft", "list", "table", "ip", "theirs") == theirs


STRANGE = """
table arp a { chain c { type filter hook input priority 0; arp operation request counter } }
table netdev n { }
table bridge b { chain c { type filter hook forward priority 0; ether type ip6 log } }
table ip6 s { set i { type ipv6_addr; flags interval, timeout; elements = { fd00::/8 timeout 1h } } }
table inet o {
    counter hits { packets 7 bytes 700 }
    quota much { 25 mbytes }
    limit slow { rate 3/second }
    set dyn { type ipv4_addr . inet_service; flags dynamic, timeout; size 99; }
    map verdicts { type ifname : verdict; elements = { "eth7" : drop } }
    chain nat { type nat hook postrouting priority 90; oifname "eth7" masquerade random,persistent }
    chain c {
        type filter hook input priority 0
        iifname vmap @verdicts
        ct state new quota name "much" counter name "hits"
        tcp option maxseg size 1-500 meta mark set 0x7
        ip saddr . tcp dport @dyn limit name "slow" accept
    }
}
"""


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_tables_of_every_kind(hvtx: Program) -> None:
    """Families, objects and expressions that hvtx has no use for: neither in its way nor changed."""
    text = STRANGE.replace(" }", "\n }").replace("{ ", "{\n ")
    lab.run("nft", "-f", "-", stdin=text)
    theirs = lab.run("nft", "-s", "list", "ruleset")
    assert not [key for key in hvtx.plan("--all") if key[0] != "skip"]
    hvtx("doctor", code=None)
    lab.end(hvtx.vm("web")["pid"])
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    leave(hvtx)
    left = lab.run("nft", "-s", "list", "ruleset")
    assert [line for line in theirs.splitlines() if line in left.splitlines()]
    for name in ("arp a", "netdev n", "bridge b", "ip6 s", "inet o"):
        own = lab.run("nft", "-s", "list", "table", *name.split())
        assert own in theirs, name


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_table_with_an_owner(hvtx: Program) -> None:
    """firewalld's kind of table, which only its owner may change: it is nobody's obstacle."""
    with subprocess.Popen(
        ["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as owner:  # fmt: skip
        assert owner.stdin is not None
        for line in (
            "add table inet theirs { flags owner; }",
            "add chain inet theirs c { type nat hook postrouting priority 90; }",
            'add rule inet theirs c oifname "eth7" masquerade',
        ):
            owner.stdin.write(line + "\n")
        owner.stdin.flush()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if "masquerade" in lab.run("nft", "list", "ruleset").partition("table inet theirs")[2]:
                break
        theirs = lab.run("nft", "list", "table", "inet", "theirs")
        assert "flags owner" in theirs
        hvtx("repair")
        lab.end(hvtx.vm("web")["pid"])
        hvtx("gc", "--apply")
        assert hvtx.is_clean()
        leave(hvtx)
        assert lab.run("nft", "list", "table", "inet", "theirs") == theirs
        owner.stdin.close()
        owner.wait(timeout=20)
