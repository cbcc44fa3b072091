"""Start and stop leave the host as it was, on both firewall backends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration import lab
from integration.lab.program import Program

BACKENDS = ["nftables", "iptables"]


@pytest.fixture
def hvtx() -> Program:
    return Program()


def settled() -> dict[str, object]:
    """A dump once the kernel has finished what it does asynchronously."""
    return lab.dump()


@pytest.mark.parametrize("firewall", BACKENDS)
def test_whole_dumps_are_equal_before_start_and_after_stop(hvtx: Program, firewall: str) -> None:
    """`vm start` and `vm stop` are mirrors."""
    hvtx("--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24",
         "--subnet", "fd77::/64")  # fmt: skip
    hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", "-p", "5353:53/udp",
         "--", "sleep", "600")  # fmt: skip
    before = settled()
    for _ in range(2):
        started = hvtx("vm", "start", "web", "--json").json()
        assert started["state"] == "running"
        assert {r["state"] for r in started["resources"]} == {"committed"}
        assert lab.difference(before, settled()), "a running VM is to be seen in the dumps"
        hvtx("vm", "stop", "web", "--timeout", "1")
        assert lab.difference(before, settled()) == ""
    assert hvtx.vm("web")["state"] == "defined"
    assert hvtx.is_clean()


@pytest.mark.parametrize("firewall", BACKENDS)
def test_the_last_network_takes_everything_along(hvtx: Program, firewall: str) -> None:
    """Tables, chains and jumps leave the host with the last network, not with the first."""
    if firewall == "iptables":
        lab.run(
            "iptables-legacy",
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-s",
            "192.0.2.9",
            "-j",
            "MASQUERADE",
        )
        lab.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
        lab.run("iptables-legacy", "-t", "mangle", "-S")  # which makes it, for good
    before = lab.dump()
    hvtx("--firewall", firewall, "network", "create", "one", "--subnet", "10.77.0.0/24")
    one = lab.dump()
    hvtx(
        "--firewall", firewall, "network", "create", "two", "--subnet", "10.78.0.0/24", "--isolate"
    )
    hvtx("network", "rm", "two")
    assert lab.difference(one, lab.dump()) == ""
    hvtx("network", "rm", "one")
    assert lab.difference(before, lab.dump()) == ""


def test_auto_takes_iptables_only_where_legacy_tables_are_in_use(hvtx: Program) -> None:
    """`auto` is nftables unless a legacy table has rules and nft has none."""
    hvtx("network", "create", "a", "--subnet", "10.77.0.0/24")
    assert hvtx("network", "show", "a", "--json").json()["firewall"] == "nftables"
    hvtx("network", "rm", "a")
    lab.run("iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.9", "-j", "DROP")
    hvtx("network", "create", "b", "--subnet", "10.77.0.0/24")
    assert hvtx("network", "show", "b", "--json").json()["firewall"] == "iptables"
    hvtx("network", "rm", "b")


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_failed_start_leaves_the_host_as_it_was(
    hvtx: Program, firewall: str, tmp_path: Path
) -> None:
    """Whole or not at all: a hypervisor that cannot be executed undoes the network."""
    program = tmp_path / "program"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    hvtx("--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24")
    before = lab.dump()
    ran = hvtx("vm", "run", "web", "--network", "net", "-p", "80:80", "--", str(program), code=6)
    assert "hint:" in ran.err
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx("vm", "show", "web", code=3)
    assert hvtx.is_clean()


def test_a_hypervisor_that_ends_at_once_is_seen_crashed_and_collected(hvtx: Program) -> None:
    """A `command` VM is up when it was executed; when it ends, gc collects what it had."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    before = lab.dump()
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "0.5")
    lab.ended(hvtx.vm("web")["pid"])
    assert hvtx.vm("web")["state"] == "crashed"
    assert ("delete", "vm-dead") in hvtx.plan()
    hvtx("gc", "--apply")
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx.vm("web")["state"] == "defined"
    assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.2"


def test_a_crashed_vm_starts_again_in_one_step(hvtx: Program) -> None:
    """`start` of a crashed VM releases the remains by gc's rules, then starts."""
    hvtx("vm", "run", "web", "-p", "8080:80", "--", "sleep", "600")
    old = hvtx.vm("web")
    lab.end(old["pid"])
    new = hvtx("vm", "start", "web", "--json").json()
    assert new["state"] == "running"
    assert new["pid"] != old["pid"]
    assert new["interfaces"][0]["device"] != old["interfaces"][0]["device"]
    assert new["interfaces"][0]["mac"] == old["interfaces"][0]["mac"]
    hvtx("vm", "rm", "web", "--force")


def test_an_external_vm_is_unknown_until_attached(hvtx: Program) -> None:
    """`external`: hvtx prepares the network, a process is attached, and is never signalled."""
    import subprocess

    hvtx("vm", "create", "ext", "--hypervisor", "external")
    hvtx("vm", "attach", "ext", "--pid", str(os.getpid()), code=4)
    hvtx("vm", "start", "ext")
    assert hvtx.vm("ext")["state"] == "unknown"
    assert ("skip", "liveness-unknown") in hvtx.plan()
    hvtx("vm", "start", "ext", code=4)
    hvtx("vm", "attach", "ext", "--pid", "2147483646", code=3)
    guest = subprocess.Popen(["sleep", "600"])
    try:
        hvtx("vm", "attach", "ext", "--pid", str(guest.pid))
        assert hvtx.vm("ext")["state"] == "running"
        hvtx("vm", "stop", "ext", code=4)
        assert guest.poll() is None
    finally:
        guest.kill()
        guest.wait()
    assert hvtx.vm("ext")["state"] == "crashed"
    hvtx("vm", "stop", "ext")
    assert hvtx.vm("ext")["state"] == "defined"
