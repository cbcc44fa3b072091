"""What a boot brings: saved rules, firewalls that flush, VMs started first, disks that come late.

A reboot is another boot id (a bind mount in a mount namespace), an empty run directory, and a kernel
that has forgotten everything of ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.crash.test_failpoints import end_everything
from integration.lab.program import Forked, Program, Ran, preload

BACKENDS = ["nftables", "iptables"]
HVTX = (sys.executable, "-m", "hvtx")
SLEEP = ("--", "sleep", "600")
BOOT = "11111111-2222-4333-8444-555555555555"


class Booted(Program):
    """The program in a boot of its own, as seen by a bind mount over the kernel's boot id."""

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        fake = Path(os.environ["HVTX_STATE_DIR"]).parent / "boot_id"
        fake.write_text(f"{BOOT}\n")
        script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", str(fake), *HVTX, *arguments],
            capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment, **environment},
        )  # fmt: skip
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, (arguments, ran)
        return ran


def rules(firewall: str) -> str:
    """The ruleset as an administrator saves it; legacy tables beside nftables' own."""
    saved = lab.run("nft", "list", "ruleset")
    if firewall == "iptables":
        saved += "\0" + lab.run("iptables-legacy-save")
    return saved


def restore(saved: str) -> None:
    native, _, legacy = saved.partition("\0")
    lab.run("nft", "-f", "-", stdin=native)
    if legacy:
        lab.run("iptables-legacy-restore", "-n", stdin=legacy)


def forget_everything() -> None:
    """What the kernel and a tmpfs forget when the power goes."""
    for link in json.loads(lab.run("ip", "-j", "link")):
        if link["ifname"].startswith("hv"):
            lab.run("ip", "link", "del", link["ifname"], check=False)
    lab.run("nft", "flush", "ruleset")
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        for table in ("nat", "filter", "raw", "mangle"):
            lab.run(tool, "-t", table, "-F", check=False)
            lab.run(tool, "-t", table, "-X", check=False)
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])


@pytest.fixture(params=BACKENDS)
def firewall(request: pytest.FixtureRequest) -> Iterator[str]:
    preload()
    yield request.param


def published(port: str) -> list[str]:
    """Every line of any firewall that speaks of a port."""
    lines = rules("iptables").replace("\0", "\n").splitlines()
    return [line for line in lines if port in line]


@pytest.mark.parametrize("first", ["recover", "start"])
def test_saved_rules_never_lead_to_the_next_owner_of_an_address(firewall: str, first: str) -> None:
    """Rules saved in the last life come back at boot; the address is another VM's by now.

    Whether `recover` or a start comes first, the old port is not published when the VM is up.
    """
    hvtx = Forked(HVTX_FIREWALL=firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "old", "--network", "net", "-p", "8080:80", *SLEEP)
    saved = rules(firewall)
    assert "8080" in saved
    hvtx("vm", "rm", "old", "--force")
    hvtx("vm", "create", "new", "--network", "net", *SLEEP)
    assert hvtx.vm("new")["interfaces"][0]["ipv4"] == "10.77.0.2"
    forget_everything()
    restore(saved)
    assert published("8080")
    after = Booted(HVTX_FIREWALL=firewall)
    after(*(("recover",) if first == "recover" else ("vm", "start", "new")))
    if first == "recover":
        after("vm", "start", "new")
    else:
        after("recover")
    assert not published("8080"), published("8080")
    assert after.is_clean(), (after.plan(), after("intents").out, after("log").out)
    assert after.vm("new")["state"] == "running"
    end_everything(after)
    for part in ("nft", "legacy"):
        assert "hvtx" not in json.dumps(lab.dump()[part]), part


