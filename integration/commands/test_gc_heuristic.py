"""The emergency mode on the real kernel: what it takes, what it spares, and the way back."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.foreign_rules import ForeignRules
from hvtx.host import xtnames
from integration import lab
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
DEAD = "10.77.0.9"
_SEND = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A network and a running VM `web` with 10.77.0.2."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", "--", "sleep", "600")
    yield program
    end_vms(program)


def hold(device: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def litter() -> None:
    """What an old tool's dead VM left, and a neighbour's things beside it in the same chains."""
    lab.run("ip", "link", "add", "mybr0", "address", "02:00:00:00:01:01", "type", "bridge")
    lab.run("ip", "tuntap", "add", "dev", "tap-dead0001", "mode", "tap", "user", "65534")
    lab.run("ip", "link", "set", "tap-dead0001", "address", "02:00:00:00:00:99", "master", "mybr0")
    for tool in ("iptables-nft", "iptables-legacy"):
        for rule in (
            "-t nat -A POSTROUTING -s 192.168.9.0/24 -j MASQUERADE",
            f"-t nat -A POSTROUTING -s {DEAD}/32 -j MASQUERADE",
            f"-t nat -A PREROUTING -p tcp --dport 99 -j DNAT --to-destination {DEAD}:80",
            "-t nat -A POSTROUTING -s 10.77.0.2/32 -j MASQUERADE",
            f"-A FORWARD -d {DEAD}/32 -m comment --comment 'old vm' -j ACCEPT",
            "-N theirs",
            f"-A theirs -s {DEAD}/32 -j RETURN",
            "-A FORWARD -s 192.168.9.1/32 -j theirs",
        ):
            lab.run(tool, *shlex.split(rule))
    lab.run("nft", "-f", "-", stdin=(
        "table inet mine { chain c { type filter hook forward priority 5; \n"
        f' iifname "tap-dead0001" ip saddr {DEAD} counter accept comment "of old"\n'
        ' iifname "tap-gone0002" accept\n'
        ' ip saddr 192.168.9.7 accept comment "mine"\n }\n}\n'
    ))  # fmt: skip


def keep() -> None:
    """What the guess must never take."""
    lab.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    lab.run("ip", "link", "add", "docker0", "type", "bridge")
    lab.run("ip", "tuntap", "add", "dev", "vmtap7", "mode", "tap")
    lab.run("ip", "link", "set", "vmtap7", "master", "docker0")
    lab.run("ip", "tuntap", "add", "dev", "tap-addressed", "mode", "tap")
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "tap-addressed")
    lab.run("ip6tables-legacy", "-A", "FORWARD", "-i", "tap+", "-j", "ACCEPT")
    lab.run("iptables-legacy", "-N", "DOCKER")
    lab.run("iptables-legacy", "-A", "DOCKER", "-s", f"{DEAD}/32", "-j", "ACCEPT")
    lab.run("nft", "add", "table", "inet", "firewalld")
    lab.run("nft", "add", "chain", "inet", "firewalld", "filter_FWD")
    lab.run("nft", "add", "rule", "inet", "firewalld", "filter_FWD", "ip", "saddr", DEAD, "accept")


def by_action(document: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [item for item in document["items"] if item["action"] == action]


def test_it_takes_the_litter_and_nothing_else(hvtx: Program) -> None:
    """After it the host is as it would be if the litter had never been; the history has it all."""
    keep()
    litter()
    cluttered = lab.dump()
    plan = hvtx("gc", "--heuristic", "--plan", "--json").json()
    assert lab.difference(cluttered, lab.dump()) == ""
    assert plan["heuristic"] is True
    assert plan["applied"] is False
    proposed = by_action(plan, "delete")
    assert {item["reason"] for item in proposed} == {"guess-name", "guess-subnet", "guess-device"}
    assert len(proposed) == 1 + 2 * 4 + 2
    assert all(item["evidence"] and item["restore"] for item in proposed)
    done = hvtx("gc", "--heuristic", "--apply", "--yes", "--json").json()
    assert {item["outcome"] for item in by_action(done, "delete")} == {"done"}
    after = lab.dump()
    text = json.dumps(after)
    for kept in ("tap0", "vmtap7", "tap-addressed", "docker0", "192.168.9.0", "192.168.9.7"):
        assert kept in text
    lines = [line for line in lab.difference(cluttered, after).splitlines() if line[0] == "+"]
    lines = [line for line in lines if "mybr0" not in line]  # a bridge knows that a port left
    assert lines == []
    left = [item for item in after["nft"] if DEAD in json.dumps(item)]  # type: ignore[attr-defined]
    assert len(left) == 1  # firewalld's
    assert json.dumps(after["legacy"]).count(DEAD) == 1  # Docker's
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx("gc", "--heuristic", "--plan", "--json").json()["summary"]["delete"] == 0
    told = hvtx("log", "-n", "50", "--json").json()["entries"]
    removed = [entry for entry in told if entry["event"] == "removed"]
    assert len(removed) == len(proposed)
    assert all(item["restore"] in json.dumps([e["message"] for e in removed], ensure_ascii=False)
               .replace('\\"', '"') for item in proposed)  # fmt: skip


def test_what_it_took_can_be_put_back_by_hand(hvtx: Program) -> None:
    """The commands of the plan, typed as they stand, make the same devices and rules again."""
    litter()
    before = lab.dump()
    plan = hvtx("gc", "--heuristic", "--plan", "--json").json()
    hvtx("gc", "--heuristic", "--apply", "--yes")
    assert lab.difference(before, lab.dump())
    for item in by_action(plan, "delete"):
        lab.run("sh", "-c", item["restore"])
    again = hvtx("gc", "--heuristic", "--plan", "--json").json()
    assert {i["key"] for i in by_action(again, "delete")} == {
        i["key"] for i in by_action(plan, "delete")
    }
    assert {i["restore"] for i in by_action(again, "delete")} == {
        i["restore"] for i in by_action(plan, "delete")
    }
    devices = {link["ifname"]: link for link in lab.dump()["links"]}  # type: ignore[attr-defined]
    made = devices["tap-dead0001"]
    assert made["linkinfo"]["info_data"]["user"] in ("nobody", 65534)
    assert (made["address"], made["master"]) == ("02:00:00:00:00:99", "mybr0")


def test_a_held_device_stays_whatever_the_plan_said(hvtx: Program) -> None:
    """Held when planned: in-use. Held since: the attach refuses it."""
    lab.run("ip", "tuntap", "add", "dev", "tap-busy0001", "mode", "tap")
    holder = hold("tap-busy0001")
    plan = hvtx("gc", "--heuristic", "--plan", "--json").json()
    assert [(i["action"], i["reason"]) for i in plan["items"]] == [("skip", "in-use")]
    assert str(os.getpid()) in plan["items"][0]["message"]
    os.close(holder)
    from hvtx.commands.gc_heuristic import _remove_tap
    from hvtx.host.links import Links

    links = Links()
    seen = links.get(name="tap-busy0001")
    links.close()
    assert seen is not None
    holder = hold("tap-busy0001")
    assert _remove_tap(seen).reason == "in-use"
    os.close(holder)
    lab.run("ip", "link", "set", "tap-busy0001", "alias", "hvtx:1:aaaaaaaaaa:1.aaaaaaaaaaaaaaaa")
    assert _remove_tap(seen).reason == "contended"
    assert "tap-busy0001" in lab.run("ip", "-o", "link")


def test_marked_things_are_not_touched(hvtx: Program) -> None:
    """Not ours, not another installation's, not those of a VM that is dead: gc is for those."""
    lab.end(hvtx.vm("web")["pid"])
    lab.run("ip", "tuntap", "add", "dev", "tap-other", "mode", "tap")
    lab.run("ip", "link", "set", "tap-other", "alias", "hvtx:1:bbbbbbbbbb:1.aaaaaaaaaaaaaaaa")
    before = lab.dump()
    hvtx("gc", "--heuristic", "--apply", "--yes")
    assert lab.difference(before, lab.dump()) == ""


