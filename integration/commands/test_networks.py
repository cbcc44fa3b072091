"""Networks: the one made at first use, their backend, forwarding, removal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.verbs import BACKENDS, SLEEP, conflict, hvtx, network

__all__ = ["hvtx"]  # the fixture


@pytest.mark.parametrize("firewall", BACKENDS)
def test_default_is_made_at_first_use(hvtx: Program, firewall: str) -> None:
    """From a free private /24, as an operation of its own before the VM's."""
    lab.run("ip", "link", "add", "other0", "type", "bridge")
    lab.run("ip", "addr", "add", "10.77.0.5/16", "dev", "other0")
    lab.run("ip", "link", "set", "other0", "up")
    witness.settle()
    if firewall == "iptables":  # the kernel keeps a legacy table that was once looked at
        for table in ("nat", "filter", "mangle"):
            lab.run("iptables-legacy", "-t", table, "-S")
    witness.settle()
    before = lab.dump()
    hvtx("--firewall", firewall, "vm", "create", "web", *SLEEP)
    made = hvtx("network", "show", "default", "--json").json()
    assert (made["vms"], made["nat"], made["isolate"], made["firewall"]) == (
        ["web"],
        True,
        False,
        firewall,
    )
    (subnet,) = made["subnets"]
    assert subnet.endswith("/24")
    assert not subnet.startswith("10.77.")
    verbs = [e["verb"] for e in hvtx("log", "--json").json()["entries"]]
    assert verbs.index("create") > verbs.index("network-create")
    hvtx("vm", "create", "two", "--network", "default", *SLEEP)
    for name in ("web", "two"):
        hvtx("vm", "rm", name)
    hvtx("network", "rm", "default")
    assert lab.difference(before, lab.dump()) == ""


def test_ip_forward_is_recorded_and_left_on(hvtx: Program) -> None:
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    setting.write_text("0")
    network(hvtx)
    assert setting.read_text().strip() == "1"
    assert "sysctl" in {e["kind"] for e in hvtx("log", "--json").json()["entries"]}
    hvtx("network", "rm", "net")
    assert setting.read_text().strip() == "1"
    assert hvtx.is_clean()


def test_a_network_keeps_its_backend(hvtx: Program) -> None:
    hvtx("--firewall", "iptables", "network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("--firewall", "nftables", "vm", "run", "web", "--network", "net", "-p", "80:80", *SLEEP)
    assert "10.77.0.2" in lab.run("iptables-legacy-save")
    hvtx("vm", "rm", "web", "--force")
    hvtx("--firewall", "nftables", "network", "rm", "net")


def test_a_network_removed_under_strangers(hvtx: Program) -> None:
    """Somebody else's device or address on the bridge: refused, nothing is changed."""
    network(hvtx, "--bridge", "br-mine")
    lab.run("ip", "link", "add", "veth0", "type", "veth", "peer", "veth1")
    lab.run("ip", "link", "set", "veth0", "master", "br-mine")
    assert "veth0" in conflict(hvtx, "network", "rm", "net").err
    lab.run("ip", "link", "del", "veth0")
    lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "br-mine")
    assert "192.0.2.1" in conflict(hvtx, "network", "rm", "net").err
    lab.run("ip", "addr", "del", "192.0.2.1/24", "dev", "br-mine")
    hvtx("network", "rm", "net")


OTHERS = {
    "nftables": (
        "nft add element inet {table} masq4 {{ * }}",
        "nft add element bridge {table} links6 {{ * }}",
        "nft insert rule inet {table} forward accept",
    ),
    "iptables": ("iptables-legacy -t mangle -A HVTX-{installation}-FWD -j ACCEPT",),
}


@pytest.mark.parametrize("firewall", BACKENDS)
def test_what_keeps_the_tables_of_the_last_network_is_named(hvtx: Program, firewall: str) -> None:
    """Rules and elements of others in what is hvtx's: the hint, done, removes all of it."""
    if firewall == "iptables":  # the kernel keeps a legacy table that was once looked at
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("nat", "filter", "mangle"):
                lab.run(tool, "-t", table, "-S")
    witness.settle()
    before = lab.dump()
    hvtx(
        "--firewall", firewall, "network", "create", "net", "--subnet", "10.77.0.0/24", "--no-dhcp"
    )
    mark = hvtx("network", "show", "net", "--json").json()["resources"][0]["mark"]
    installation = mark.split(":")[2]
    for act in OTHERS[firewall]:
        words = act.format(table=f"hvtx-{installation}", installation=installation)
        lab.run("sh", "-c", words.replace("{ * }", "'{ * }'"))
    refused = hvtx("network", "rm", "net", code=9)
    found = re.search(r"^hint: (.*); hvtx network rm net$", refused.err, re.MULTILINE)
    assert found is not None, refused.err
    again = hvtx("network", "rm", "net", code=9)  # as it says, as long as it stands there
    assert again.err == refused.err.replace("hvtx network rm net\n", "hvtx gc --apply\n")
    lab.run("sh", "-ec", found[1])
    hvtx("gc", "--apply")
    assert hvtx.is_clean()
    assert lab.difference(before, lab.dump()) == ""


def test_what_is_given_once_is_refused_with_the_reason(hvtx: Program) -> None:
    """Whether a VM is up or not; what is there already is no change, and is not refused."""
    network(hvtx, "--bridge", "br-mine")
    hvtx("vm", "create", "web", "--network", "net", "--ip", "10.77.0.7", *SLEEP)
    mac = hvtx.vm("web")["interfaces"][0]["mac"]
    asked = (
        *(("network", "set", "net", *more) for more in (
            ("--mtu", "9000"), ("--no-nat",), ("--bridge", "br-other"),
            ("--subnet", "10.78.0.0/24"), ("--isolate", "--mtu", "9000"),
        )),
        *(("vm", "set", "web", *more) for more in (
            ("--ip", "10.77.0.8"), ("--mac", "02:00:00:00:00:09"), ("--memory", "99", "--ip", "10.77.0.8"),
        )),
    )  # fmt: skip
    before = [hvtx.vm("web"), hvtx("network", "show", "net", "--json").json()]
    for words in asked:
        ran = conflict(hvtx, *words)
        assert "for as long as it is on record: " in ran.err, ran
        assert " create " in ran.err.splitlines()[1], ran
    assert [hvtx.vm("web"), hvtx("network", "show", "net", "--json").json()] == before
    hvtx("vm", "start", "web")
    for words in asked:
        conflict(hvtx, *words)
    hvtx("network", "set", "net", "--mtu", "1500", "--nat", "--bridge", "br-mine")
    hvtx("network", "set", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "set", "web", "--ip", "10.77.0.7", "--mac", mac, "--network", "net")
    hvtx("vm", "set", "web", "--network", "nope", code=3)
    hvtx("vm", "set", "web", "--ip", "10.99.0.7", code=2)
