"""What an error tells to do is done, the command is given again, and then it works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from integration import lab
from integration.lab.program import Forked, Program, Ran, preload

SLEEP = ("--", "sleep", "600")
TOOLS = ("hvtx", "ip", "nft", "iptables-legacy", "ip6tables-legacy", "kill", "tc", "sysctl")


@pytest.fixture
def backend() -> str:
    """Most of it is the same on both."""
    return "nftables"


@pytest.fixture
def hvtx(backend: str) -> Iterator[Program]:
    """A network with one running VM that publishes a port."""
    preload()
    program = Forked(HVTX_FIREWALL=backend)
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    program("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    yield program
    for vm in program("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


def commands(hint: str) -> list[str]:
    """The commands in a hint, as a person takes them out of it."""
    found = []
    for piece in hint.split("; "):
        words = piece.rpartition(": ")[2] if not piece.startswith(TOOLS) else piece
        if words.startswith(TOOLS):
            found.append(words)
    return found


def hint_of(ran: Ran) -> str:
    """The hint of a failed command."""
    told = re.search(r"^hint: (.*)$", ran.err, re.MULTILINE)
    assert told is not None, ran.err
    return told[1]


def follow(hvtx: Program, hint: str) -> None:
    """Do what a hint says, in a shell, its own commands with our program."""
    found = commands(hint)
    assert found, hint
    for words in found:
        if words.startswith("hvtx "):
            plain = re.split(r" (?:tells|shows|stops|releases|tries|goes) ", words[5:])[0]
            hvtx(*plain.split())
        else:
            done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (words, done.stderr)


# -- what keeps a VM's things, by the name of the case -----------------------------------------------


def _rename(hvtx: Program) -> None:
    lab.run("ip", "link", "set", "dev", hvtx.device("web"), "alias", "")


def _other_alias(hvtx: Program) -> None:
    lab.run("ip", "link", "set", "dev", hvtx.device("web"), "alias", "the uplink")


def _replaced(hvtx: Program) -> None:
    """Somebody removed the device and made another of its name."""
    device = hvtx.device("web")
    lab.run("ip", "link", "del", "dev", device)
    lab.run("ip", "tuntap", "add", "dev", device, "mode", "tap")


def _address(hvtx: Program) -> None:
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", hvtx.device("web"))


def _bare_rule(hvtx: Program) -> None:
    """The mark was taken off what publishes the port."""
    if hvtx.environment["HVTX_FIREWALL"] == "iptables":
        saved = lab.run("iptables-legacy", "-t", "nat", "-S")
        rule = next(line for line in saved.splitlines() if "--dport 8080" in line)
        bare = re.sub(r' -m comment --comment "?[^ "]*"?', "", rule)
        lab.run("sh", "-c", f"iptables-legacy -t nat -D {rule[3:]}")
        lab.run("sh", "-c", f"iptables-legacy -t nat -A {bare[3:]}")
        return
    for item in json.loads(lab.run("nft", "-j", "list", "ruleset"))["nftables"]:
        found = item.get("map")
        if found and found["name"] == "dnat4_any":
            place = f"{found['family']} {found['table']} dnat4_any"
            lab.run("nft", f"delete element {place} {{ tcp . 8080 }}")
            lab.run("nft", f"add element {place} {{ tcp . 8080 : 10.77.0.2 . 80 }}")


BROKEN: dict[str, Callable[[Program], None]] = {
    "no alias": _rename,
    "another alias": _other_alias,
    "another device": _replaced,
    "an address on it": _address,
    "a rule without its mark": _bare_rule,
}


class Verb(NamedTuple):
    """A command that fails beside what was broken, and the code it fails with."""

    words: tuple[str, ...]
    code: int


STOP = ("vm", "stop", "web", "--timeout", "1")
VERBS = {
    "stop": Verb(STOP, 9),
    "restart": Verb(("vm", "restart", "web", "--timeout", "1"), 9),
    "rm": Verb(("vm", "rm", "web", "--force"), 9),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_hint_leads_on_to_what_was_wanted(hvtx: Program, verb: str) -> None:
    """The device lost its mark: what is told to be done gives it back, and the command works."""
    BROKEN["no alias"](hvtx)
    words, code = VERBS[verb]
    follow(hvtx, hint_of(hvtx(*words, code=code)))
    hvtx(*words)
    if verb != "rm":
        assert hvtx.vm("web")["state"] == ("running" if verb == "restart" else "defined")
    assert hvtx.is_clean()


@pytest.mark.parametrize(
    ("broken", "backend"),
    [*((name, "nftables") for name in BROKEN), ("a rule without its mark", "iptables")],
)
def test_doctor_start_and_gc_tell_of_what_stands_for_good(hvtx: Program, broken: str) -> None:
    """The VM is down, and cannot come up: whoever is asked says what lets it."""
    BROKEN[broken](hvtx)
    hvtx(*STOP, code=9)
    told = json.loads(hvtx("doctor", "--json", code=1).out)["findings"]
    wrong = [f for f in told if f["check"] == "damage" and f["level"] == "error"]
    wrong = [f for f in wrong if "the remains of" in f["message"]]
    assert [f["message"].partition(" cannot")[0] for f in wrong] == ["the remains of VM 'web'"]
    refused = hvtx("vm", "start", "web", code=4)
    assert hint_of(refused).endswith("hvtx vm start web")
    steps = commands(hint_of(refused))[:-1]
    assert steps == commands(str(wrong[0]["hint"]))[:-1]
    assert hvtx("gc", "--plan", "--detailed-exitcode").code == 0  # there is nothing it may do
    if broken in ("no alias", "another alias", "a rule without its mark"):
        assert steps[0] in hvtx("gc", "--plan").out
    follow(hvtx, hint_of(refused))
    assert hvtx.vm("web")["state"] == "running"
    after = json.loads(hvtx("doctor", "--json", code=None).out)["findings"]
    assert {f["level"] for f in after if f["check"] == "damage"} == {"ok"}


def test_a_process_that_holds_the_device_is_named(hvtx: Program) -> None:
    """Somebody else has the TAP open: how he is ended, and gc goes on."""
    device = hvtx.device("web")
    lab.end(hvtx.vm("web")["pid"])
    script = (
        "import fcntl, struct, os, time\n"
        "d = os.open('/dev/net/tun', os.O_RDWR)\n"
        f"fcntl.ioctl(d, 0x400454CA, struct.pack('16sH22x', {device!r}.encode(), 0x5002))\n"
        "print('has it', flush=True)\n"
        "time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=-1)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has it\n"
        ran = hvtx(*STOP, code=9)
        assert f"kill {holder.pid}" in hint_of(ran)
        lab.end(holder.pid)
        follow(hvtx, hint_of(ran).replace(f"kill {holder.pid}; ", ""))
        assert hvtx.vm("web")["state"] == "defined"
    finally:
        holder.kill()
        holder.communicate()


def test_a_vm_in_another_state_is_told_with_the_whole_command(hvtx: Program) -> None:
    """With its name: what is typed as it stands there does what was wanted, or comes nearer."""
    hvtx("vm", "create", "outer", "--network", "net", "--hypervisor", "external")
    assert hint_of(hvtx("vm", "start", "web", code=4)) == "hvtx vm restart web stops it first"
    assert hint_of(hvtx("vm", "rm", "web", code=4)) == "hvtx vm rm web --force"
    follow(hvtx, hint_of(hvtx("vm", "console", "outer", code=4)))
    follow(hvtx, hint_of(hvtx("vm", "start", "outer", code=4)))
    assert hvtx.vm("outer")["state"] == "defined"
    hvtx("vm", "start", "outer")
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        attach = ("vm", "attach", "outer", "--pid", str(sleeper.pid))
        hvtx(*attach)
        follow(hvtx, hint_of(hvtx(*attach, code=4)))
        follow(hvtx, hint_of(hvtx("vm", "stop", "outer", code=4)))
        assert hvtx.vm("outer")["state"] == "defined"
        follow(hvtx, hint_of(hvtx(*attach, code=4)))
        assert hvtx.vm("outer")["state"] == "unknown"
    finally:
        sleeper.kill()
        sleeper.wait()


def test_what_is_printed_acts_on_the_store_that_was_named(hvtx: Program, tmp_path: Path) -> None:
    """By options before the command: copied as it stands, a command does not go to another store."""
    places = ("--state-dir", str(tmp_path / "my lab"), "--run-dir", str(tmp_path / "run"))
    hvtx(*places, "network", "create", "lab", "--subnet", "10.78.0.0/24")
    hvtx(*places, "vm", "run", "web", "--network", "lab", *SLEEP)
    for words in commands(hint_of(hvtx(*places, "network", "rm", "lab", code=4))):
        assert words.startswith(f"hvtx {shlex.join(places)} ")
        hvtx(*shlex.split(words)[1:])
    assert hvtx(*places, "vm", "ls", "--json").json()["vms"] == []
    assert hvtx.vm("web")["state"] == "running", "that of the other store"


# -- networks ----------------------------------------------------------------------------------------


def _bridge(hvtx: Program) -> str:
    bridge: str = hvtx("network", "show", "net", "--json").json()["bridge"]
    return bridge


def _bridge_alias(hvtx: Program) -> None:
    lab.run("ip", "link", "set", "dev", _bridge(hvtx), "alias", "the uplink")


def _bridge_port(hvtx: Program) -> None:
    lab.run("ip", "link", "add", "strange0", "type", "veth", "peer", "strange1")
    lab.run("ip", "link", "set", "dev", "strange0", "master", _bridge(hvtx))


def _bridge_upper(hvtx: Program) -> None:
    lab.run("ip", "link", "add", "link", _bridge(hvtx), "name", "upper0",
            "type", "macvlan")  # fmt: skip


def _bridge_address(hvtx: Program) -> None:
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", _bridge(hvtx))


def _nothing(_: Program) -> None:
    """Its VM alone."""


BRIDGES = {
    "a VM": _nothing,
    "another alias": _bridge_alias,
    "a stranger's port": _bridge_port,
    "a device on it": _bridge_upper,
    "an address on it": _bridge_address,
}


@pytest.mark.parametrize("broken", BRIDGES)
def test_a_network_goes_when_its_hint_is_followed(hvtx: Program, broken: str) -> None:
    """First its VMs, then what stands on its bridge: two hints at most, each leads on."""
    BRIDGES[broken](hvtx)
    first = hint_of(hvtx("network", "rm", "net", code=4))
    assert commands(first) == ["hvtx vm rm web --force", "hvtx network rm net"]
    hvtx("vm", "rm", "web", "--force")
    ran = hvtx("network", "rm", "net", code=None)
    if broken == "a VM":
        assert ran.code == 0
    else:
        assert ran.code in (4, 9), ran
        follow(hvtx, hint_of(ran))
    hvtx("network", "show", "net", code=3)
    assert hvtx.is_clean()


# -- what programs see of all this -------------------------------------------------------------------


def _gone(hvtx: Program) -> None:
    lab.run("ip", "link", "del", "dev", hvtx.device("web"))


def _flushed(_: Program) -> None:
    lab.run("nft", "flush", "ruleset")


def _crashed(hvtx: Program) -> None:
    lab.end(hvtx.vm("web")["pid"])


def _kept(hvtx: Program) -> None:
    _rename(hvtx)
    hvtx(*STOP, code=9)


def _no_bridge(hvtx: Program) -> None:
    lab.run("ip", "link", "del", "dev", _bridge(hvtx))


def _half_made(hvtx: Program) -> None:
    hvtx("vm", "create", "half", "--network", "net", *SLEEP)
    hvtx("vm", "start", "half", code=-9, HVTX_FAILPOINT="acted:filter:kill")


STATES = {  # what happened: the exit codes of `gc --plan --detailed-exitcode` and of `doctor`
    "nothing": (_nothing, 0, 0),
    "the mark is lost": (_rename, 0, 1),
    "the device is gone": (_gone, 0, 1),
    "the rules are gone": (_flushed, 0, 1),
    "the bridge is gone": (_no_bridge, 0, 1),
    "the VM died": (_crashed, 2, 0),
    "a stop left something": (_kept, 0, 1),
    "a start was killed": (_half_made, 2, 0),
}


@pytest.mark.parametrize("state", STATES)
def test_exit_codes_tell_a_program_the_same(hvtx: Program, state: str) -> None:
    """gc's says whether it has anything to do, doctor's whether anything keeps VMs from working."""
    happens, plan, doctor = STATES[state]
    happens(hvtx)
    assert hvtx("gc", "--plan", "--detailed-exitcode", code=None).code == plan
    ran = hvtx("doctor", code=None)
    assert ran.code == doctor, ran.out
