"""Faults that users of other managers reported, where no other test shows that hvtx has them not.

docs/complaints.md names the reports, and the test of each.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_gc_foreign import in_another_boot
from integration.lab import HOST4, WORLD4
from integration.lab.firewall_contract import reach, unreachable
from integration.lab.program import Program
from integration.lab.verbs import BACKENDS, SLEEP
from integration.lab.vms import networked, two_guests
from integration.network.test_guests_network import kill, run

AGAIN = 3


def traffic_control() -> str:
    """All of it: qdiscs with their handles, classes, and what filters each device at its ingress."""
    words = [lab.run("tc", "qdisc", "show")]
    for device in devices():
        words.append(lab.run("tc", "class", "show", "dev", device))
        words.append(lab.run("tc", "filter", "show", "dev", device, "ingress", check=False))
    return "\n".join(words)


def devices() -> list[str]:
    """The names of all devices."""
    links = lab.run("ip", "-br", "link").splitlines()
    return [line.split(" ")[0].partition("@")[0] for line in links]


def test_starts_and_stops_leave_nothing_in_traffic_control() -> None:
    """Classes by number outlive their VM elsewhere, until the numbers collide."""
    with networked() as hvtx:
        lab.run("ip", "link", "add", "shaped", "type", "veth", "peer", "other")
        shape = ("root", "tbf", "rate", "1mbit", "burst", "10k", "latency", "50ms")
        lab.run("tc", "qdisc", "add", "dev", "shaped", *shape)
        before = traffic_control()
        for _ in range(AGAIN):
            hvtx("vm", "run", "web", "--network", "net", *SLEEP)
            assert traffic_control() != before, "what a VM has is looked at"
            lab.end(hvtx.vm("web")["pid"])
            hvtx("gc", "--apply")
            hvtx("vm", "rm", "web")
        assert traffic_control() == before


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_port_leads_to_its_new_owner_and_never_to_a_dead_one(
    world: lab.Namespace, firewall: str
) -> None:
    """Process and device of the old one are gone, as when a runtime finds no namespace any more."""
    with two_guests(firewall) as hvtx:
        dead = run(hvtx, "dead", "-p", "8090:80")
        kill(dead)
        lab.run("ip", "link", "del", dead.device)
        hvtx("vm", "rm", "dead", "--force")
        heir = run(hvtx, "heir", "-p", "8090:80", "--ip", "10.77.0.200")
        assert reach(world, heir, "tcp", HOST4, 8090, 80) == WORLD4
        hvtx("vm", "rm", "heir", "--force")
        assert unreachable(world, None, "tcp", HOST4, 8090, 80)
        assert hvtx.is_clean()


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_run_that_fails_takes_nothing_of_another_vm(
    world: lab.Namespace, firewall: str, tmp_path: Path
) -> None:
    """Its undo is of its own rows: the neighbour publishes the same port of its guest."""
    program = tmp_path / "program"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    with networked(firewall) as hvtx:
        web = run(hvtx, "web", "-p", "8080:80")
        before = lab.dump()
        bad = ("--network", "net", "-p", "8081:80", "--", str(program))
        hvtx("vm", "run", "bad", *bad, code=6)
        hvtx("vm", "run", "worse", "--network", "net", "-p", "8080:81", *SLEEP, code=4)
        assert lab.difference(before, lab.dump()) == ""
        assert reach(world, web, "tcp", HOST4, 8080, 80) == WORLD4


def test_addresses_of_runs_that_a_reboot_cut_off_are_free(tmp_path: Path) -> None:
    """A network of five addresses: a lease that nobody has comes back, one on record stays."""
    with networked() as hvtx:
        hvtx("network", "create", "few", "--subnet", "10.78.0.0/29")
        hvtx("vm", "create", "kept", "--network", "few", *SLEEP)
        kept = hvtx.vm("kept")["interfaces"][0]["ipv4"]
        for name, point in zip("abcd", ("intended", "marked:tap", "registered", "up"), strict=True):
            die = {"HVTX_FAILPOINT": f"{point}:kill"}
            hvtx("vm", "run", name, "--network", "few", *SLEEP, code=-signal.SIGKILL, **die)
        hvtx("vm", "create", "full", "--network", "few", *SLEEP, code=4)
        _reboot(hvtx)
        again = (sys.executable, "-m", "hvtx")
        assert in_another_boot(*again, "recover").returncode == 0
        for name in "efgh":
            made = in_another_boot(*again, "vm", "create", name, "--network", "few", *SLEEP)
            assert made.returncode == 0, made.stderr
        assert hvtx.vm("kept")["interfaces"][0]["ipv4"] == kept


def _reboot(hvtx: Program) -> None:
    """Take away what a reboot takes from the kernel and the run directory."""
    for name in devices():
        if name.startswith("hv"):
            lab.run("ip", "link", "del", name)
    lab.run("nft", "flush", "ruleset")
    for vm in hvtx("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])
    shutil.rmtree(os.environ["HVTX_RUN_DIR"])