def test_an_address_leased_since_is_spared(hvtx: Program) -> None:
    """A saved plan whose address was leased meanwhile is stale, and does nothing."""
    lab.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-s", f"{DEAD}/32", "-j", "ACCEPT")
    path = str(Path(os.environ["HVTX_STATE_DIR"]).parent / "plan.json")
    planned = hvtx("gc", "--heuristic", "--plan", "--detailed-exitcode", "--out", path, code=2)
    assert "guess-subnet" in planned.out
    assert f"`hvtx gc --heuristic --apply --yes {path}` removes" in planned.out
    hvtx("vm", "create", "db", "--network", "net", "--ip", DEAD, "--", "true")
    before = lab.dump()
    stale = hvtx("gc", "--heuristic", "--apply", "--yes", path, code=8)
    assert DEAD in stale.err
    hvtx("gc", "--apply", path, code=2)  # nor does the sound mode take it for a plan of its own
    assert lab.difference(before, lab.dump()) == ""


def test_only_the_reviewed_items_go(hvtx: Program) -> None:
    """What came after the saved plan stays, said so."""
    rule = ["-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE", "-s"]
    lab.run("iptables-legacy", *rule, DEAD)
    path = str(Path(os.environ["HVTX_STATE_DIR"]).parent / "plan.json")
    hvtx("gc", "--heuristic", "--plan", "--out", path)
    lab.run("iptables-legacy", *rule, "10.77.0.10")
    hvtx("gc", "--heuristic", "--apply", "--yes", path)
    saved = lab.run("iptables-legacy-save")
    assert DEAD not in saved
    assert "10.77.0.10" in saved


