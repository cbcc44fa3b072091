"""`gc --installation`: what is left of an installation whose store is gone; never one that lives."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx import Host
from integration import lab
from integration.crash.test_failpoints import BACKENDS, SLEEP, host
from integration.lab import attachments
from integration.lab.example_host import hold
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.verbs import ended, stopped

IDS = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")


class Two:
    """Two installations on one host, each with a state and a run directory of its own."""

    def __init__(self, base: Path, firewall: str) -> None:
        self.base = base
        self.state, self.other_state = base / "one", base / "two"
        self.one = self.program("one", "run-one", firewall)
        self.two = self.program("two", "run-two", firewall)

    def program(self, state: str, run: str, firewall: str) -> Program:
        return Forked(
            HVTX_STATE_DIR=str(self.base / state), HVTX_RUN_DIR=str(self.base / run),
            HVTX_FIREWALL=firewall,
        )  # fmt: skip

    def peopled(self) -> str:
        """A network and a VM of the first; its installation."""
        self.one("network", "create", "net", *IDS)
        self.one("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        mark: str = self.one.vm("web")["resources"][0]["mark"]
        return mark.split(":")[2]

    def lose(self) -> None:
        shutil.rmtree(self.state)


@pytest.fixture(params=BACKENDS)
def both(tmp_path: Path, request: pytest.FixtureRequest) -> Two:
    preload()
    return Two(tmp_path, request.param)


@pytest.fixture
def nft(tmp_path: Path) -> Iterator[Two]:
    preload()
    yield Two(tmp_path, "nftables")


def refused(two: Two, lost: str, words: str) -> None:
    """Exit 4 with these words, nothing to delete in the plan, and the host as it was."""
    before = lab.dump()
    plan = two.two("gc", "--plan", "--installation", lost, "--json").json()
    assert {item["action"] for item in plan["items"]} == {"skip"}
    told = two.two("gc", "--apply", "--installation", lost, "--yes", code=4).err
    assert words in told
    lives = words.startswith(("a process of it lives", "a container has"))
    by_hand = lives or " is held open by" in words
    assert ("end these yourself" in told) == by_hand
    assert ("use its own hvtx" in told) != by_hand
    assert lab.difference(before, lab.dump()) == ""


def test_remains_of_a_lost_store_go(both: Two) -> None:
    """Shown, explained, and removed by a person's word: the host is as before the installation."""
    before = host()
    lost = both.peopled()
    shown = both.one.vm("web")
    pid, device = shown["pid"], shown["interfaces"][0]["device"]
    both.lose()
    refused(both, lost, "a process of it lives: sleep")
    told = both.two("explain", device, "--json").json()
    assert "lives" in str(told["evidence"])
    assert "its own hvtx" not in told["why"], "which is gone"
    assert "end its processes yourself" in told["why"]
    assert f"gc --apply --installation {lost} --yes" in told["why"]
    words = {"COMP_WORDS": "hvtx gc --installation "}
    for shell, word in (("bash", "3"), ("zsh", "3"), ("fish", "")):
        asked = {**words, "COMP_CWORD": word, "_HVTX_COMPLETE": f"{shell}_complete"}
        assert lost in both.two(**asked).out, shell
    lab.end(pid)
    told = both.two("explain", device, "--json").json()
    assert told["owner"] == "other-installation"
    assert f"gc --apply --installation {lost} --yes" in told["why"]
    assert any("is gone" in line for line in told["evidence"])
    plan = both.two("gc", "--plan", "--installation", lost, "--json", "--detailed-exitcode", code=2)
    assert {(i["action"], i["reason"]) for i in plan.json()["items"]} == {
        ("delete", "other-installation")
    }
    assert plan.json()["installation"] == lost
    for argv in (("--apply",), ("--apply", "--json")):
        assert "--yes" in both.two("gc", *argv, "--installation", lost, code=2).err
    done = both.two("gc", "--apply", "--installation", lost, "--yes", "--json").json()
    kept = [item["message"] for item in done["items"] if item["outcome"] != "done"]
    assert kept == []
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0")
    assert lab.difference(before, host()) == ""
    log = both.two("log", "--event", "removed", "--json").json()["entries"]
    assert {(e["reason"], e["verb"]) for e in log} == {("other-installation", "gc")}
    assert len(log) == len(done["items"])
    assert both.two.is_clean()
    both.two("gc", "--plan", "--installation", lost, code=3)


