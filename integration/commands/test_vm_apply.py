"""`vm apply`: a described set of VMs and networks, planned, reviewed, made, and made no second time."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host
from hvtx.cli.described import read
from hvtx.cli.described import request as request_of
from integration import lab
from integration.lab import witness
from integration.lab.program import Program, Ran
from integration.lab.verbs import BACKENDS, conflict, hvtx, state
from integration.lab.vms import SLEEP
from integration.lab.waiting import until

__all__ = ["hvtx"]  # the fixture

LAB = """
[networks.lab]
subnet = ["10.77.0.0/24", "fd77::/64"]
"""
WEB = """
[vms.web]
network = "lab"
publish = ["8080:80"]
memory = 512
command = ["sleep", "600"]
"""
DB = """
[vms.db]
network = ["lab"]
ip = ["10.77.0.9", "fd77::9"]
mac = "02:11:22:33:44:55"
command = ["sleep", "600"]
"""


class Set:
    """A file of a set, and `vm apply` of it."""

    def __init__(self, hvtx: Program, path: Path) -> None:
        self.hvtx, self.path = hvtx, path

    def write(self, *texts: str) -> None:
        self.path.write_text("".join(texts))

    def __call__(self, *more: str, code: int = 0) -> Ran:
        return self.hvtx("vm", "apply", "-f", str(self.path), *more, code=code)

    def plan(self, *more: str) -> list[tuple[str, str, str]]:
        """What a plan does or refuses: action, name, reason."""
        with witness.unchanged():
            return acts(self("--plan", "--json", *more).json())

    def settled(self) -> None:
        """A second run has nothing to do, and does nothing."""
        with witness.unchanged():
            assert acts(self("--yes", "--json").json()) == []
        assert "nothing to do" in self("--yes").out
        self("--plan", "--detailed-exitcode")
        assert self.hvtx.is_clean()


def acts(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (i["action"], i["name"], i["reason"]) for i in document["items"] if i["action"] != "skip"
    ]


@pytest.fixture
def described(hvtx: Program, tmp_path: Path) -> Iterator[Set]:
    yield Set(hvtx, tmp_path / "vms.toml")


def pid(hvtx: Program, name: str) -> int:
    found: int = hvtx.vm(name)["pid"]
    return found


# -- made, and no second time ----------------------------------------------------------------------


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_set_is_made_once(described: Set, firewall: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks, VMs with what they ask for, in an order in which all can be had; then nothing."""
    monkeypatch.setenv("HVTX_FIREWALL", firewall)
    described.write(
        LAB, WEB.replace("publish", "memory = 128\npublish").replace("memory = 512\n", ""), DB
    )
    hvtx = described.hvtx
    assert described.plan() == [
        ("create", "lab", "absent"), ("create", "db", "absent"), ("create", "web", "absent"),
        ("start", "web", "down"), ("start", "db", "down"),
    ]  # fmt: skip
    done = described("--yes", "--json").json()
    assert {i["outcome"] for i in done["items"]} == {"done"}
    assert done["applied"] is True
    assert done["summary"] == {
        "create": 3, "change": 0, "stop": 0, "remove": 0, "start": 2, "refuse": 0, "skip": 0,
    }  # fmt: skip
    db = hvtx.vm("db")["interfaces"][0]
    assert (db["ipv4"], db["ipv6"], db["mac"]) == ("10.77.0.9", "fd77::9", "02:11:22:33:44:55")
    assert [state(hvtx, name) for name in ("web", "db")] == ["running", "running"]
    assert hvtx("network", "show", "lab", "--json").json()["firewall"] == firewall
    described.settled()


def test_it_is_the_vm_that_create_makes(described: Set) -> None:
    """The same options, typed and in a table, make the same record."""
    hvtx = described.hvtx
    hvtx("network", "create", "lab", "--subnet", "10.77.0.0/24", "--egress", "internet")
    key = described.path.with_name("key.pub")
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIJUS0+Z0hCV7b0XwmZyvtmlFw0lJlUwzq0BR1n2GpDfL"
    key.write_text(f"ssh-ed25519 {blob} me\n")
    data = described.path.with_name("user-data")
    data.write_text("#cloud-config\n")
    given = ("--network", "lab", "--cpus", "2", "--queues", "2", "--limit", "in=10mbit", "--deny",
             "192.0.2.0/24", "--egress", "none", "--autostart", "--ssh-key", str(key),
             "--user-data", str(data))  # fmt: skip
    hvtx("vm", "create", "typed", *given, "--", "sleep", "600")
    described.write(
        """
        [vms.typed]
        network = "lab"
        cpus = 2
        queues = 2
        limit = "in=10mbit"
        deny = ["192.0.2.0/24"]
        egress = "none"
        autostart = true
        ssh_key = "key.pub"
        user-data = "user-data"
        start = false
        command = ["sleep", "600"]
        """
    )
    plan = described("--plan", "--json").json()
    different = {option for item in plan["items"] for option in item["changes"]}
    assert different == {"directory"}  # it was typed elsewhere than where the file is
    hvtx("vm", "rm", "typed")
    described("--yes")
    assert state(hvtx, "typed") == "defined"
    described.settled()