def test_saved_rules_without_their_marks_are_told(firewall: str) -> None:
    """A tool that drops comments leaves rules that nobody can prove: they are named, and they stay.

    Natively the place of the same key is taken then: the start that needs it is refused, and says
    by what.
    """
    hvtx = Forked(HVTX_FIREWALL=firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    if firewall == "iptables":
        legacy = rules(firewall).partition("\0")[2]
        pieces = legacy.split(" -m comment --comment ")
        bare = pieces[0] + "".join(
            piece.partition(" ")[2] and " " + piece.partition(" ")[2] for piece in pieces[1:]
        )
        lab.run("iptables-legacy-restore", stdin=bare)
    else:
        listing = lab.run("nft", "-s", "list", "ruleset")
        lab.run("nft", "flush", "ruleset")
        lab.run("nft", "-f", "-", stdin=re.sub(r' comment "hvtx[^"]*"', "", listing))
    before = lab.dump()
    lab.end(hvtx.vm("web")["pid"])
    plan = hvtx.plan()
    assert plan.get(("skip", "mark-stripped")), plan.keys()
    hvtx("gc", "--apply", code=None)
    text = json.dumps([lab.dump()["nft"], lab.dump()["legacy"]])
    for part in ("nft", "legacy"):
        assert [x for x in _flat(before[part]) if "8080" in x] == [
            x for x in _flat(lab.dump()[part]) if "8080" in x
        ]
    assert "8080" in text
    lab.run("nft", "flush", "ruleset")
    for table in ("nat", "filter", "raw", "mangle"):
        lab.run("iptables-legacy", "-t", table, "-F", check=False)
        lab.run("iptables-legacy", "-t", table, "-X", check=False)
    hvtx("gc", "--apply", code=None)
    hvtx("vm", "rm", "web", "--force", code=None)
    hvtx("network", "rm", "net", code=None)


def _flat(part: object) -> list[str]:
    if isinstance(part, dict):
        return [json.dumps(line) for lines in part.values() for line in lines]
    assert isinstance(part, list)
    return [json.dumps(item) for item in part]


def test_a_firewall_that_flushes_after_recover(firewall: str) -> None:
    """firewalld or nftables.service starts late and flushes: it is seen, and put back."""
    hvtx = Forked(HVTX_FIREWALL=firewall)
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    saved = rules(firewall)
    lab.run("nft", "flush", "ruleset")
    if firewall == "iptables":
        for table in ("nat", "filter", "raw"):
            lab.run("iptables-legacy", "-t", table, "-F", check=False)
            lab.run("iptables-legacy", "-t", table, "-X", check=False)
    assert not published("8080")
    plan = hvtx.plan()
    assert plan["skip", "lost"]
    assert not [key for key in plan if key[0] != "skip"], "nothing is forgotten while the VM lives"
    hvtx("recover")
    hvtx("repair")
    assert published("8080")
    assert [line for line in saved.splitlines() if "8080" in line and "elements" in line] == [
        line for line in published("8080") if "elements" in line
    ]
    assert not hvtx.plan().get(("skip", "lost"))
    end_everything(hvtx)


@pytest.mark.parametrize("run", ["kept", "emptied"])
def test_a_soft_reboot(run: str) -> None:
    """The kernel and its boot id stay, every process ends: its VMs are dead, its devices are not."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    clean = lab.dump()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "create", "auto", "--network", "net", "--autostart", *SLEEP)
    lab.end(hvtx.vm("web")["pid"])
    if run == "emptied":
        shutil.rmtree(os.environ["HVTX_RUN_DIR"])
    hvtx("recover")
    reasons = set(hvtx.plan())
    assert ("delete", "vm-dead") in reasons
    assert ("forget", "rebooted") not in reasons
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    hvtx("vm", "start", "web")
    assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.2"
    end_everything(hvtx)
    assert lab.difference(clean, lab.dump()) == ""


def test_two_machines_from_one_image() -> None:
    """A host copied with its store: each is another boot, and no mark is given twice."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    hvtx("network", "show", "net")
    state = Path(os.environ["HVTX_STATE_DIR"])
    marks = []
    for copy in ("one", "two"):
        shutil.copytree(state, state.parent / copy)
    store_gone = state.parent / "original"
    state.rename(store_gone)
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])
    forgotten = [
        x["ifname"] for x in json.loads(lab.run("ip", "-j", "link")) if x["ifname"] != "lo"
    ]
    for name in forgotten:
        lab.run("ip", "link", "del", name)
    lab.run("nft", "flush", "ruleset")
    for copy in ("one", "two"):
        with lab.private_network():
            there = Booted(
                HVTX_FIREWALL="nftables",
                HVTX_STATE_DIR=str(state.parent / copy),
                HVTX_RUN_DIR=str(state.parent / f"run-{copy}"),
            )
            there("recover")
            there("vm", "start", "web")
            vm = there.vm("web")
            marks.append({row["mark"] for row in vm["resources"] if row["kind"] != "lease"})
            assert vm["interfaces"][0]["ipv4"] == "10.77.0.2"
            there("vm", "rm", "web", "--force")
            there("network", "rm", "net")
    assert marks[0] and not marks[0] & marks[1]


@pytest.mark.parametrize("verb", [("recover",), ("gc", "--apply"), ("repair",)], ids=lambda v: v[0])
def test_a_state_directory_that_is_not_mounted_yet(verb: tuple[str, ...]) -> None:
    """An empty directory stands where the store will be: no second store is begun, nothing concluded."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    state = os.environ["HVTX_STATE_DIR"]
    before = lab.dump()
    words = 'mount -t tmpfs none "$1" && find "$1" && shift 1 && "$@"; code=$?; find "$HVTX_STATE_DIR"; exit $code'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", words, "bash", state, *HVTX, *verb, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout.startswith(f"{state}\n{{"), done
    assert done.stdout.endswith(f"}}\n{state}\n"), done
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.vm("web")["state"] == "running"
    assert hvtx.is_clean()
    end_everything(hvtx)


def test_a_network_namespace_that_is_gone_for_good() -> None:
    """Refused until a person says so; then it is as after a reboot: leases stand, networks are built."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="nftables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", *SLEEP)
    pid = hvtx.vm("web")["pid"]
    with lab.private_network():
        assert hvtx("gc", "--plan", "--json", code=4).json()["refused"] == "wrong-namespace"
        hvtx("recover", code=4)
        hvtx("vm", "start", "web", code=4)
        lab.end(pid)
        hvtx("recover", code=4)
        hvtx("recover", "--new-namespace")
        assert hvtx.is_clean()
        assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.2"
        hvtx("vm", "start", "web")
        assert hvtx.vm("web")["state"] == "running"
        end_everything(hvtx)
        assert lab.dump()["nft"] == []