def test_the_dnsmasq_of_a_lost_store_is_listed_and_goes(
    nft: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown before, told afterwards; another installation's serves on."""
    monkeypatch.setenv("HVTX_DHCP", "auto")
    lost = nft.peopled()
    [theirs] = services()
    nft.two("network", "create", "mine", "--subnet", "10.78.0.0/24")
    lab.end(nft.one.vm("web")["pid"])
    nft.lose()

    def listed() -> list[tuple[str, str]]:
        plan = nft.two("gc", "--plan", "--installation", lost, "--json").json()
        return [(i["key"], i["action"]) for i in plan["items"] if i["kind"] == "process"]

    assert listed() == [(f"dnsmasq, pid {theirs}", "delete")]
    assert theirs in services(), "a plan ends nothing"
    os.kill(theirs, signal.SIGSTOP)  # one that hears of nothing goes as well
    done = nft.two("gc", "--apply", "--installation", lost, "--yes", "--json").json()
    assert {item["outcome"] for item in done["items"]} == {"done"}
    [mine] = services()
    assert mine != theirs
    nft.two("gc", "--plan", "--installation", lost, code=3)
    gone = nft.two("log", "--event", "removed", "--json").json()["entries"]
    assert [e["key"] for e in gone if e["kind"] == "process"] == [f"dnsmasq, pid {theirs}"]
    nft.two("network", "rm", "mine")
    assert services() == []


def test_a_dnsmasq_alone_tells_whose_it_is(nft: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is left: its run directory tells where the store is, and so whether it lives."""
    monkeypatch.setenv("HVTX_DHCP", "auto")
    lost = nft.peopled()
    lab.end(nft.one.vm("web")["pid"])
    for link in lab.dump()["links"]:  # type: ignore[attr-defined]
        if link["ifname"].startswith("hv"):
            lab.run("ip", "link", "del", link["ifname"])
    lab.run("nft", "flush", "ruleset")
    [pid] = services()
    refused(nft, lost, "its store is")
    assert services() == [pid]
    nft.lose()
    nft.two("gc", "--apply", "--installation", lost, "--yes")
    assert services() == []


def test_an_installation_that_lives_stays(both: Two) -> None:
    """With a VM; without one; with nothing but its store and a network: never, from anywhere."""
    lost = both.peopled()
    both.two("network", "create", "mine", "--subnet", "10.78.0.0/24")
    refused(both, lost, "its store is")
    both.one("vm", "stop", "web")
    refused(both, lost, "its store is")
    both.one("vm", "rm", "web")
    refused(both, lost, "its store is")
    moved = both.base / "moved"
    both.state.rename(moved)
    at_home = both.program("moved", "run-one", "auto")
    at_home("vm", "create", "more", "--network", "net", *SLEEP)  # it tells where it is now
    refused(both, lost, str(moved))
    at_home("vm", "rm", "more")
    at_home("network", "rm", "net")
    both.two("network", "rm", "mine")


def test_a_store_that_cannot_be_looked_at_lives(nft: Two) -> None:
    """Damaged, or on a disk that is not there: nobody knows, so nothing goes."""
    lost = nft.peopled()
    lab.end(nft.one.vm("web")["pid"])
    database = nft.state / "hvtx.db"
    content = database.read_bytes()
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    database.write_bytes(b"noise" * 1000)
    refused(nft, lost, "cannot be read")
    database.write_bytes(content)
    refused(nft, lost, "its store is")
    table = f"bridge hvtx-{lost} store"
    lab.run("nft", f'delete chain {table}; add chain {table} {{ comment "1:2:/mnt/x/hvtx.db"; }}')
    nft.lose()
    shutil.rmtree(nft.base / "run-one")
    refused(nft, lost, "is its disk mounted?")
    lab.run("nft", f"delete chain {table}")
    refused(nft, lost, "nothing tells where its store was")


def test_a_new_store_in_the_place_of_the_lost_one(nft: Two) -> None:
    """The usual case: the directory was emptied, and hvtx made a store anew in it."""
    lost = nft.peopled()
    lab.end(nft.one.vm("web")["pid"])
    nft.lose()
    nft.one("network", "create", "other", "--subnet", "10.79.0.0/24")
    before = nft.one("network", "show", "other", "--json").json()
    told = nft.one("gc", "--apply", "--installation", lost, "--yes")
    assert "0 failed, 0 skipped" in told.out
    assert nft.one("network", "show", "other", "--json").json() == before
    assert nft.one.is_clean()
    own = before["resources"][0]["mark"].split(":")[2]
    nft.one("gc", "--plan", "--installation", own, code=4)
    nft.one("network", "rm", "other")
    assert lab.dump()["nft"] == []


def test_what_others_use_of_it_stays(nft: Two) -> None:
    """A device that somebody has open keeps all; an address on the bridge keeps the bridge."""
    lost = nft.peopled()
    shown = nft.one.vm("web")
    lab.end(shown["pid"])
    nft.lose()
    device = shown["interfaces"][0]["device"]
    holder = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(holder, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x1002))
    refused(nft, lost, f"{device} is held open by")
    os.close(holder)
    bridge = next(n["ifname"] for n in lab.dump()["links"] if n["ifname"].startswith("hvbr"))  # type: ignore[attr-defined]
    lab.run("ip", "addr", "add", "192.0.2.77/32", "dev", bridge)
    nft.two("gc", "--apply", "--installation", lost, "--yes")
    assert "192.0.2.77" in lab.run("ip", "addr", "show", "dev", bridge)
    left = nft.two("gc", "--plan", "--installation", lost, "--json").json()["items"]
    assert {(i["kind"], i["reason"]) for i in left} == {
        ("bridge", "foreign-dependents"), ("filter", "other-installation"),
    }  # fmt: skip
    lab.run("ip", "addr", "del", "192.0.2.77/32", "dev", bridge)
    nft.two("gc", "--apply", "--installation", lost, "--yes")
    assert [link["ifname"] for link in lab.dump()["links"]] == ["lo"]  # type: ignore[attr-defined]
    assert lab.dump()["nft"] == []


def test_a_container_that_lives_keeps_all(both: Two) -> None:
    """Its rules, its pair and its bridge, with what dead VMs left; once it has ended all goes."""
    before = host()
    lost = both.peopled()
    attachments.box()
    try:
        words = both.one.environment
        with Host(
            state_dir=words["HVTX_STATE_DIR"], run_dir=words["HVTX_RUN_DIR"],
            firewall=words["HVTX_FIREWALL"],
        ) as library:  # fmt: skip
            pair = library.attachments.add(attachments.asked(9090)).host_device
        lab.end(both.one.vm("web")["pid"])
        both.lose()
        refused(both, lost, f"a container has an interface of it: {pair}")
        told = both.two("explain", pair, "--json").json()
        assert f"a container has an interface of it: {pair}" in told["evidence"]
    finally:
        attachments.end_boxes()
    done = both.two("gc", "--apply", "--installation", lost, "--yes", "--json").json()
    assert {item["outcome"] for item in done["items"]} == {"done"}
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0")
    assert lab.difference(before, host()) == ""


def test_who_cannot_be_seen_keeps_all_by_its_device(nft: Two) -> None:
    """hvtx in a pid namespace of its own sees no process of the host's; the device tells."""
    lost = nft.peopled()
    shown = nft.one.vm("web")
    lab.end(shown["pid"])
    nft.lose()
    device = shown["interfaces"][0]["device"]
    holder = hold(device)
    before = lab.dump()
    command = ["gc", "--apply", "--installation", lost, "--yes"]
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "hvtx", *command]
    try:
        ran = subprocess.run(
            inside,
            env=os.environ | nft.two.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 4, ran
        assert f"{device} is held open by some process" in ran.stderr
        assert lab.difference(before, lab.dump()) == ""
    finally:
        os.close(holder)
    nft.two(*command)
    assert lab.dump()["nft"] == []


def test_who_takes_a_device_meanwhile_keeps_what_is_left(nft: Two) -> None:
    """After all of them were asked, and one has gone: no rule goes."""
    lost = nft.peopled()
    nft.one("vm", "run", "more", "--network", "net", *SLEEP)
    shown = [nft.one.vm(name) for name in ("web", "more")]
    for one in shown:
        lab.end(one["pid"])
    nft.lose()
    argv = ("gc", "--apply", "--installation", lost, "--yes")
    asked = stopped(nft.two, "removed:lost", *argv)
    rules, there = lab.dump()["nft"], lab.run("ip", "-o", "link")
    (left,) = [d for one in shown if (d := one["interfaces"][0]["device"]) in there]
    holder = hold(left)
    try:
        ended(asked, signal.SIGCONT)
        assert left in lab.run("ip", "-o", "link")
        assert lab.dump()["nft"] == rules
        refused(nft, lost, f"{left} is held open by")
    finally:
        os.close(holder)
    nft.two(*argv)
    assert lab.dump()["nft"] == []


def test_a_killed_removal_is_finished_by_the_next(nft: Two) -> None:
    """SIGKILL after each thing: the rest is still there to be named, and goes."""
    lost = nft.peopled()
    lab.end(nft.one.vm("web")["pid"])
    nft.lose()
    argv = ("gc", "--apply", "--installation", lost, "--yes")
    kills = 0
    while True:
        ran = nft.two(*argv, code=None, HVTX_FAILPOINT="removed:lost:kill:1")
        if ran.code != -9:
            break
        kills += 1
        assert kills < 40
    assert kills > 5
    assert ran.code == 3, ran  # nothing was left to be named
    nft.two("recover")
    assert json.loads(nft.two("intents", "--json").out)["operations"] == []
    assert lab.dump()["nft"] == []


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--plan", "--installation", "zzz"), 2),
        (("--plan", "--installation", ""), 2),
        (("--plan", "--installation", "aaaaaaaaaa", "--yes"), 2),
        (("--apply", "--installation", "aaaaaaaaaa", "--yes", "--unrecorded"), 2),
        (("--apply", "--installation", "aaaaaaaaaa", "--yes", "FILE"), 2),
        (("--plan", "--installation", "aaaaaaaaaa", "--heuristic"), 2),
        (("--plan", "--installation", "aaaaaaaaaa", "--all"), 2),
        (("--plan", "--installation", "aaaaaaaaaa"), 3),
        (("--apply", "--installation", "aaaaaaaaaa", "--yes"), 3),
    ],
)
def test_words_that_make_no_sense(nft: Two, argv: tuple[str, ...], code: int) -> None:
    assert nft.two("gc", *argv, code=code).err.startswith("error: ")
    assert not nft.other_state.exists()  # what is refused does not even make a store
