"""What of a my-hypervisor VM is proven, and why the rest is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import parse_place
from hvtx.model.resource import Link
from hvtx.model.vm import Liveness, ProcessFacts
from hvtx.planner.adoption import (
    AdoptFacts,
    Claim,
    Verdict,
    judge,
    kind_of,
    parse_deletion,
    parse_state,
    vm_id,
    vm_name,
)
from tests.planner.scene import link, mark

ID = "aaaa1111-0000-4000-8000-00000000000a"
RULE = "-t nat -D POSTROUTING -s 10.88.0.5/32 -j MASQUERADE"
PID = 4242


def state(**more: Any) -> str:
    ownership = {
        "tap_device": "tap-a", "bridge": "mybr0", "ip": "10.88.0.5", "iptables_rules": [RULE]
    }  # fmt: skip
    document = {"id": ID, "name": "first", "status": "running", "pid": PID,
                "network_ownership": ownership, **more}  # fmt: skip
    return json.dumps({k: v for k, v in document.items() if v is not ...})


def claim(**more: Any) -> Claim:
    return parse_state(state(**more), "/x/state.json")


def rule(
    text: str = "-s 10.88.0.5/32 -j MASQUERADE",
    place: str = "iptables nat POSTROUTING",
    marked: str | None = None,
) -> ForeignRule:
    return ForeignRule("iptables", parse_place(place), text, marked, "", 1)


BRIDGE = link(4, "mybr0", "bridge")


def tap(**more: Any) -> Link:
    return link(5, "tap-a", **{"master": 4, **more})


def sighted(*links: Link, **more: Any) -> AdoptFacts:
    values: dict[str, Any] = {
        "links": links or (BRIDGE, tap()),
        "holders": {"tap-a": (PID,)},
        "rules": (rule(),),
        "processes": {PID: ProcessFacts(True, 77)},
        "recorded": {},
        "names": {},
        **more,
    }
    return AdoptFacts(**values)


def verdict(seen: AdoptFacts, *claims: Claim) -> Verdict:
    return judge(claims or (claim(),), seen)[0]


# -- reading ---------------------------------------------------------------------------------------


def test_the_known_spellings() -> None:
    for tap_word in ("tap_device", "tap", "tap_name"):
        for ip_word in ("ip", "ip_address"):
            owned = {tap_word: "tap-a", "bridge": "mybr0", ip_word: "10.88.0.5"}
            flat = claim(network_ownership=owned)
            nested = claim(network_ownership=..., runtime_state={"network_ownership": owned})
            assert (flat.device, flat.ip) == (nested.device, nested.ip) == ("tap-a", "10.88.0.5")
            assert flat.spelling["device"] == f"network_ownership.{tap_word}"
            assert nested.spelling["ip"] == f"runtime_state.network_ownership.{ip_word}"
    moved = claim(pid=..., status=..., runtime_state={"pid": 7, "status": "stopped"})
    assert (moved.pid, moved.status) == (7, "stopped")
    assert moved.spelling["pid"] == "runtime_state.pid"


def test_an_older_file() -> None:
    older = claim(network_ownership=..., pid=None, status="stopped")
    assert (older.owns, older.device, older.rules, older.pid) == (False, None, (), None)
    assert verdict(sighted(), older).reason == "no-ownership"


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "1", "{}", '{"id": ""}', '{"id": 7}',
        state(pid="4242"), state(pid=True), state(name=["a"]),
        state(network_ownership={"tap_device": 5}),
        state(network_ownership={"iptables_rules": "x"}),
        state(network_ownership={"iptables_rules": [7]}),
    ],
)  # fmt: skip
def test_what_is_no_state(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_state(text, "/x/state.json")


@pytest.mark.parametrize(
    ("text", "tool", "table", "chain", "words"),
    [
        (RULE, "iptables", "nat", "POSTROUTING", "-s 10.88.0.5/32 -j MASQUERADE"),
        ("-D FORWARD -s 10.88.0.5 -j ACCEPT", "iptables", "filter", "FORWARD",
         "-s 10.88.0.5/32 -j ACCEPT"),
        ("iptables -w -t nat -D POSTROUTING -s 10.88.0.5 -j MASQUERADE", "iptables", "nat",
         "POSTROUTING", "-s 10.88.0.5/32 -j MASQUERADE"),
        ("ip6tables -D FORWARD -d fd00::5 -j ACCEPT", "ip6tables", "filter", "FORWARD",
         "-d fd00::5/128 -j ACCEPT"),
        ("-D FORWARD -d fd00::5/128 -j ACCEPT", "ip6tables", "filter", "FORWARD",
         "-d fd00::5/128 -j ACCEPT"),
        ("-D FORWARD -p tcp --dport 80 -d 10.88.0.5 -j ACCEPT", "iptables", "filter", "FORWARD",
         "-p tcp -m tcp --dport 80 -d 10.88.0.5/32 -j ACCEPT"),
        ('-D FORWARD -m comment --comment "a b" -s 10.88.0.5/32', "iptables", "filter", "FORWARD",
         "-m comment --comment|a b|-s 10.88.0.5/32"),
    ],
)  # fmt: skip
def test_delete_forms(text: str, tool: str, table: str, chain: str, words: str) -> None:
    found = parse_deletion(text)
    assert (found.tool, found.table, found.chain) == (tool, table, chain)
    assert " ".join(found.words) == words.replace("|", " ")


@pytest.mark.parametrize(
    "text", ["", "-A FORWARD -j ACCEPT", "-D FORWARD 3", "-D FORWARD", '-D FORWARD -s "10.88', "-F"]
)
def test_what_is_no_delete_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_deletion(text)


def test_ids_and_names() -> None:
    assert vm_id(ID) == ID.replace("-", "")
    assert vm_id("vm 7") == vm_id("vm 7") != vm_id("vm 8")
    assert vm_name(claim(name="My VM_1!")) == "my-vm-1"
    assert vm_name(claim(name="///")) == "imported-aaaa1111"
    assert len(vm_name(claim(name="x" * 200))) == 63


def test_kinds() -> None:
    assert kind_of("-p tcp -j DNAT --to-destination 10.88.0.5:80") == "publish"
    assert kind_of("-s 10.88.0.5/32 -j MASQUERADE") == "masquerade"
    assert kind_of("-s 10.88.0.5/32 -j ACCEPT") == "filter"


# -- deciding --------------------------------------------------------------------------------------


def test_all_is_proven() -> None:
    found = verdict(sighted())
    assert (found.reason, found.liveness) == ("", Liveness.ALIVE)
    assert [(f.kind, f.proven) for f in found.findings] == [("tap", True), ("masquerade", True)]


@pytest.mark.parametrize(
    ("links", "more", "reason"),
    [
        ((BRIDGE, tap(alias="mine")), {}, "has-alias"),
        ((BRIDGE, tap(alias=mark(3))), {}, "has-alias"),
        ((BRIDGE, tap(master=0)), {}, "other-bridge"),
        ((link(4, "other0", "bridge"), tap()), {}, "other-bridge"),
        ((link(4, "mybr0", "bond"), tap()), {}, "other-bridge"),
        ((BRIDGE, link(5, "tap-a", "veth", master=4)), {}, "not-a-tap"),
        ((BRIDGE, tap(tun_flags=0x1001)), {}, "not-a-tap"),
        ((BRIDGE, tap()), {"holders": {"tap-a": (9,)}}, "held-by-others"),
        ((BRIDGE, tap()), {"holders": {"tap-a": (PID, 9)}}, "held-by-others"),
        ((BRIDGE, tap()), {"recorded": {"tap-a": "another"}}, "on-record"),
    ],
)
def test_a_device_that_is_not_proven(
    links: tuple[Link, ...], more: dict[str, Any], reason: str
) -> None:
    """Then nothing of the VM is."""
    found = verdict(sighted(*links, **more))
    assert found.reason == reason
    assert not any(item.proven for item in found.findings)


def test_without_a_bridge_in_the_file() -> None:
    owned = {"tap": "tap-a", "ip": "10.88.0.5"}
    assert verdict(sighted(), claim(network_ownership=owned)).reason == "other-bridge"


@pytest.mark.parametrize(
    ("facts", "holders", "liveness"),
    [
        (ProcessFacts(True, 77), (PID,), Liveness.ALIVE),
        (ProcessFacts(True, 77), (), Liveness.UNKNOWN),  # the pid may be another's by now
        (ProcessFacts(False), (), Liveness.DEAD),
        (ProcessFacts(True, 77, ended=True), (), Liveness.DEAD),
        (ProcessFacts(True, error="hidepid"), (PID,), Liveness.UNKNOWN),
    ],
)
def test_whether_it_lives(
    facts: ProcessFacts, holders: tuple[int, ...], liveness: Liveness
) -> None:
    seen = sighted(processes={PID: facts}, holders={"tap-a": holders})
    assert verdict(seen).liveness is liveness


def test_a_file_without_a_pid_proves_no_death() -> None:
    found = verdict(sighted(holders={}), claim(pid=None, status="stopped"))
    assert (found.reason, found.liveness) == ("", Liveness.UNKNOWN)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ((), "already-gone"),
        ((rule(), rule()), "not-unique"),
        ((rule(), rule(place="nft ip nat POSTROUTING")), "not-unique"),
        ((rule(marked=mark(3)),), "marked"),
        ((rule(place="iptables nat PREROUTING"),), "already-gone"),
        ((rule(place="ip6tables nat POSTROUTING"),), "already-gone"),
        ((rule("-s 10.88.0.5/32 -o eth0 -j MASQUERADE"),), "already-gone"),
    ],
)
def test_a_rule_that_is_not_proven(rules: tuple[ForeignRule, ...], reason: str) -> None:
    """The device is taken all the same."""
    found = verdict(sighted(rules=rules))
    assert found.reason == ""
    assert [(f.proven, f.reason) for f in found.findings] == [(True, ""), (False, reason)]


@pytest.mark.parametrize(
    "deletion",
    [
        "-D FORWARD -j ACCEPT",
        "-D FORWARD -s 10.88.0.50/32 -j ACCEPT",
        "-D FORWARD -s 110.88.0.5/32 -j ACCEPT",
        "-D FORWARD -i tap-ab -j ACCEPT",
    ],
)
def test_a_rule_that_is_not_about_the_vm(deletion: str) -> None:
    """A state file cannot make hvtx take what is everybody's."""
    words = deletion.removeprefix("-D FORWARD ")
    owned = {"tap": "tap-a", "bridge": "mybr0", "ip": "10.88.0.5", "iptables_rules": [deletion]}
    seen = sighted(rules=(rule(words, "iptables filter FORWARD"),))
    found = verdict(seen, claim(network_ownership=owned))
    assert found.findings[1].reason == "not-its-own"