def test_what_is_not_in_the_file_is_left_alone(described: Set) -> None:
    hvtx = described.hvtx
    described.write(LAB, WEB, DB)
    described("--yes")
    before = pid(hvtx, "db")
    described.write(LAB, WEB)
    described.settled()
    assert pid(hvtx, "db") == before


def test_a_vm_that_is_down_is_started_unless_it_is_said(described: Set) -> None:
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes", "--no-start")
    assert state(hvtx) == "defined"
    assert described.plan() == [("start", "web", "down")]
    assert described.plan("--no-start") == []
    described("--yes")
    lab.end(pid(hvtx, "web"))
    assert state(hvtx) == "crashed"
    described("--yes")
    assert state(hvtx) == "running"
    described.settled()


def test_the_network_default_is_shown_and_made(described: Set) -> None:
    described.write('[vms.web]\ncommand = ["sleep", "600"]\n')
    assert described.plan()[0] == ("create", "default", "absent")
    described("--yes")
    described.settled()


def test_several_files_and_standard_input(described: Set, tmp_path: Path) -> None:
    other = tmp_path / "db.toml"
    other.write_text(DB)
    described.write(LAB)
    with witness.unchanged():
        described("-f", str(other), "-f", str(other), "--yes", code=2)
        twice = tmp_path / "twice.toml"
        twice.write_text(DB)
        ran = described("-f", str(other), "-f", str(twice), "--yes", code=2)
        assert "db.toml" in ran.err
        assert "twice.toml: [vms.db]" in ran.err
    described("-f", str(other), "--yes")
    assert state(described.hvtx, "db") == "running"
    piped = subprocess.run(
        [sys.executable, "-m", "hvtx", "vm", "apply", "-f", "-", "--yes"],
        input=WEB, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert piped.returncode == 0, piped
    assert state(described.hvtx) == "running"


# -- changes ---------------------------------------------------------------------------------------


def test_what_can_be_changed_while_it_runs_is(described: Set) -> None:
    """Ports, limits, what guests may reach: the VM's process and devices stay."""
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes")
    before = pid(hvtx, "web"), hvtx.device("web")
    described.write(
        LAB,
        'egress = "internet"\n',
        WEB.replace("8080:80", "8081:80").replace(
            "memory", 'limit = "out=10mbit"\ndeny = "192.0.2.1"\nmemory'
        ),
    )
    assert described.plan() == [("change", "lab", "differs"), ("change", "web", "differs")]
    described("--yes")
    assert (pid(hvtx, "web"), hvtx.device("web")) == before
    shown = hvtx.vm("web")
    assert [p["host_port"] for p in shown["interfaces"][0]["publish"]] == [8081]
    described.settled()
    described.write(LAB, WEB)  # what is not there is as `create` makes it
    described("--yes")
    described.settled()
    assert (pid(hvtx, "web"), hvtx.device("web")) == before


def test_a_vm_is_stopped_only_where_that_was_allowed(described: Set) -> None:
    """Without --restart the whole plan is refused, other steps too."""
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes")
    before = pid(hvtx, "web")
    described.write(LAB, WEB.replace("512", "256"), DB)
    assert ("refuse", "web", "needs-restart") in described.plan()
    with witness.unchanged():
        ran = described("--yes", code=4)
    assert "--restart" in ran.err
    assert pid(hvtx, "web") == before
    assert described.plan("--restart") == [
        ("stop", "web", "restart"), ("change", "web", "differs"), ("create", "db", "absent"),
        ("start", "web", "restart"), ("start", "db", "down"),
    ]  # fmt: skip
    described("--yes", "--restart")
    assert hvtx("vm", "show", "web", "--json").json()["pid"] != before
    described.settled()


def test_a_vm_that_is_down_is_changed_and_started(described: Set) -> None:
    described.write(LAB, WEB)
    described("--yes", "--no-start")
    described.write(LAB, WEB.replace("512", "256"))
    described("--yes")
    described.settled()


@pytest.mark.parametrize(
    ("old", "new", "option"),
    [
        ('ip = ["10.77.0.9", "fd77::9"]', 'ip = "10.77.0.8"', "ip"),
        ("02:11:22:33:44:55", "02:11:22:33:44:66", "mac"),
        ('command = ["sleep", "600"]', 'hypervisor = "external"', "hypervisor"),
        ('network = ["lab"]', 'network = ["lab", "two"]', "network"),
    ],
)
def test_a_vm_is_replaced_only_where_that_was_allowed(
    described: Set, old: str, new: str, option: str
) -> None:
    hvtx = described.hvtx
    two = '[networks.two]\nsubnet = "10.78.0.0/24"\n'
    described.write(LAB, two, DB)
    described("--yes")
    identity = hvtx.vm("db")["id"]
    described.write(LAB, two, DB.replace(old, new))
    with witness.unchanged():
        ran = described("--yes", "--restart", "--json", code=4)
    item = next(i for i in ran.json()["items"] if i["action"] == "refuse")
    assert (item["reason"], option in item["changes"]) == ("needs-replace", True)
    described("--yes", "--replace")
    assert hvtx.vm("db")["id"] != identity
    described.settled()


def test_braces_that_are_meant_literally_stay_so(described: Set) -> None:
    """What a table spells is checked once; a change takes it as it is kept."""
    hvtx = described.hvtx
    text = '[vms.web]\nnetwork = "lab"\ncommand = ["sh", "-c", "echo {{ipv4}} NAME; sleep 600"]\n'
    for name in ("one", "two"):
        described.write(LAB, text.replace("NAME", name))
        described("--yes", "--restart")
        described.settled()
    assert "{ipv4} two" in hvtx("vm", "logs", "web").out


def test_a_network_is_replaced_only_without_vms(described: Set) -> None:
    hvtx = described.hvtx
    described.write(LAB, DB)
    described("--yes")
    other = LAB.replace("[", "[", 1) + "mtu = 1400\n"
    described.write(other)  # whether the set has the VM or not
    assert "hvtx vm rm db --force" in described("--yes", "--replace", code=4).err
    described.write(other, DB)
    assert described.plan("--replace") == [("refuse", "lab", "in-use")]
    with witness.unchanged():
        ran = described("--yes", "--replace", code=4)
    command = ran.err.partition("keep it as it is: hvtx ")[2].partition(";")[0].split()
    assert command == ["vm", "rm", "db", "--force"]
    hvtx(*command)
    assert described.plan()[-1] == ("refuse", "lab", "needs-replace")
    described("--yes", "--replace")
    assert hvtx("network", "show", "lab", "--json").json()["mtu"] == 1400
    described.settled()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('source = "192.0.2.9"\n', "192.0.2.9 is not this host's"),
        ('uplink = "none0"\n', "no device 'none0'"),
        ('bridge = "taken"\n', "taken exists already"),
        ("", "10.99.0.0/24 overlaps"),
    ],
    ids=["source", "uplink", "bridge", "subnet"],
)
def test_no_network_is_removed_for_one_that_cannot_be(
    described: Set, more: str, words: str
) -> None:
    lab.run("ip", "link", "add", "taken", "type", "bridge")
    lab.run("ip", "addr", "add", "10.99.0.1/24", "dev", "taken")
    lab.run("ip", "link", "set", "taken", "up")
    described.write(LAB)
    described("--yes")
    described.write(LAB.replace("10.77", "10.78" if more else "10.99"), more)
    with witness.unchanged():
        ran = described("--yes", "--replace", code=3 if "uplink" in more else 4)
    assert words in ran.err
    assert "[networks.lab]" in ran.err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('hypervisor = "qemu"\nstart = false\n', "nothing to run"),
        ('command = ["no-such-program"]\n', "no-such-program, is not on this host"),
    ],
)
def test_no_vm_is_stopped_for_one_that_nothing_here_runs(
    described: Set, table: str, words: str
) -> None:
    """`--restart` and `--replace` let a VM go for another, and not for none."""
    described.write(LAB, DB)
    described("--yes")
    described.write(LAB, '[vms.db]\nnetwork = "lab"\n', table)
    with witness.unchanged():
        ran = described("--yes", "--restart", "--replace", code=3)
    assert words in ran.err
    assert "[vms.db]" in ran.err


