"""Alternative names (`ip link property add … altname`) are names: explain, adopt, import, --bridge."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.host.links import Links
from integration import lab
from integration.commands.test_import import RULES, TAP, Theirs
from integration.lab.program import Forked, Program, preload

LONG = "network-production-0001-" + "x" * 100  # up to 127 characters


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked(HVTX_FIREWALL="nftables")


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Theirs]:
    made = Theirs(tmp_path, "iptables-nft")
    yield made
    made.end()


def name(device: str, *altnames: str) -> None:
    for altname in altnames:
        lab.run("ip", "link", "property", "add", "dev", device, "altname", altname)


def test_explain_takes_every_name_of_a_device(hvtx: Program) -> None:
    """Ours, somebody else's, short and long; and says what else it is called."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    device = hvtx.device("web")
    try:
        lab.run("ip", "tuntap", "add", "virbr9", "mode", "tap")
        name(device, "web-nic0", LONG)
        name("virbr9", "theirs-nic0", LONG[:-1] + "y")
        for called in (device, "web-nic0", LONG):
            told = hvtx("explain", called, "--json").json()
            assert (told["owner"], told["vm"], told["key"]) == ("hvtx", "web", device), called
            assert any("web-nic0" in line for line in told["evidence"])
        for called in ("virbr9", "theirs-nic0", LONG[:-1] + "y"):
            told = hvtx("explain", called, "--json").json()
            assert (told["owner"], told["key"]) == ("foreign", "virbr9"), called
        hvtx("explain", "no-nic0", code=3)
    finally:
        os.kill(hvtx.vm("web")["pid"], signal.SIGKILL)


@pytest.mark.parametrize("altname", ["web-nic0", LONG])
def test_adopt_takes_a_device_by_an_alternative_name(
    hvtx: Program, theirs: Theirs, altname: str
) -> None:
    """It is the device: held by whom it is held, recorded under its own name, and once."""
    name(TAP, altname)
    pid = theirs.hold()
    requested = hvtx("adopt", altname, "--vm", "old", "--dry-run", "--json").json()
    assert requested["item"]["key"] == TAP
    done = hvtx("adopt", altname, "--vm", "old", "--json").json()
    assert (done["item"]["key"], done["item"]["outcome"]) == (TAP, "imported")
    assert (done["liveness"], hvtx.vm("old")["pid"]) == ("alive", pid)
    again = hvtx("adopt", TAP, "--vm", "old", "--json").json()
    assert again["item"]["outcome"] == "already"
    hvtx("adopt", altname, "--vm", "another", code=4)
    theirs.end()
    hvtx("gc", "--apply")
    assert TAP not in lab.run("ip", "-o", "link")
    assert hvtx.is_clean()


def test_import_of_a_state_that_names_it_so(hvtx: Program, theirs: Theirs) -> None:
    """One device by two names in two files is claimed twice; in one, it is taken over."""
    name(TAP, "web-nic0")
    first = theirs.state(theirs.hold())
    document = json.loads(Path(first).read_text())
    document["network_ownership"]["tap_device"] = "web-nic0"
    Path(first).write_text(json.dumps(document))
    second = theirs.state(None, "second", id="bbbb2222-0000-4000-8000-00000000000b")
    done = hvtx("import", "my-hypervisor", first, second, "--json", code=9).json()
    assert {vm["reason"] for vm in done["vms"]} == {"claimed-twice"}
    done = hvtx("import", "my-hypervisor", first, "--json").json()
    assert done["summary"]["imported"] == 2 + len(RULES)
    assert hvtx.vm("first")["state"] == "running"


def test_a_bridge_name_that_is_an_alternative_name(hvtx: Program) -> None:
    """Of somebody else's device: taken, 4, and nothing is changed."""
    lab.run("ip", "link", "add", "theirs0", "type", "bridge")
    name("theirs0", "br-lan")
    before = lab.dump()
    for called in ("br-lan", "theirs0"):
        ran = hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", called,
                   code=4)  # fmt: skip
        assert called in ran.err
    assert lab.dump() == before


def test_a_rule_that_names_a_device_so_is_no_guess(hvtx: Program) -> None:
    """The emergency mode takes rules of devices that do not exist; by such a name one does."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    lab.run("ip", "link", "add", "theirs0", "type", "bridge")
    name("theirs0", "tap-web")
    for device in ("tap-web", "tap-none"):
        lab.run("iptables-nft", "-A", "FORWARD", "-i", device, "-j", "ACCEPT")
    items = hvtx("gc", "--heuristic", "--plan", "--json").json()["items"]
    acting = [item["key"] for item in items if item["action"] == "delete"]
    assert [key for key in acting if "tap-none" in key]
    assert not [key for key in acting if "tap-web" in key]


def test_links_tell_all_names() -> None:
    """In the kernel's order, by dump and one by one, by whichever name is asked for."""
    lab.run("ip", "link", "add", "theirs0", "type", "bridge")
    name("theirs0", "one", "two", LONG)
    links = Links()
    try:
        seen = next(link for link in links.all() if link.name == "theirs0")
        assert set(seen.altnames) == {"one", "two", LONG}
        assert links.get(name="two") == links.get(ifindex=seen.ifindex)
        assert {link.altnames for link in links.all() if link.name == "lo"} == {()}
    finally:
        links.close()
