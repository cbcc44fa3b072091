"""`adopt`: a single device or rule that an operator vouches for, and nothing else besides."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_import import BRIDGE, IP, RULES, TAP, Theirs, dead_pid, rule_lines
from integration.lab import witness
from integration.lab.program import Forked, Program, preload

MASQUERADE = "-t nat -A POSTROUTING -s 10.88.0.5/32 -j MASQUERADE"


@pytest.fixture(params=["iptables-nft", "iptables-legacy"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Theirs]:
    made = Theirs(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked(HVTX_FIREWALL="nftables")


def marks(hvtx: Program, vm: str) -> dict[str, str]:
    return {row["kind"]: row["mark"] for row in hvtx.vm(vm)["resources"]}


def test_a_device_and_rules_become_a_vms_and_go_when_it_dies(theirs: Theirs, hvtx: Program) -> None:
    """One by one; whoever holds the device alone is the VM's process."""
    rules = rule_lines(theirs.tool)
    pid = theirs.hold()
    done = hvtx("adopt", TAP, "--vm", "old", "--json").json()
    assert (done["schema"], done["vm"], done["liveness"]) == ("hvtx/adopt/1", "old", "alive")
    assert done["item"]["kind"] == "tap"
    assert done["item"]["outcome"] == "imported"
    shown = hvtx.vm("old")
    assert (shown["state"], shown["pid"], shown["hypervisor"]) == ("running", pid, "external")
    for rule in RULES:
        hvtx("adopt", "--vm", "old", f"iptables {rule}")
    assert set(marks(hvtx, "old")) == {"tap", "process", "publish", "masquerade", "filter"}
    assert marks(hvtx, "old")["tap"] in lab.run("ip", "link", "show", TAP)
    assert len(rule_lines(theirs.tool)) == len(rules)
    assert set(hvtx.plan()) == {("skip", "vm-alive"), ("skip", "foreign")} & set(hvtx.plan())
    hvtx("gc", "--apply")
    assert TAP in lab.run("ip", "link", "show")
    theirs.end()
    hvtx("gc", "--apply")
    assert TAP not in lab.run("ip", "link", "show")
    ours = [line for line in rules if IP in line]
    assert rule_lines(theirs.tool) == [line for line in rules if line not in ours]
    assert hvtx.is_clean()


def test_again_changes_nothing(theirs: Theirs, hvtx: Program) -> None:
    """The same words twice: on record and marked already."""
    theirs.hold()
    for words in ((TAP,), ("--", "iptables", *MASQUERADE.split())):
        first = hvtx("adopt", "--vm", "old", "--json", *words).json()
        with witness.unchanged():
            again = hvtx("adopt", "--vm", "old", "--json", *words).json()
        assert (first["item"]["outcome"], again["item"]["outcome"]) == ("imported", "already")


def test_a_dry_run_changes_nothing(theirs: Theirs, hvtx: Program) -> None:
    """It shows what would be taken over, and makes no VM."""
    with witness.unchanged():
        done = hvtx("adopt", TAP, "--vm", "old", "--dry-run", "--json").json()
        assert done["applied"] is False
        said = hvtx("adopt", TAP, "--vm", "old", "--dry-run").out
        assert "would be taken over" in said


def test_nobody_holds_it_so_gc_leaves_it_until_a_person_says_more(
    theirs: Theirs, hvtx: Program
) -> None:
    """Without a process the VM may be alive: `vm stop` is the word that it is not."""
    hvtx("adopt", TAP, "--vm", "old")
    assert hvtx.reasons("tap", TAP) == {("skip", "liveness-unknown")}
    hvtx("gc", "--apply")
    assert TAP in lab.run("ip", "link", "show")
    hvtx("vm", "stop", "old")
    assert TAP not in lab.run("ip", "link", "show")