TAKEN = '\npublish = ["8089:80"]\n'
MOVED = '\nnetwork = ["lab", "two"]\n'
TWO = '[networks.two]\nsubnet = "10.78.0.0/24"\n'


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [("memory = 512", "memory = 256", "--restart"), ('\nnetwork = "lab"\n', MOVED, "--replace")],
)
def test_no_vm_is_stopped_for_a_port_that_it_cannot_have(
    described: Set, old: str, new: str, allowed: str
) -> None:
    """A program's, on the address that it asks for or on one of all; then it is had."""
    hvtx = described.hvtx
    described.write(LAB, TWO, WEB)
    described("--yes")
    before = pid(hvtx, "web")
    described.write(LAB, TWO, WEB.replace(old, new).replace('\npublish = ["8080:80"]\n', TAKEN))
    for address in ("0.0.0.0", "127.0.0.1"):
        with socket.create_server((address, 8089)), witness.unchanged():
            ran = described("--yes", allowed, code=4)
            assert "port 8089/tcp of this host is in use by a program" in ran.err
            assert "[vms.web]" in ran.err
    assert pid(hvtx, "web") == before
    described("--yes", allowed)
    assert pid(hvtx, "web") != before
    described.settled()


TWICE = 'mac = ["02:11:22:33:44:55", "02:11:22:33:44:55"]\n'


