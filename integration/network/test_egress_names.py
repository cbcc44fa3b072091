"""Names in egress policies: what a guest reaches by a name, through a real dnsmasq and a resolver.

The world has addresses of the internet, of private networks and of a metadata service; the resolver
that the host asks is the test's own, and says what a test wants of a name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.drivers.dnsmasq import driver
from hvtx.rulesets import dnsmasq
from integration import lab
from integration.lab import HOST4, HOST6, WORLD4
from integration.lab.processes import stopped_with_lock_of
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.vms import end_vms
from integration.lab.waiting import until
from integration.network.test_egress import GATEWAY4, GUEST, answers, run, silent
from integration.network.test_guests_network import GuestVm
from integration.network.test_living_changes import Flow

LAB = Path(__file__).parents[1] / "lab"
FIRST, SECOND, OTHER = "8.8.4.4", "9.9.9.9", "1.1.1.1"
FIRST6 = "2606:4700::4"
METADATA, PRIVATE = "169.254.169.254", "192.168.5.5"
WORLDLY = (FIRST, SECOND, OTHER, FIRST6, METADATA, PRIVATE)


class Resolver:
    """What the host's own resolver says of names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.says({})

    def says(self, known: dict[str, list[str]]) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(known))
        draft.rename(self._path)


@pytest.fixture
def resolver(world: lab.Namespace, tmp_path: Path) -> Iterator[Resolver]:
    """The world, with a resolver in it that this host asks; `/etc/resolv.conf` of this test."""
    for address in WORLDLY:
        six = ":" in address
        more = ["nodad"] if six else []
        length = "128" if six else "32"
        world.run("ip", "addr", "add", f"{address}/{length}", "dev", "eth0", *more)
    world.run("ip", "route", "add", "10.77.0.0/16", "via", HOST4)
    world.run("ip", "-6", "route", "add", "fd77::/16", "via", HOST6)
    found = Resolver(tmp_path / "names.json")
    program = (sys.executable, str(LAB / "resolver.py"), WORLD4, str(tmp_path / "names.json"))
    upstream = subprocess.Popen(world.argv(*program), stdout=subprocess.PIPE)
    assert upstream.stdout is not None
    assert upstream.stdout.readline() == b"it answers\n"
    config = tmp_path / "resolv.conf"
    config.write_text(f"nameserver {WORLD4}\n")
    here = os.getcwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lab.unshare(lab.CLONE_NEWNS)
        lab.run("mount", "--make-rprivate", "/")
        lab.run("mount", "--bind", str(config), "/etc/resolv.conf")
        yield found
    finally:
        lab.setns(before, lab.CLONE_NEWNS)
        os.close(before)
        os.chdir(here)
        upstream.kill()
        upstream.wait()
        upstream.stdout.close()


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, resolver: Resolver) -> Iterator[Program]:
    """The program, with a network that has a dnsmasq."""
    preload()
    lab.duplicate_detection("1")
    program = Forked(HVTX_FIREWALL=str(request.param), HVTX_DHCP="on")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    yield program
    end_vms(program)
    for pid in services():
        lab.end(pid)


def ask(guest: GuestVm, name: str, kind: str = "A") -> list[str]:
    """The addresses that a guest is told."""
    words = ("ask", GATEWAY4, name, kind)
    told = json.loads(guest.run(sys.executable, str(LAB / "dhcp.py"), *words))
    found: list[str] = told["addresses"]
    return found


def assert_reached(guest: GuestVm, world: lab.Namespace, wanted: set[str], port: int = 443) -> None:
    """Of the world's addresses these answer, for which it is waited longer, and no other."""
    assert {a for a in WORLDLY if a in wanted and answers(guest, world, a, port)} == wanted
    assert all(silent(guest, world, a, port) for a in WORLDLY if a not in wanted)


def tables() -> list[str]:
    """The tables of names."""
    return [line for line in lab.run("nft", "list", "tables").splitlines() if line.count("-") > 1]


def test_exactly_that_name_is_reached(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    """Both families, subdomains, a chain of names; not before it is asked for, and no other port."""
    resolver.says(
        {
            "example.org": [FIRST, FIRST6],
            "www.example.org": ["=cdn.example.net"],
            "cdn.example.net": [SECOND],
            "badexample.org": [OTHER],
        }
    )
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "Example.org:443")
    assert hvtx.vm("web")["interfaces"][0]["egress"]["rules"] == ["allow example.org:443"]
    assert_reached(web, world, set())
    assert ask(web, "example.org") == [FIRST]
    assert_reached(web, world, {FIRST})
    assert ask(web, "example.org", "AAAA") == [FIRST6]
    assert ask(web, "badexample.org") == [OTHER]
    assert ask(web, "cdn.example.net") == [SECOND]
    assert_reached(web, world, {FIRST, FIRST6})
    assert SECOND in ask(web, "www.example.org")
    assert_reached(web, world, {FIRST, FIRST6, SECOND})
    assert_reached(web, world, set(), 80)
    assert hvtx("doctor").code == 0 or "names" not in hvtx("doctor").out