def test_a_rule_of_nft_is_named_as_explain_names_it(hvtx: Program) -> None:
    """A native rule, with its own counter: in place, with the mark as its comment."""
    lab.run("nft", "add", "table", "inet", "mine")
    lab.run("nft", "add", "chain", "inet", "mine", "c")
    lab.run("nft", "add", "rule", "inet", "mine", "c", "tcp", "dport", "80", "counter", "accept")
    lab.run("nft", "add", "rule", "inet", "mine", "c", "tcp", "dport", "81", "accept")
    rules = json.loads(lab.run("nft", "-j", "list", "ruleset"))["nftables"]
    hvtx("adopt", "nft inet mine c: tcp dport 81 accept", "--vm", "old")
    mark = marks(hvtx, "old")["filter"]
    listed = lab.run("nft", "list", "ruleset")
    assert f'tcp dport 81 accept comment "{mark}"' in listed
    hvtx("vm", "stop", "old")
    left = json.loads(lab.run("nft", "-j", "list", "ruleset"))["nftables"]
    assert [r for r in rules if "rule" in r][:1] == [r for r in left if "rule" in r]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("tap-none",), 3, "no device"),
        (("lo",), 4, "not a TAP"),
        ((BRIDGE,), 4, "not a TAP"),
        (("iptables -t nat -A POSTROUTING -s 9.9.9.9/32 -j MASQUERADE",), 3, "no such rule"),
        (("iptables -t nat -D POSTROUTING 1",), 2, "number"),
        (("a b c",), 2, "delete form"),
        ((TAP, "--pid", "1"), 4, "1"),
    ],
)
def test_what_is_refused_changes_nothing(
    theirs: Theirs, hvtx: Program, words: tuple[str, ...], code: int, told: str
) -> None:
    """Not there: 3; not to be had: 4; not understood: 2."""
    theirs.hold()
    with witness.unchanged():
        assert told in hvtx("adopt", *words, "--vm", "old", code=code).err
        assert hvtx("vm", "ls", "--json").json()["vms"] == []


def test_what_others_have_is_refused(theirs: Theirs, hvtx: Program) -> None:
    """An alias, another installation's mark, two holders, two copies, Docker's chains: 4."""
    lab.run("ip", "link", "set", TAP, "alias", "the admin's")
    assert "alias" in hvtx("adopt", TAP, "--vm", "old", code=4).err
    lab.run("ip", "link", "set", TAP, "alias", "hvtx:1:aaaaaaaaaa:5.bbbbbbbbbbbbbbbb")
    assert "alias" in hvtx("adopt", TAP, "--vm", "old", code=4).err
    lab.run("ip", "link", "set", TAP, "alias", "")
    lab.run(theirs.tool, *MASQUERADE.split())
    assert "2 such rules" in hvtx("adopt", "iptables " + MASQUERADE, "--vm", "old", code=4).err
    lab.run(theirs.tool, "-t", "nat", "-N", "DOCKER")
    rule = "-t nat -A DOCKER -d 10.88.0.5/32 -j RETURN"
    lab.run(theirs.tool, *rule.split())
    assert "DOCKER" in hvtx("adopt", "iptables " + rule, "--vm", "old", code=4).err
    assert hvtx("vm", "ls", "--json").json()["vms"] == []


def test_a_vm_with_a_network_of_ours_takes_nothing_over(theirs: Theirs, hvtx: Program) -> None:
    """hvtx makes its things itself; and what is on record for one VM is not another's."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    assert "itself" in hvtx("adopt", TAP, "--vm", "web", code=4).err
    hvtx("adopt", TAP, "--vm", "old")
    assert "on record" in hvtx("adopt", TAP, "--vm", "other", code=4).err
    for name in ("Old", "-x", "a" * 64):
        hvtx("adopt", "--vm", name, TAP, code=2)


def test_killed_anywhere_a_second_time_does_it(theirs: Theirs, hvtx: Program) -> None:
    """Recorded, marked or neither: the same words again complete it, and gc never errs."""
    pid = theirs.hold()
    for point in ("intended", "recorded", "marked"):
        hvtx("adopt", TAP, "--vm", "old", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
        hvtx("recover")
        hvtx("gc", "--apply")
        assert TAP in lab.run("ip", "link", "show"), point
    hvtx("adopt", TAP, "--vm", "old", "--pid", str(pid))
    assert hvtx.vm("old")["pid"] == pid
    assert hvtx.is_clean()
    assert dead_pid() != pid