@pytest.mark.parametrize(
    ("case", "code", "words"),
    [
        ("a MAC twice", 2, "--mac 02:11:22:33:44:55 is given twice"),
        ("what another keeps", 4, "ip fd77::9 is VM db's on record"),
        ("a bridge's MAC", 4, "is that of network lab's bridge"),
        ("the host's own address", 4, "is this host's own"),
    ],
)
def test_no_vm_is_removed_for_one_that_cannot_be(
    described: Set, case: str, code: int, words: str
) -> None:
    """It is seen before anything is done, whatever the record, the set and the host say."""
    hvtx = described.hvtx
    described.write(LAB, TWO, WEB, DB)
    described("--yes")
    bridge = hvtx("network", "show", "lab", "--json").json()["bridge"]
    shown = json.loads(lab.run("ip", "-j", "link", "show", bridge))[0]["address"]
    lab.run("ip", "addr", "add", "10.77.0.8/32", "dev", "lo")
    new = {
        "a MAC twice": (WEB.replace('network = "lab"\n', MOVED.lstrip() + TWICE), ""),
        "what another keeps": (WEB + 'ip = "fd77::9"\n', DB.replace(', "fd77::9"', "")),
        "a bridge's MAC": (WEB + f'mac = "{shown}"\n', DB),
        "the host's own address": (WEB + 'ip = "10.77.0.8"\n', DB),
    }[case]
    described.write(LAB, TWO, *new)
    before = pid(hvtx, "web")
    with witness.unchanged():
        ran = described("--yes", "--replace", code=code)
    assert words in ran.err
    assert "[vms.web]" in ran.err
    assert pid(hvtx, "web") == before


def test_a_vm_that_could_not_be_made_anew_comes_back_from_the_history(described: Set) -> None:
    """Somebody takes its address while it is removed: the hint has the command, and it works."""
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes")
    had = hvtx.vm("web")["interfaces"]
    described.write(LAB, WEB + 'ip = "10.77.0.8"\n')
    argv = ("vm", "apply", "-f", str(described.path), "--yes", "--replace")
    with running_until(hvtx, *argv, at="intended:stop:2") as run:
        hvtx("vm", "create", "thief", "--network", "lab", "--ip", "10.77.0.8", *SLEEP)
        run.send_signal(signal.SIGCONT)
        told = run.communicate(timeout=60)[1]
    assert run.returncode == 9
    assert "hvtx vm create web --from-log" in told
    hvtx("vm", "create", "web", "--from-log")
    keys = ("ipv4", "ipv6", "mac", "publish")
    assert [{k: i[k] for k in keys} for i in hvtx.vm("web")["interfaces"]] == [
        {k: i[k] for k in keys} for i in had
    ]