def test_a_rule_that_another_program_keeps() -> None:
    text = "-D DOCKER -s 10.88.0.5/32 -j ACCEPT"
    owned = {"tap": "tap-a", "bridge": "mybr0", "ip": "10.88.0.5", "iptables_rules": [text]}
    seen = sighted(rules=(rule("-s 10.88.0.5/32 -j ACCEPT", "iptables filter DOCKER"),))
    assert verdict(seen, claim(network_ownership=owned)).findings[1].reason == "not-its-own"


def test_two_files() -> None:
    """What two claim is neither's: the VM, the device, the rule."""
    other = "bbbb2222-0000-4000-8000-00000000000b"
    same_name = claim(id=other)
    assert {v.reason for v in judge((claim(), same_name), sighted())} == {"claimed-twice"}
    same_device = claim(id=other, name="second")
    assert {v.reason for v in judge((claim(), same_device), sighted())} == {"claimed-twice"}
    owned = {"tap": "tap-b", "bridge": "mybr0", "ip": "10.88.0.5", "iptables_rules": [RULE]}
    same_rule = claim(id=other, name="second", network_ownership=owned)
    seen = sighted(BRIDGE, tap(), link(6, "tap-b", master=4))
    for found in judge((claim(), same_rule), seen):
        assert [f.proven for f in found.findings] == [True, False]
        assert found.findings[1].reason == "claimed-twice"


def test_a_vm_of_the_same_name_on_record() -> None:
    assert verdict(sighted(names={"first": "another"})).reason == "name-taken"
    mine = sighted(names={"first": vm_id(ID)}, recorded={"tap-a": vm_id(ID)})
    assert verdict(mine).reason == ""


def test_what_was_taken_before_is_recognised() -> None:
    """Marked by the earlier import: still proven, so that running it again completes it."""
    seen = sighted(
        BRIDGE,
        tap(alias=mark(3)),
        rules=(rule(marked=mark(4)),),
        recorded={"tap-a": vm_id(ID), mark(3): vm_id(ID), mark(4): vm_id(ID)},
        names={"first": vm_id(ID)},
    )
    assert [f.proven for f in verdict(seen).findings] == [True, True]


def test_only_rules_are_left() -> None:
    """The device is gone, the rules are not: they are taken, so that gc can collect them."""
    seen = sighted(BRIDGE, processes={PID: ProcessFacts(False)}, holders={})
    found = verdict(seen)
    assert (found.reason, found.liveness) == ("", Liveness.DEAD)
    assert [(f.proven, f.reason) for f in found.findings] == [(False, "already-gone"), (True, "")]
    assert verdict(sighted(BRIDGE, rules=())).reason == "already-gone"