def test_names_do_not_take_the_uplink(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    """A guest that leaves by another device only, and that device is down, is told all the same."""
    resolver.says({"example.org": [FIRST]})
    lab.run("ip", "tuntap", "add", "other", "mode", "tun")
    lab.run("ip", "link", "set", "other", "up")
    hvtx("network", "set", "net", "--uplink", "other")
    lab.run("ip", "link", "set", "other", "down")
    web = run(hvtx, "web", "net")
    assert ask(web, "example.org") == [FIRST]
    assert silent(web, world, FIRST, 443)


def test_one_guests_name_is_not_anothers(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    resolver.says({"example.org": [FIRST], "example.net": [SECOND]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    two = run(hvtx, "two", "net", "--egress", "none", "--allow", "example.net")
    [pid] = services()
    same = run(hvtx, "same", "net", "--egress", "none", "--allow", "example.net:443")
    assert services() == [pid]  # it looks that name up already
    bare = run(hvtx, "bare", "net", "--egress", "none")
    for guest in (web, two, bare):
        ask(guest, "example.org")
        ask(guest, "example.net")
    assert_reached(web, world, {FIRST})
    assert_reached(two, world, {SECOND})
    assert_reached(same, world, {SECOND})
    assert_reached(bare, world, set())
    hvtx("vm", "stop", "two", "--force")
    assert_reached(web, world, {FIRST})
    assert "by names" not in hvtx("doctor", code=None).out


def test_an_answer_opens_nothing_that_is_closed(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    """DNS rebinding, and what the policy itself denies."""
    resolver.says({"example.org": [METADATA, PRIVATE, "10.77.0.1", OTHER, FIRST]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org", "--deny", OTHER)
    assert set(ask(web, "example.org")) >= {METADATA, PRIVATE, OTHER, FIRST}
    assert_reached(web, world, {FIRST})
    assert silent(web, None, GATEWAY4, 8000)


def test_a_networks_denial_holds_for_who_has_names(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    """A name of the network's opens nothing that it denies, to a VM with another name either."""
    resolver.says({"example.org": [FIRST, SECOND], "example.net": [OTHER]})
    words = ("--egress", "none", "--allow", "example.org", "--deny", SECOND)
    hvtx("network", "set", "net", *words)
    bare = run(hvtx, "bare", "net")
    more = run(hvtx, "more", "net", "--allow", "example.net")
    for guest in (bare, more):
        ask(guest, "example.org")
        ask(guest, "example.net")
    assert answers(bare, world, FIRST)
    assert silent(bare, world, SECOND)
    assert answers(more, world, FIRST)
    assert answers(more, world, OTHER)
    assert silent(more, world, SECOND)
    hvtx("vm", "set", "more", "--allow", "example.org:443")  # its own goes before its network's
    ask(more, "example.org")
    assert answers(more, world, SECOND)


def test_marks_of_others_open_nothing(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    """Somebody marks all packets with all bits: with the table of names, and without it."""
    resolver.says({"example.org": [FIRST], "example.net": [SECOND]})
    hvtx("network", "set", "net", "--egress", "none", "--allow", "example.net")
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    bare = run(hvtx, "bare", "net")
    marks = "add table inet others; add chain inet others marks "
    marks += "{ type filter hook prerouting priority -140; }; "
    lab.run("nft", f"{marks}add rule inet others marks meta mark set 0xe8000000")
    ask(web, "example.org")
    ask(bare, "example.net")
    assert answers(web, world, FIRST)
    assert silent(web, world, SECOND)
    assert answers(bare, world, SECOND)
    assert silent(bare, world, FIRST)
    [table] = tables()
    lab.run("nft", "delete", *table.split())
    for guest, address in ((web, FIRST), (web, METADATA), (bare, SECOND)):
        assert silent(guest, world, address)
    lab.run("nft", "delete", "table", "inet", "others")


def test_a_successor_that_never_served_has_learnt_nothing(
    hvtx: Program, resolver: Resolver, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration is written, and no process can be had: the next start has the name read."""
    resolver.says({"example.org": [FIRST]})
    hvtx("vm", "create", "web", "--network", "net", "--egress", "none", "--allow", "example.org",
         "--", sys.executable, str(GUEST))  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_spawned", _no_process)
        told = hvtx("vm", "start", "web", code=6)
    assert "cannot be started" in told.err
    hvtx("vm", "start", "web")
    web = GuestVm(hvtx, "web")
    assert ask(web, "example.org") == [FIRST]
    assert answers(web, world, FIRST)
    [pid] = services()
    two = run(hvtx, "two", "net", "--egress", "none", "--allow", "example.org")
    assert services() == [pid]  # it has learnt that by now
    assert answers(two, world, FIRST)


def test_a_dnsmasq_that_fills_no_sets_takes_the_place_of_none(
    hvtx: Program,
    resolver: Resolver,
    world: lab.Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was replaced while one serves: who has names cannot start, and the others are served."""
    resolver.says({"example.org": [FIRST], "example.net": [SECOND]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    for vm, name in (("two", "example.net"), ("same", "example.org")):
        hvtx("vm", "create", vm, "--network", "net", "--egress", "none", "--allow", name,
             "--", sys.executable, str(GUEST))  # fmt: skip
    [pid] = services()
    before = lab.dump()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{without_nftset(tmp_path / 'bin')}:{os.environ['PATH']}")
        told = hvtx("vm", "start", "two", code=6)
        assert services() == [pid]
        assert lab.difference(before, lab.dump()) == ""
        assert hvtx.vm("two")["state"] == "defined"
        bare = run(hvtx, "bare", "net")
        hvtx("vm", "start", "same")  # that name is looked up already
        same = GuestVm(hvtx, "same")
        assert services() == [pid]
        doctor = hvtx("doctor", "--json", code=1).json()["findings"]
    reason = f"names cannot be allowed: {tmp_path}/bin/dnsmasq fills no sets"
    assert reason in told.err
    [found] = [finding for finding in doctor if finding["check"] == "dhcp"]
    assert (found["level"], reason in found["message"]) == ("error", True)
    assert found["evidence"] == ["VM same", "VM two", "VM web"]
    assert f"hint: {found['hint']}\n" in told.err  # as the start says it
    assert "dhcp" not in errors(hvtx)
    for guest in (web, bare, same):
        assert ask(guest, "example.org") == [FIRST]
    assert answers(web, world, FIRST)
    hvtx("vm", "start", "two")
    two = GuestVm(hvtx, "two")
    assert ask(two, "example.net") == [SECOND]
    assert answers(two, world, SECOND)


def errors(hvtx: Program) -> set[str]:
    """What doctor calls an error."""
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    return {finding["check"] for finding in found if finding["level"] == "error"}


def test_doctor_tells_before_a_name_is_allowed(hvtx: Program, tmp_path: Path) -> None:
    """Nobody needs it yet, so nothing is wrong: it is what the finding rests on."""
    path = f"{without_nftset(tmp_path / 'bin')}:{os.environ['PATH']}"
    found = hvtx("doctor", "--json", code=None, PATH=path).json()["findings"]
    [told] = [finding for finding in found if finding["check"] == "dhcp"]
    assert told["level"] == "ok"
    assert [line.partition(": ")[0] for line in told["evidence"]] == ["names cannot be allowed"]
    refused = hvtx("vm", "create", "web", "--network", "net", "--egress", "none", "--allow",
                   "example.org", "--", "true", code=4, PATH=path)  # fmt: skip
    assert f"error: {told['evidence'][0]}\n" in refused.err


def without_nftset(directory: Path) -> Path:
    """Where a dnsmasq is that knows no sets of nftables, as before 2.87."""
    directory.mkdir()
    program = directory / "dnsmasq"
    real = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    program.write_text(
        f"""#!/bin/sh
case $1 in
--version) {real} --version | sed 's/ nftset/ no-nftset/'; exit ;;
--conf-file=*)
    if grep -q ^nftset= "${{1#--conf-file=}}"; then
        echo "dnsmasq: bad option at line 9 of ${{1#--conf-file=}}" >&2
        exit 1
    fi ;;
esac
exec {real} "$@"
"""
    )
    program.chmod(0o755)
    return directory


def _no_process(*_: object) -> tuple[int, int]:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_what_is_taken_away_ends(hvtx: Program, resolver: Resolver, world: lab.Namespace) -> None:
    """A living VM gets a name and loses it, with the flows by it; what another name has goes on."""
    resolver.says({"example.org": [FIRST], "example.net": [SECOND]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.net")
    pid = hvtx.vm("web")["pid"]
    hvtx("vm", "set", "web", "--allow", "example.org:443")
    ask(web, "example.org")
    ask(web, "example.net")
    assert_reached(web, world, {FIRST, SECOND})
    first, second = flow(web, world, FIRST), flow(web, world, SECOND)
    assert first.lives()
    assert second.lives()
    hvtx("vm", "set", "web", "--deny", OTHER)  # nothing of either
    assert first.lives()
    assert second.lives()
    hvtx("vm", "set", "web", "--no-rules", "--allow", "example.net")
    assert not first.lives()
    assert second.lives()
    assert_reached(web, world, {SECOND})
    hvtx("vm", "set", "web", "--no-rules")
    assert not second.lives()
    assert_reached(web, world, set())
    first.close()
    second.close()
    assert hvtx.vm("web")["pid"] == pid
    assert "nothing to do" in hvtx("gc", "--plan").out or hvtx("gc", "--plan").code == 0
    [table] = tables()  # empty, until dnsmasq is started again
    assert "jump vm_" not in lab.run("nft", "list", *table.split())


def flow(guest: GuestVm, world: lab.Namespace, to: str) -> Flow:
    found = Flow.__new__(Flow)
    import socket

    from integration.lab.firewall_contract import inside

    with inside(world):
        listener = socket.create_server((to, 443))
    listener.settimeout(10)
    with inside(guest):  # type: ignore[arg-type]
        found.near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.near.settimeout(5)
    found.near.connect((to, 443))
    found.far, _ = listener.accept()
    found.far.settimeout(5)
    listener.close()
    return found


def test_nothing_stays_of_a_vm_that_is_gone(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    resolver.says({"example.org": [FIRST]})
    mac = "02:00:00:00:00:77"
    policy = ("--egress", "none", "--allow", "example.org")
    web = run(hvtx, "web", "net", *policy, "--mac", mac)
    ask(web, "example.org")
    assert_reached(web, world, {FIRST})
    assert len(tables()) == 1
    hvtx("vm", "rm", "web", "--force")
    two = run(hvtx, "two", "net", "--egress", "none", "--mac", mac)
    ask(two, "example.org")
    assert_reached(two, world, set())
    hvtx("vm", "rm", "two", "--force")
    hvtx("network", "rm", "net")
    assert tables() == []


def test_who_keeps_a_table_holds_nobody_up_for_good(hvtx: Program) -> None:
    """Who comes, and who goes, waits as long as it was told to, and names who it is."""
    allow = ("--network", "net", "--egress", "none", "--allow", "example.org")
    run = ("--hypervisor", "command", "--", "sleep", "99")
    hvtx("vm", "run", "web", *allow, *run)
    (file,) = Path(os.environ["HVTX_RUN_DIR"]).glob(f"*/networks/*/{dnsmasq.NAMED_LOCK}")
    quick = ("--lock-timeout", "0.2")
    with stopped_with_lock_of(file) as pid:
        ran = hvtx(*quick, "vm", "run", "two", *allow, *run, code=75)
        assert f"{file} is held by another operation: pid {pid} " in ran.err
        ran = hvtx(*quick, "vm", "stop", "web", "--force", code=9)
        assert f"is held by another operation: pid {pid} " in ran.out + ran.err
        assert len(tables()) == 1
    hvtx("gc", "--apply")
    assert hvtx.is_clean()


def test_the_host_is_as_before_when_the_network_is_gone(hvtx: Program, resolver: Resolver) -> None:
    """Whole dumps: the table, its sets and what dnsmasq put into them go with the network."""
    resolver.says({"example.org": [FIRST]})
    other = ("--subnet", "10.77.1.0/24", "--egress", "none", "--allow", "example.org:443")
    run(hvtx, "first", "net", "--egress", "none")  # what policies stand on stays with a network
    before = lab.dump()
    hvtx("network", "create", "other", *other)
    web = run(hvtx, "web", "other", "--allow", "example.net")
    told = web.run(sys.executable, str(LAB / "dhcp.py"), "ask", "10.77.1.1", "example.org", "A")
    assert json.loads(told)["addresses"] == [FIRST]
    assert any("8.8.4.4" in lab.run("nft", "list", *table.split()) for table in tables())
    hvtx("vm", "rm", "web", "--force")
    hvtx("network", "rm", "other")
    assert lab.difference(before, lab.dump()) == ""


def test_it_is_collected_and_put_back(
    hvtx: Program, resolver: Resolver, world: lab.Namespace
) -> None:
    resolver.says({"example.org": [FIRST]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    ask(web, "example.org")
    [table] = tables()
    plan = hvtx("gc", "--plan", "--json").json()
    assert not any(item["action"] != "skip" for item in plan["items"]), plan
    lab.run("nft", "delete", *table.split())
    assert_reached(web, world, set())
    told = hvtx("doctor", code=1)
    assert "was gone, and guests reached nothing by its name" in told.out
    hvtx("repair")
    assert tables() == [table]
    ask(web, "example.org")
    assert_reached(web, world, {FIRST})
    os.kill(hvtx.vm("web")["pid"], signal.SIGKILL)
    until("its end", lambda: hvtx.vm("web")["state"] == "crashed")
    hvtx("gc", "--apply")
    listed = lab.run("nft", "list", *table.split())
    assert "jump vm_" not in listed


def test_of_a_network(hvtx: Program, resolver: Resolver, world: lab.Namespace) -> None:
    """A network's names hold for its guests, but for one that says a mode itself."""
    resolver.says({"example.org": [FIRST], "example.net": [SECOND]})
    web = run(hvtx, "web", "net")
    own = run(hvtx, "own", "net", "--egress", "none", "--allow", "example.net")
    more = run(hvtx, "more", "net", "--allow", "example.net")
    hvtx("network", "set", "net", "--egress", "none", "--allow", "example.org:443")
    for guest in (web, own, more):
        ask(guest, "example.org")
        ask(guest, "example.net")
    assert_reached(web, world, {FIRST})
    assert_reached(own, world, {SECOND})
    assert_reached(more, world, {FIRST, SECOND})
    hvtx("network", "set", "net", "--no-rules")
    assert_reached(web, world, set())
    ask(more, "example.net")
    assert_reached(more, world, {SECOND})


def test_what_cannot_be_is_refused(hvtx: Program) -> None:
    hvtx("network", "create", "bare", "--subnet", "10.78.0.0/24", "--no-dhcp")
    before = lab.dump()
    for words in (
        ("vm", "create", "a", "--network", "bare", "--allow", "example.org"),
        (
            "network",
            "create",
            "b",
            "--subnet",
            "10.79.0.0/24",
            "--no-dhcp",
            "--allow",
            "example.org",
        ),
        ("network", "set", "bare", "--allow", "example.org"),
    ):
        told = hvtx(*words, code=4)
        assert "needs the network's own DNS" in told.err
    hvtx("vm", "create", "web", "--network", "net", "--allow", "example.org")
    told = hvtx("network", "set", "net", "--no-dhcp", code=4)
    assert "looks up" in told.err
    told = hvtx("vm", "create", "c", "--network", "net", "--deny", "example.org", code=2)
    assert "only addresses and subnets can be denied" in told.err
    assert lab.difference(before, lab.dump()) == ""


def test_of_a_lost_store_the_table_goes_with_the_rest(
    hvtx: Program, resolver: Resolver, tmp_path: Path
) -> None:
    run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    assert len(tables()) == 1
    installation = tables()[0].split("-")[1]
    end_vms(hvtx)
    other = Forked(
        HVTX_DHCP="auto",
        HVTX_STATE_DIR=str(tmp_path / "2"),
        HVTX_RUN_DIR=os.environ["HVTX_RUN_DIR"],
    )
    other("network", "create", "beside", "--subnet", "10.78.0.0/24")
    shutil.rmtree(os.environ["HVTX_STATE_DIR"])
    other("gc", "--apply", "--installation", installation, "--yes")
    assert tables() == []
    assert not other("repair", "--json").json()["repaired"]
    other("network", "rm", "beside")


@pytest.mark.parametrize("nat", ["--nat", "--no-nat"])
def test_an_answer_opens_no_neighbour_with_an_address_of_the_world(
    hvtx: Program, resolver: Resolver, world: lab.Namespace, nat: str
) -> None:
    """A network beside it whose subnets are public: no name leads there."""
    subnets = ("--subnet", "11.7.0.0/24", "--subnet", "2606:4700:7::/64")
    hvtx("network", "create", "beside", *subnets, nat)
    two = run(hvtx, "two", "beside")
    resolver.says({"example.org": [two.ipv4, two.ipv6, FIRST]})
    web = run(hvtx, "web", "net", "--egress", "none", "--allow", "example.org")
    assert set(ask(web, "example.org")) == {two.ipv4, FIRST}
    assert ask(web, "example.org", "AAAA") == [two.ipv6]
    assert answers(web, world, FIRST)
    assert silent(web, two, two.ipv4)
    assert silent(web, two, two.ipv6)