def test_a_rule_that_changed_since_is_left(hvtx: Program) -> None:
    """By handle and expressions, by entry and chain: what is no longer that, stays."""
    lab.run("nft", "add", "table", "inet", "mine")
    lab.run("nft", "add", "chain", "inet", "mine", "c")
    lab.run("nft", "add", "rule", "inet", "mine", "c", "ip", "saddr", DEAD, "accept")
    lab.run("iptables-legacy", "-A", "FORWARD", "-s", DEAD, "-j", "ACCEPT")
    driver = ForeignRules(Host("aaaaaaaaaa", "/", "/", 5.0))
    seen = {rule.backend: rule for rule in driver.rules() if DEAD in rule.text}
    listing = lab.run("nft", "-a", "list", "table", "inet", "mine")
    handle = listing.split("accept # handle ")[1].split()[0]
    lab.run("nft", "replace", "rule", "inet", "mine", "c", "handle", handle, "ip", "saddr",
            "192.0.2.7", "accept")  # fmt: skip
    lab.run("iptables-legacy", "-R", "FORWARD", "1", "-s", "192.0.2.7", "-j", "ACCEPT")
    before = lab.dump()
    assert driver.remove(seen["nftables"]).reason in ("contended", "")
    assert driver.remove(seen["iptables"]).gone
    assert lab.difference(before, lab.dump()) == ""


def test_traffic_does_not_change_what_a_rule_is(hvtx: Program) -> None:
    """Counters move between plan and act; the rule is the same."""
    for tool in ("iptables-nft", "iptables-legacy"):
        lab.run(tool, "-A", "OUTPUT", "-d", "127.0.0.1", "-j", "ACCEPT")
    driver = ForeignRules(Host("aaaaaaaaaa", "/", "/", 5.0))
    seen = [rule for rule in driver.rules() if "127.0.0.1/32" in rule.text and rule.mark is None]
    assert len(seen) == 2
    lab.run("python3", "-c", _SEND)
    assert [driver.remove(rule).gone for rule in seen] == [True, True]
    assert "127.0.0.1/32" not in lab.run("iptables-legacy-save")
    assert "127.0.0.1/32" not in lab.run("iptables-nft-save")