@contextlib.contextmanager
def running_until(hvtx: Program, *argv: str, at: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has stopped at a failpoint."""
    given = {**os.environ, **hvtx.environment, "HVTX_FAILPOINT": at}
    run = subprocess.Popen(
        [sys.executable, "-m", "hvtx", *argv], env=given, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with run:
        until(
            "the stopped run", lambda: Path(f"/proc/{run.pid}/stat").read_text().split()[2] == "T"
        )
        yield run


def test_a_vm_that_is_stopped_for_it_may_take_anothers_port(described: Set) -> None:
    """What is held for a VM that gives it up is nobody's; nor is what is its own, in part."""
    described.write(LAB, WEB.replace("8080", "127.0.0.1:8080"), DB + 'publish = ["8081:80"]\n')
    described("--yes")
    new = WEB.replace('"8080:80"', '"8080:80", "8081:81"').replace("512", "256")
    described.write(LAB, new, DB)
    described("--yes", "--restart")
    described.settled()


def test_a_vm_whose_change_fails_is_started_again(described: Set) -> None:
    """As it was: it was stopped for a change that could not be."""
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes")
    before = pid(hvtx, "web")
    described.write(LAB, WEB.replace("512", "256"))
    argv = ("vm", "apply", "-f", str(described.path), "--yes", "--restart", "--json")
    ran = hvtx(*argv, code=9, HVTX_FAILPOINT="intended:error:2")
    assert [(i["action"], i["outcome"]) for i in ran.json()["items"] if i["action"] != "skip"] == [
        ("stop", "done"), ("change", "failed"), ("start", "done"),
    ]  # fmt: skip
    assert state(hvtx) == "running"
    assert pid(hvtx, "web") != before
    assert hvtx.vm("web")["memory"] == 512
    described("--yes", "--restart")
    described.settled()


@pytest.mark.parametrize("allowed", ["--restart", "--replace"])
def test_flows_that_may_go_on_keep_no_vm_down(described: Set, allowed: str) -> None:
    """They are its own again, as after `vm restart`; and nobody else's, so none is removed."""
    hvtx = described.hvtx
    described.write(LAB, WEB)
    described("--yes")
    mac = 'mac = "02:11:22:33:44:66"\n'
    described.write(LAB, WEB.replace("512", "256") if allowed == "--restart" else WEB + mac)
    argv = ("vm", "apply", "-f", str(described.path), "--yes", allowed)
    ran = hvtx(*argv, code=None, HVTX_FAILPOINT="flushing:error:1,flushing:error:2")
    assert state(hvtx) == "running"
    assert ran.code == (0 if allowed == "--restart" else 9), ran
    described("--yes", allowed)
    described.settled()


def test_networks_may_change_places(described: Set) -> None:
    """What one gives up another takes: all go before the first is made anew."""
    described.write('networks.a.subnet = "10.77.0.0/24"\nnetworks.b.subnet = "10.78.0.0/24"\n')
    described("--yes")
    described.write('networks.a.subnet = "10.78.0.0/24"\nnetworks.b.subnet = "10.77.0.0/24"\n')
    described("--yes", "--replace")
    described.settled()


def test_isolation_waits_until_no_vm_is_up(described: Set) -> None:
    described.write(LAB, DB)
    described("--yes")
    described.write(LAB, "isolate = true\n", DB)
    assert described.plan() == [("refuse", "lab", "in-use")]
    described.hvtx("vm", "stop", "db")
    assert described.plan() == [("change", "lab", "differs"), ("start", "db", "down")]
    described("--yes")
    described.settled()


def test_a_port_goes_from_one_vm_to_another(described: Set) -> None:
    """Who gives it up is changed first; two that would exchange theirs are refused."""
    green = WEB.replace("web", "green").replace("8080", "8081")
    described.write(LAB, green, WEB)
    described("--yes")
    described.write(LAB, green.replace("8081", "8080"), WEB.replace("8080", "8082"))
    assert described.plan() == [("change", "web", "differs"), ("change", "green", "differs")]
    described("--yes")
    described.settled()
    described.write(LAB, green.replace("8081", "8082"), WEB)
    with witness.unchanged():
        ran = described("--yes", code=4)
    assert "exchange" in ran.err


# -- what was reviewed -----------------------------------------------------------------------------


def test_a_saved_plan_does_what_was_reviewed_or_nothing(described: Set, tmp_path: Path) -> None:
    hvtx, saved = described.hvtx, str(tmp_path / "plan.json")
    described.write(LAB, WEB)
    shown = described("--plan", "--out", saved, "--json").json()
    kept = json.loads(Path(saved).read_text())
    assert {key: kept[key] for key in shown} == shown
    assert os.stat(saved).st_mode & 0o777 == 0o600
    described("--plan", "--detailed-exitcode", code=2)
    described.path.unlink()  # the plan holds what was described
    done = hvtx("vm", "apply", saved, "--json").json()
    assert done["plan_id"] == shown["plan_id"]
    assert state(hvtx) == "running"
    ran = conflict(hvtx, "vm", "apply", saved, code=8)
    assert "lab" in ran.err


def test_a_saved_plan_of_another_state_is_stale(described: Set, tmp_path: Path) -> None:
    hvtx, saved = described.hvtx, str(tmp_path / "plan.json")
    described.write(LAB, WEB)
    described("--yes")
    described.write(LAB, WEB.replace("8080", "8081"))
    described("--plan", "--out", saved)
    hvtx("vm", "set", "web", "--publish", "9000:90")  # would be taken away unseen
    ran = conflict(hvtx, "vm", "apply", saved, code=8)
    assert "web" in ran.err
    described.write(LAB, WEB)
    described("--plan", "--out", saved)
    hvtx("vm", "stop", "web")
    conflict(hvtx, "vm", "apply", saved, code=8)


def test_another_vm_of_the_name_is_not_what_was_planned(described: Set) -> None:
    """Somebody else replaced it after the plan was made: nobody agreed that this one goes."""
    described.write(LAB, WEB, DB)
    described("--yes")
    host = Host()

    def meanwhile(done: Any) -> None:
        if (done.step.action, done.step.name) == ("remove", "web"):
            host.vm.rm("db", force=True)
            host.vm.run("db", networks=["lab"], command=["sleep", "601"])

    described.write(LAB, WEB, 'mac = "02:11:22:33:44:01"\n', DB.replace(":55", ":66"))
    request = request_of(read([str(described.path)]))
    report = host.sets.apply(request, replace=True, tell=meanwhile)
    outcomes = [(i.step.action, i.outcome) for i in report.items if i.step.name == "db"]
    assert outcomes == [
        ("stop", "failed"), ("remove", "skipped"), ("create", "skipped"), ("start", "skipped"),
    ]  # fmt: skip
    assert described.hvtx.vm("db")["command"] == ["sleep", "601"]
    assert state(described.hvtx, "db") == "running"


def test_plans_that_are_none(described: Set, tmp_path: Path) -> None:
    hvtx, path = described.hvtx, tmp_path / "plan.json"
    described.write(LAB, WEB)
    described("--plan", "--out", str(path))
    whole = json.loads(path.read_text())
    broken: list[Any] = [
        "", "{", "[]", "null", "{}", {"schema": "hvtx/gc/1", "items": []},
        {"schema": "hvtx/apply/1"}, {**whole, "reviewed": [1]}, {**whole, "described": [{}]},
        {**whole, "options": {}}, {**whole, "described": []},
        {**whole, "described": [{"file": "x", "directory": "/", "tables": {"vms": 1}}]},
    ]  # fmt: skip
    for some in broken:
        path.write_text(some if isinstance(some, str) else json.dumps(some))
        conflict(hvtx, "vm", "apply", str(path), code=2)
    conflict(hvtx, "vm", "apply", str(tmp_path / "none"), code=3)
    conflict(hvtx, "vm", "apply", str(described.path), code=2)  # a set, not a plan
    path.write_text(json.dumps(whole))
    path.chmod(0o666)  # others could say what root starts
    conflict(hvtx, "vm", "apply", str(path), code=5)
    path.chmod(0o600)
    for more in ("--restart", "--replace", "--no-start", "--plan"):
        conflict(hvtx, "vm", "apply", str(path), more, code=2)
    conflict(hvtx, "vm", "apply", str(path), "-f", str(described.path), "--yes", code=2)


def test_a_person_is_asked(described: Set) -> None:
    """On a terminal: the plan, a question, and only then the deed; elsewhere --yes says it."""
    described.write(LAB, WEB)
    with witness.unchanged():
        assert "--yes" in described(code=2).err
        assert "--yes" in described("--json", code=2).err
    with witness.unchanged():
        code, told = answered(described.path, b"n\n")
    assert code == 1
    assert b"create network lab" in told
    for answer, ends, words in (
        (b"\x04", 1, b"the plan was declined\r\nhint: nothing was changed"),  # the end of the input
        (None, 130, b"interrupted\r\nhint: nothing was changed"),
    ):
        with witness.unchanged():
            code, told = answered(described.path, answer)
        assert (code, words in told.replace(b"\x1b[0m", b"")) == (ends, True), told
    code, told = answered(described.path, b"y\n")
    assert code == 0, told
    assert state(described.hvtx) == "running"
    assert b"nothing to do" in answered(described.path, b"")[1]


def answered(path: Path, answer: bytes | None) -> tuple[int, bytes]:
    """What a run on a terminal says, and how it ends; without an answer it is interrupted."""
    leader, follower = pty.openpty()
    argv = [sys.executable, "-m", "hvtx", "vm", "apply", "-f", str(path)]
    run = subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    os.write(leader, answer or b"")
    told = b""
    while True:
        if answer is None and b"[y/N]" in told:
            answer = b""
            # a signal between the question and the read of the answer is seen with the answer only
            until("the read of the answer", lambda: reads(run.pid))
            run.send_signal(signal.SIGINT)
        try:
            some = os.read(leader, 1 << 16)
        except OSError:  # EIO: the last one that had it open has closed it
            break
        told += some
    os.close(leader)
    return run.wait(timeout=60), told


def reads(pid: int) -> bool:
    """Whether a process waits in a call about its standard input (proc_pid_syscall(5))."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == ["0x0"]


# -- nothing is changed where anything is wrong ----------------------------------------------------

WRONG: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "no TOML": ("[vms.bad\n", 2, ("line 1",)),
    "a line of many": (LAB + "[vms.bad]\nmemory = = 5\n", 2, ("line 5", "column 10")),
    "twice": ("[vms.bad]\n[vms.bad]\n", 2, ("line 2",)),
    "no table of a set": ("[vmz.bad]\n", 2, ("vmz", "vms")),
    "no table": ("vms = 3\n", 2, ("vms",)),
    "no table of a VM": ("[vms]\nbad = 3\n", 2, ("[vms.bad]",)),
    "no key": ("[vms.bad]\nmemroy = 5\n", 2, ("[vms.bad]", "memroy", "did you mean memory")),
    "a key of networks": ('[vms.bad]\nsubnet = "10.0.0.0/24"\n', 2, ("[vms.bad]", "subnet")),
    "an option of the command line": ("[vms.bad]\njson = true\n", 2, ("json",)),
    "not a number": ('[vms.bad]\nmemory = "5"\n', 2, ("[vms.bad]", "memory")),
    "a truth value": ("[vms.bad]\nmemory = true\n", 2, ("[vms.bad]", "memory")),
    "a number too great": (f"[vms.bad]\nmemory = {1 << 70}\n", 2, ("[vms.bad]", "memory")),
    "out of bounds": ("[vms.bad]\nmemory = 0\n", 2, ("[vms.bad]", "memory")),
    "not a text": ("[vms.bad]\nkernel = 5\n", 2, ("[vms.bad]", "kernel")),
    "an empty path": ('[vms.bad]\nkernel = ""\n', 2, ("[vms.bad]", "kernel")),
    "NUL": ('[vms.bad]\nappend = "a\\u0000b"\n', 2, ("[vms.bad]", "append")),
    "not a list": ("[vms.bad]\npublish = 80\n", 2, ("[vms.bad]", "publish")),
    "a list of numbers": ("[vms.bad]\npublish = [80]\n", 2, ("[vms.bad]", "publish")),
    "a list where one is": ('[vms.bad]\nkernel = ["a"]\n', 2, ("[vms.bad]", "kernel")),
    "no flag": ('[vms.bad]\nautostart = "yes"\n', 2, ("[vms.bad]", "autostart")),
    "a date": ("[vms.bad]\nappend = 2026-01-01\n", 2, ("[vms.bad]", "append")),
    "a command in a text": ('[vms.bad]\ncommand = "sleep 5"\n', 2, ("[vms.bad]", "command")),
    "start": ('[vms.bad]\nstart = "no"\n', 2, ("[vms.bad]", "start")),
    "both spellings": ('[vms.bad]\nuser_data = "a"\nuser-data = "a"\n', 2, ("user",)),
    "both ways": ('[networks.bad]\nsubnet="10.1.0.0/24"\nnat = true\nno_nat = true\n', 2, ("nat",)),
    "what does not go together": ('[vms.bad]\ninitrd = "x"\n', 2, ("[vms.bad]", "initrd")),
    "no name": ('[vms."Bad Name"]\n', 2, ("Bad Name",)),
    "no hypervisor": ('[vms.bad]\nhypervisor = "xen"\n', 2, ("[vms.bad]: hypervisor",)),
    "no subnet": ("[networks.bad]\n", 2, ("[networks.bad]", "subnet")),
    "a subnet too small": ('[networks.bad]\nsubnet = "10.1.0.0/31"\n', 2, ("[networks.bad]: subnet",)),
    "subnets overlap": ('[networks.bad]\nsubnet = "10.77.0.0/25"\n' + LAB, 2, ("[networks.lab]", "bad")),
    "outside the subnet": (LAB + '[vms.bad]\nnetwork = "lab"\nip = "10.1.0.5"\n', 2, ("[vms.bad]", "10.1.0.5")),
    "the gateway's": (LAB + '[vms.bad]\nnetwork = "lab"\nip = "10.77.0.1"\n', 2, ("[vms.bad]",)),
    "an address twice": (LAB + DB + DB.replace("vms.db", "vms.bad").replace('mac = "02:11:22:33:44:55"', ""), 2, ("[vms.bad]", "db")),
    "a MAC twice": (LAB + DB + DB.replace("vms.db", "vms.bad").replace('ip = ["10.77.0.9", "fd77::9"]', ""), 2, ("[vms.bad]", "db")),
    "a port twice": (LAB + WEB + WEB.replace("vms.web", "vms.bad"), 2, ("[vms.bad]", "web")),
    "no such network": ('[vms.bad]\nnetwork = "lob"\n' + LAB, 3, ("[vms.bad]", "lob", "did you mean 'lab'")),
    "the bridge of every host": ('[networks.bad]\nsubnet = "10.1.0.0/24"\nbridge = "lo"\n', 4, ("[networks.bad]", "lo exists already")),
    "a hypervisor without its kernel": (LAB + '[vms.bad]\nnetwork = "lab"\nhypervisor = "cloud-hypervisor"\ndisk = "d.raw"\n', 2, ("[vms.bad]", "--kernel")),
    "no such kernel": (LAB + '[vms.bad]\nnetwork = "lab"\nkernel = "none"\n', 3, ("[vms.bad]", "/none")),
    "no such key file": (LAB + '[vms.bad]\nnetwork = "lab"\nssh_key = "none"\n', 3, ("[vms.bad]", "/none")),
    "nothing": ("", 2, ()),
    "empty tables": ("[vms]\n[networks]\n", 2, ()),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
def test_where_anything_is_wrong_nothing_is_done(described: Set, case: str) -> None:
    """File, table and key are named, and the good part of the set is not made either."""
    text, code, words = WRONG[case]
    good = '[vms.good]\ncommand = ["sleep", "600"]\n' if text and case != "empty tables" else ""
    described.write(text, "" if case == "no TOML" else good)
    with witness.unchanged():
        ran = described("--yes", code=code)
        planned = described("--plan", code=code)
    assert planned.err == ran.err
    assert all(word in ran.err for word in (*words, "vms.toml")), ran.err
    told = json.loads(described("--yes", "--json", code=code).err)["error"]
    assert told["message"] in ran.err


@pytest.mark.parametrize("more", [(), ("--json",), ("--yes",), ("--plan",)], ids=" ".join)
def test_what_is_wrong_with_a_file_is_said_before_who_can_be_asked(
    hvtx: Program, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Missing, malformed, not to be read, no file at all: whatever is to be done with it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").write_text("x = [")
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "odd").write_text("[vms.web]\nmemroy = 1\n")
    (tmp_path / "good").write_text("")
    wrong = {
        "missing": (3, "there is no file"),
        "pipe": (2, "FIFO"),
        "folder": (2, "directory"),
        "loop": (2, "loop"),
        "broken": (2, "is not TOML"),
        "bytes": (2, "UTF-8"),
        "odd": (2, "memroy"),
    }
    before = sorted(tmp_path.rglob("*"))
    for name, (code, words) in wrong.items():
        said = hvtx("vm", "apply", "-f", str(tmp_path / name), *more, code=code).err
        assert str(tmp_path / name) in said, said
        assert words in said
        assert "nobody can be asked" not in said
    assert sorted(tmp_path.rglob("*")) == before
    said = hvtx("vm", "apply", "-f", str(tmp_path / "good"), "-f", "-", code=2).err
    assert "nobody can be asked" in said  # standard input is not waited for


def test_a_file_that_others_may_write_is_refused(described: Set) -> None:
    """It says what root starts."""
    described.write(LAB, WEB)
    described.path.chmod(0o666)
    conflict(described.hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=5)
    described.path.chmod(0o600)
    for place, code in ((described.path.parent, 2), (described.path.with_name("none"), 3)):
        conflict(described.hvtx, "vm", "apply", "-f", str(place), "--yes", code=code)


def test_what_others_have_is_a_conflict_before_anything_is_done(described: Set) -> None:
    hvtx = described.hvtx
    described.write(LAB, WEB, DB)
    described("--yes")
    for text in (
        '[networks.new]\nsubnet = "10.77.0.0/25"\n',
        WEB.replace("vms.web", "vms.new"),
        DB.replace("vms.db", "vms.new").replace('mac = "02:11:22:33:44:55"', ""),
        DB.replace("vms.db", "vms.new").replace('ip = ["10.77.0.9", "fd77::9"]', ""),
    ):
        described.write('[networks.first]\nsubnet = "10.99.0.0/24"\n', text)
        conflict(hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=4)


NAMED = 'egress = "none"\nallow = ["example.org:443"]\n'


@pytest.mark.parametrize("setting", ["off", "auto", "on"])
def test_names_where_nobody_looks_them_up_are_refused_before_anything_is_done(
    described: Set, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """As `vm create` refuses them: of a VM and of a network, to be made and on record."""
    monkeypatch.setenv("HVTX_DHCP", setting)
    first = '[networks.first]\nsubnet = "10.99.0.0/24"\n'
    bare = LAB if setting == "off" else LAB + "dhcp = false\n"
    web = WEB + NAMED
    for texts, where in (((bare, web), "[vms.web]"), ((bare + NAMED,), "[networks.lab]")):
        described.write(first, *texts)
        ran = conflict(described.hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=4)
        assert f"{where}: --allow example.org:443 needs the network's own DNS" in ran.err
    described.hvtx("network", "create", "lab", "--subnet", "10.77.0.0/24", "--no-dhcp")
    described.write(first, web)
    conflict(described.hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=4)
    if setting == "off":
        described.write(web.replace("lab", "default"))
        conflict(described.hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=4)


def test_names_that_the_dnsmasq_of_this_host_cannot_look_up_are_refused(
    described: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the plan of who is given names; who had them is left alone."""
    monkeypatch.setenv("HVTX_DHCP", "on")
    path = os.environ["PATH"]
    described.write(LAB, WEB + "start = false\n" + NAMED)
    described("--yes")
    without_nftset(tmp_path / "bin", monkeypatch)
    assert described.plan() == []
    described.write(
        LAB,
        WEB + "start = false\n" + NAMED,
        '[vms.new]\nnetwork = "lab"\nhypervisor = "external"\n' + NAMED,
    )
    ran = conflict(described.hvtx, "vm", "apply", "-f", str(described.path), "--yes", code=4)
    assert "[vms.new]: names cannot be allowed" in ran.err
    monkeypatch.setenv("PATH", path)
    assert described.plan() == [("create", "new", "absent"), ("start", "new", "down")]


def without_nftset(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dnsmasq before the real one that says that it is built without it."""
    directory.mkdir()
    program = directory / "dnsmasq"
    real = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    program.write_text(
        f"""#!/bin/sh
[ "$*" != --version ] || {{ {real} --version | sed 's/ nftset/ no-nftset/'; exit; }}
exec {real} "$@"
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


# -- steps that fail, runs that are killed ---------------------------------------------------------


def test_what_fails_keeps_only_what_needs_it(described: Set) -> None:
    """The others are done; what is done is not done twice."""
    hvtx = described.hvtx
    lab.run("ip", "link", "add", "taken", "type", "bridge")
    bad = '[networks.bad]\nsubnet = "10.79.0.0/24"\nbridge = "taken"\n'
    described.write(
        LAB,
        bad,
        WEB,
        DB.replace('"lab"', '"bad"').replace("10.77", "10.79").replace(', "fd77::9"', ""),
    )
    ran = described("--yes", "--json", code=9)
    outcomes = {(i["name"], i["action"]): i["outcome"] for i in ran.json()["items"]}
    assert outcomes == {
        ("lab", "create"): "done", ("bad", "create"): "failed", ("db", "create"): "skipped",
        ("web", "create"): "done", ("db", "start"): "skipped", ("web", "start"): "done",
    }  # fmt: skip
    failed = next(i for i in ran.json()["items"] if i["outcome"] == "failed")
    assert failed["error"]["code"] == "conflict"
    assert "taken" in json.loads(ran.err)["error"]["message"]
    before = pid(hvtx, "web")
    lab.run("ip", "link", "del", "taken")
    described("--yes")
    described.settled()
    assert pid(hvtx, "web") == before


@pytest.mark.parametrize(
    "point",
    [
        "intended:kill:1",
        "intended:kill:2",
        "ended:kill:1",
        "ended:kill:2",
        "committed:kill:2",
        "opened:kill:2",
    ],
)
def test_the_next_run_goes_on_where_one_was_killed(described: Set, point: str) -> None:
    described.write(LAB, WEB, DB)
    argv = ("vm", "apply", "-f", str(described.path), "--yes")
    described.hvtx(*argv, code=-signal.SIGKILL, HVTX_FAILPOINT=point)
    described("--yes")
    described.settled()
    assert [state(described.hvtx, name) for name in ("web", "db")] == ["running", "running"]


def test_two_runs_at_once_make_one_set(described: Set) -> None:
    """The second plans when the first is done."""
    described.write(LAB, WEB, DB)
    argv = [sys.executable, "-m", "hvtx", "--lock-timeout", "60", "vm", "apply", "-f"]
    both = [
        subprocess.Popen(
            [*argv, str(described.path), "--yes", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [run.communicate(timeout=120) for run in both]
    assert [run.returncode for run in both] == [0, 0], told
    assert sorted(len(acts(json.loads(out))) for out, _ in told) == [0, 5]
    described.settled()
