"""Tables and chains that an earlier version made, under VMs that run: made anew, and told of."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.iptables import IptablesDriver
from hvtx.model.resource import Resource
from integration import lab
from integration.lab.program import Forked, Program, preload
from integration.lab.verbs import ended, stopped
from integration.security.test_fail_closed import bridge_of, leads

EMPTIED = ("inet raw", "inet prerouting", "inet flows", "inet seen", "bridge guard_source6",
           "bridge guard_advert", "bridge guard_nobody6")  # fmt: skip


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    yield program
    for vm in program("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


def age(hvtx: Program) -> None:
    """Make host and record what an earlier version would have left."""
    firewall, device = hvtx.environment["HVTX_FIREWALL"], hvtx.device("web")
    installation = hvtx.vm("web")["resources"][0]["mark"].split(":")[2]
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as store, store:
        rows = store.execute(
            "SELECT id, kind, spec, observed FROM resource WHERE state = 'committed'"
        ).fetchall()
        for number, kind, spec, observed in rows:
            old, seen = json.loads(spec), json.loads(observed or "{}")
            for name in ("guard", "flows"):
                old.pop(name, None)
            seen.pop("guarded", None)
            if kind == "filter" and old.get("what") == "base":
                seen.pop("layout", None)
                if old["backend"] == "iptables":
                    seen["rules"] = [
                        [place, text.replace("! -s 127.0.0.0/8 ! -d 127.0.0.0/8 ", ""), first]
                        for place, text, first in seen["rules"]
                    ]
                else:
                    seen["rules"] = {k: v for k, v in seen["rules"].items() if k not in EMPTIED}
            store.execute(
                "UPDATE resource SET spec = ?, observed = ? WHERE id = ?",
                (json.dumps(old), json.dumps(seen), number),
            )
    table = f"hvtx-{installation}"
    for family, chain in (place.split(" ") for place in EMPTIED):
        if family == "bridge" or firewall == "nftables":
            lab.run("nft", "flush", "chain", family, table, chain)
    if firewall == "nftables":
        for name in ("flows4", "flows6", "flows_link"):
            lab.run("nft", "delete", "set", "inet", table, name)
        for chain in ("flows", "seen"):
            lab.run("nft", "delete", "chain", "inet", table, chain)
    else:
        saved = lab.run("iptables-legacy-save")
        lab.run(
            "iptables-legacy-restore",
            stdin=saved.replace("! -s 127.0.0.0/8 ! -d 127.0.0.0/8 -m addrtype", "-m addrtype"),
        )
    for name in ("links6", "new6", "seen6"):
        lab.run("nft", "delete", "set", "bridge", table, name)
    lab.run("tc", "qdisc", "del", "dev", device, "clsact")
    lab.run("tc", "qdisc", "del", "dev", bridge_of(hvtx), "clsact", check=False)
    Path(f"/proc/sys/net/ipv4/conf/{bridge_of(hvtx)}/route_localnet").write_text("1")


def whole(hvtx: Program) -> None:
    """Everything that this version makes is there."""
    listed = lab.run("nft", "list", "ruleset")
    firewall, device = hvtx.environment["HVTX_FIREWALL"], hvtx.device("web")
    assert "@links6 drop" in listed
    if firewall == "nftables":
        assert listed.count('iifname != "lo" ip daddr 127.0.0.0/8 return') == 1
        assert listed.count("ct state new ip saddr . iifname @flows4 drop") == 1
        assert "bpf" in lab.run("tc", "filter", "show", "dev", bridge_of(hvtx), "egress")
    else:
        saved = lab.run("iptables-legacy-save", "-t", "nat")
        jumps = [line for line in saved.splitlines() if line.startswith("-A PREROUTING")]
        assert [("! -d 127.0.0.0/8" in line) for line in jumps if "addrtype" in line] == [True]
    assert "bpf" in lab.run("tc", "filter", "show", "dev", device, "ingress")
    assert not leads(bridge_of(hvtx))
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()


def test_repair_brings_what_an_earlier_version_lacks(hvtx: Program) -> None:
    age(hvtx)
    plan = hvtx.plan()
    assert {action for action, _ in plan} == {"skip"}
    assert not {("skip", "foreign"), ("skip", "unrecorded"), ("skip", "mark-mismatch")} & set(plan)
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    damage = [f["message"] for f in found if f["check"] == "damage"]
    assert any("earlier version" in message for message in damage)
    assert any(" filter (" in message for message in damage)
    hvtx("repair")
    whole(hvtx)


def test_the_next_start_brings_the_rules(hvtx: Program) -> None:
    """A start needs sets that an older table lacks."""
    age(hvtx)
    hvtx("vm", "run", "next", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    listed = lab.run("nft", "list", "ruleset")
    assert "@links6 drop" in listed
    if hvtx.environment["HVTX_FIREWALL"] == "nftables":
        assert listed.count('iifname != "lo" ip daddr 127.0.0.0/8 return') == 1
    hvtx("vm", "stop", "next", "--force")
    hvtx("vm", "stop", "web", "--force")
    hvtx("vm", "rm", "web")
    hvtx("vm", "rm", "next")
    hvtx("network", "rm", "net")
    assert "hvtx" not in lab.run("nft", "list", "ruleset")
    assert "HVTX" not in lab.run("iptables-legacy-save")


def test_tables_that_are_made_anew_find_the_rules_of_other_networks_new_as_well(
    hvtx: Program,
) -> None:
    """What the table of policies leaves to iptables is in the rules of every network of it."""
    hvtx("--firewall", "iptables", "network", "create", "near", "--subnet", "10.78.0.0/24")
    hvtx("network", "set", "net", "--egress", "none")
    rule = "-j MARK --set-xmark 0x0/0x8000000"
    made = lab.run("iptables-legacy-save", "-t", "mangle").count(rule)
    assert made
    with closing(sqlite3.connect(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db"))) as store, store:
        for number, observed in store.execute(
            "SELECT id, observed FROM resource WHERE state = 'committed' AND kind = 'filter'"
        ).fetchall():
            seen = json.loads(observed)
            seen.pop("layout", None)
            if isinstance(seen.get("rules"), list):
                seen["rules"] = [each for each in seen["rules"] if rule not in each[1]]
            store.execute(
                "UPDATE resource SET observed = ? WHERE id = ?", (json.dumps(seen), number)
            )
    saved = lab.run("iptables-legacy-save", "-t", "mangle").splitlines()
    earlier = "".join(f"{line}\n" for line in saved if rule not in line)
    lab.run("iptables-legacy-restore", "-T", "mangle", stdin=earlier)
    hvtx("vm", "run", "next", "--network", "net", "--", "sleep", "600")
    assert lab.run("iptables-legacy-save", "-t", "mangle").count(rule) == made


FORMER = {  # what an earlier version might have worded otherwise
    "! -s 127.0.0.0/8 ! -d 127.0.0.0/8 -m addrtype": "-m addrtype",
    "-p tcp -m tcp --dport 8080": "! -s 192.0.2.9/32 -p tcp -m tcp --dport 8080",
    "-p tcp -m tcp --dport 8090": "! -s 192.0.2.9/32 -p tcp -m tcp --dport 8090",
}


@pytest.fixture
def legacy() -> Iterator[Program]:
    """Two VMs with a port each, on rules as an earlier version worded them, and one that is down."""
    preload()
    program = Forked(HVTX_FIREWALL="iptables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    for name, port in (("stays", "8080"), ("goes", "8090")):
        program("vm", "run", name, "--network", "net", "-p", f"{port}:80", "--", "sleep", "600")
    program("vm", "create", "next", "--network", "net", "--", "sleep", "600")
    saved = lab.run("iptables-legacy-save")
    for now, before in FORMER.items():
        saved = saved.replace(now, before)
    lab.run("iptables-legacy-restore", stdin=saved)
    with closing(sqlite3.connect(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db"))) as store, store:
        for now, before in FORMER.items():
            store.execute("UPDATE resource SET observed = replace(observed, ?, ?)", (now, before))
    yield program
    for name in ("stays", "goes", "next"):
        program("vm", "rm", name, "--force", code=None)


def ports() -> dict[str, int]:
    """How many rules translate each port, and of how many versions."""
    saved = lab.run("iptables-legacy-save", "-t", "nat")
    lines = [line for line in saved.splitlines() if "DNAT --to" in line]
    found = {"former": sum("192.0.2.9" in line for line in lines)}
    return found | {port: sum(port in line for line in lines) for port in ("8080", "8090")}


@pytest.mark.parametrize("verb", [("stop", "goes", "--force"), ("rm", "goes", "--force")])
def test_what_goes_meanwhile_is_not_made_anew(
    verb: tuple[str, ...], legacy: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows were read, and the tables of all come first: nobody inherits its port."""
    assert ports() == {"former": 4, "8080": 2, "8090": 2}
    repair, done = IptablesDriver.repair, []

    def late(driver: IptablesDriver, rows: Sequence[Resource]) -> Any:
        if not done:  # in the child of `vm start`
            done.append(Program(**legacy.environment)("vm", *verb))
        return repair(driver, rows)

    with monkeypatch.context() as patch:
        patch.setattr(IptablesDriver, "repair", late)
        legacy("vm", "start", "next")
    assert ports() == {"former": 0, "8080": 2, "8090": 0}
    assert legacy.is_clean()


def test_whose_vm_another_command_has_is_left_to_it(legacy: Program) -> None:
    """It is not waited for: it would wait for the lock that is held here."""
    stopping = stopped(legacy, "ended:process", "vm", "stop", "goes", "--force")
    try:
        legacy("vm", "start", "next")
        assert ports() == {"former": 2, "8080": 2, "8090": 2}
    finally:
        ended(stopping, signal.SIGCONT)
    assert ports() == {"former": 0, "8080": 2, "8090": 0}
    assert legacy.is_clean()


def test_who_holds_a_port_stays_known(legacy: Program) -> None:
    """Else nothing would end it with its port."""

    def known() -> list[str]:
        with closing(sqlite3.connect(Path(os.environ["HVTX_STATE_DIR"], "hvtx.db"))) as store:
            asked = "SELECT observed FROM resource WHERE kind = 'publish' ORDER BY key"
            return [json.loads(row[0])["holder"] for row in store.execute(asked)]

    before = known()
    legacy("vm", "start", "next")
    assert (known(), ports()["former"]) == (before, 0)