def test_of_many_legacy_rules_just_the_one_goes(hvtx: Program) -> None:
    """Jumps, policies, chains of users and matches of many kinds stand in its way in the table."""
    saved = "\n".join([
        "*filter", ":INPUT DROP [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]",
        ":aa - [0:0]", ":zz - [0:0]",
        "-A INPUT -j aa", "-A FORWARD -j zz", f"-A FORWARD -s {DEAD}/32 -g zz",
        "-A aa -m limit --limit 3/sec -j zz", "-A aa -m conntrack --ctstate NEW -j REJECT",
        f'-A zz -s {DEAD}/32 -p tcp -m multiport --dports 1,2,3 -j LOG --log-prefix "a b"',
        f"-A zz -s {DEAD}/32 -j RETURN", "-A zz -j ACCEPT", "COMMIT", "",
    ])  # fmt: skip
    lab.run("iptables-legacy-restore", stdin=saved)
    lab.run("ip6tables-legacy", "-A", "FORWARD", "-s", "fd00::9", "-j", "ACCEPT")
    driver = ForeignRules(Host("aaaaaaaaaa", "/", "/", 5.0))
    for rule in [rule for rule in driver.rules() if rule.backend == "iptables"]:
        tool = rule.place.tool
        before = lab.run(f"{tool}-legacy-save", "-t", "filter").splitlines()
        assert driver.remove(rule).gone, rule
        after = lab.run(f"{tool}-legacy-save", "-t", "filter").splitlines()
        gone = [line for line in before if line not in after and line[0] not in "#:"]
        assert gone == [f"-A {rule.chain} {rule.text}"]
        assert len(before) == len(after) + 1
        lab.run("iptables-legacy-restore" if tool == "iptables" else "ip6tables-legacy-restore",
                stdin="\n".join(before) + "\n")  # fmt: skip
    assert xtnames.listed(4) == {"filter"}


def test_the_options(hvtx: Program) -> None:
    """Never without --yes, never mixed with what proves."""
    lab.run("ip", "tuntap", "add", "dev", "tap-dead0001", "mode", "tap")
    for wrong in (
        ["gc", "--heuristic"],
        ["gc", "--heuristic", "--apply"],
        ["gc", "--heuristic", "--plan", "--yes"],
        ["gc", "--apply", "--yes"],
        ["gc", "--heuristic", "--plan", "--all"],
        ["gc", "--heuristic", "--apply", "--yes", "--unrecorded"],
        ["doctor", "--force-heuristic"],
        ["doctor", "--dry-run"],
    ):
        hvtx(*wrong, code=2)
    plan = hvtx("doctor", "--gc", "--dry-run", "--force-heuristic", "--json").json()
    assert plan["heuristic"] is True
    assert plan["summary"]["delete"] == 1
    assert "heuristic" not in hvtx("doctor", "--gc", "--dry-run", "--json").json()
    hvtx("doctor", "--gc")
    assert "tap-dead0001" in lab.run("ip", "-o", "link")
    hvtx("doctor", "--gc", "--force-heuristic")
    assert "tap-dead0001" not in lab.run("ip", "-o", "link")


def test_refusals_are_those_of_gc(hvtx: Program) -> None:
    """In another namespace nothing is guessed either."""
    done = subprocess.run(
        ["unshare", "-n", "python3", "-c", "import os,sys; os.execvp(sys.argv[1], sys.argv[1:])",
         *_hvtx("gc", "--heuristic", "--plan", "--json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert json.loads(done.stdout)["refused"] == "wrong-namespace"


def _hvtx(*arguments: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "hvtx", *arguments]


def test_the_normal_path_does_not_load_it() -> None:
    """`gc --plan` never imports a module of the guess."""
    import sys

    script = (
        "import sys; from hvtx.cli.main import run; run(['gc', '--plan', '--json']);"
        "print([m for m in sys.modules if 'heuristic' in m or 'stranger' in m], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
