"""Bad input: the documented exit code, a sentence and a hint, and nothing is changed.

Each refusal is made twice where it can be: on a host that hvtx never touched, and beside a network
with a running VM. The oracle is everything: dumps of the whole host and every row of the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, Ran, preload

NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SLEEP = ("--", "sleep", "600")


@pytest.fixture
def hvtx() -> Program:
    preload()
    return Forked()


@pytest.fixture
def peopled(hvtx: Program) -> Iterator[Program]:
    """A network `net` (both families) with a running VM `web`: 10.77.0.2, port 8080."""
    hvtx(*NETWORK)
    hvtx("vm", "run", "web", "--network", "net", "--mac", "02:00:00:00:00:01", "-p", "8080:80",
         "-p", "203.0.113.1:9090:90", "-p", "5353:53/udp", *SLEEP)  # fmt: skip
    yield hvtx
    hvtx("vm", "rm", "web", "--force", code=None)


def refused(hvtx: Program, *arguments: str, code: int, word: str = "") -> Ran:
    """A refusal that changes nothing and says why in one line, and how to fix it in another."""
    with witness.unchanged():
        ran = hvtx(*arguments, code=code)
        lines = ran.err.splitlines()
        assert lines, ran
        assert lines[0].startswith("error: "), ran.err
        assert len(lines) == 2, ran.err
        assert lines[1].startswith("hint: "), ran.err
        assert word in lines[0], ran.err
        assert ran.out == ""
    with witness.unchanged():
        first, *others = arguments
        told = hvtx(first, "--json", *others, code=code) if first in ONE_WORD else hvtx(
            first, others[0], "--json", *others[1:], code=code
        )  # fmt: skip
        error = json.loads(told.err)["error"]
        assert set(error) == {"code", "message", "hint"}
        assert error["hint"]
        assert told.out == ""
    return ran


ONE_WORD = ("gc", "recover", "intents", "log", "metrics")

HOSTILE = [
    "", " ", ".", "..", "../x", "a/b", "-", "a-", "Web", "wéb", "ｗeb", "web\n", "web\x00"[:3] + "\x01",
    "%d", "{vm}", "a_b", "a.b", "a b", "$(id)", "`id`", "a;b", "a'--", 'a"b', "a{b}", "x" * 64, "x" * 5000,
    "\u202eweb", "web\u0301", "١", "\x1b[31m", "*", "a|b", "a\\b", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(n)[:20] for n in HOSTILE])
def test_hostile_names_are_refused_everywhere(hvtx: Program, name: str) -> None:
    """A name is [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? and nothing else, for VMs and networks."""
    for argv in (
        ("vm", "create", "--network", "net", name, *SLEEP),
        ("vm", "run", name, *SLEEP),
        ("network", "create", "--subnet", "10.77.0.0/24", name),
        ("vm", "create", "web", "--network", name, *SLEEP),
    ):
        if name.startswith("-") and name != "-":
            continue
        ran = hvtx(*argv, code=2)
        assert ran.err.startswith("error: "), ran.err
        assert "\x1b" not in ran.err
        assert len(ran.err.splitlines()) <= 2, ran.err
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists(), "refused before there is a store"


def test_names_at_their_limits_are_taken(hvtx: Program) -> None:
    hvtx(*NETWORK)
    for name in ("a", "0", "x" * 63, "a--b", "1-2"):
        hvtx("vm", "create", name, "--network", "net", *SLEEP)
        hvtx("vm", "rm", name)


def test_hostile_names_that_are_looked_up(peopled: Program) -> None:
    """What does not exist is 3 (or 2 if it never could), and the terminal is not obeyed."""
    for name in (*HOSTILE, "nobody"):
        for verb in ("show", "start", "stop", "rm", "logs", "console"):
            ran = peopled("vm", verb, "--", name, code=None)
            assert ran.code in (2, 3), (name, verb, ran)
            assert ran.err.startswith("error: "), ran
            assert "\x1b" not in ran.err
        for verb in ("show", "rm"):
            ran = peopled("network", verb, "--", name, code=None)
            assert ran.code in (2, 3), (name, verb, ran)


BAD_BRIDGES = ["x" * 16, "a b", "a/b", "..", ".", "%d", "br%d", "-x", "", "brü", "a:b", "a\n", "all", "default"]  # fmt: skip


@pytest.mark.parametrize("name", BAD_BRIDGES)
def test_bad_bridge_names(hvtx: Program, name: str) -> None:
    refused(
        hvtx, "network", "create", "net", "--subnet", "10.77.0.0/24", f"--bridge={name}", code=2
    )


BAD_SUBNETS = [
    "10.77.0.1/24", "10.77.0.0/31", "10.77.0.0/32", "10.77.0.0/33", "10.77.0.0/-1", "10.77.0.0",
    "10.77.0.0/", "10.77.0/24", "10.77.0.0/24/24", "10.77.0.0/٢٤", "10.077.0.0/24", "300.0.0.0/24", "",
    "x", "10.77.0.0/0", "127.0.0.0/24", "224.0.0.0/24", "0.0.0.0/24", "255.255.255.0/24", "240.0.0.0/24",
    "fd77::1/64", "fd77::/127", "fd77::/128", "fd77::/129", "::/64", "ff02::/64", "fe80::/64", "::1/128",
    "fd77::%1/64", " 10.77.0.0/24", "10.77.0.0/24\n", "::ffff:10.0.0.0/120",
]  # fmt: skip


@pytest.mark.parametrize("subnet", BAD_SUBNETS)
def test_bad_subnets(hvtx: Program, subnet: str) -> None:
    """Host bits, too small, malformed, and what no guest can live in."""
    refused(hvtx, "network", "create", "net", "--subnet", subnet, code=2)


def test_wrong_combinations_of_subnets(hvtx: Program) -> None:
    refused(hvtx, "network", "create", "net", code=2)
    two = ("--subnet", "10.77.0.0/24", "--subnet", "10.78.0.0/24")
    refused(hvtx, "network", "create", "net", *two, code=2)
    six = ("--subnet", "fd77::/64", "--subnet", "fd78::/64")
    refused(hvtx, "network", "create", "net", *six, code=2)
    for mtu in ("0", "-1", "67", "65536", "x", "1e3", "١٥٠٠"):
        refused(
            hvtx, "network", "create", "net", "--subnet", "10.77.0.0/24", f"--mtu={mtu}", code=2
        )
    refused(hvtx, "network", "create", "net", "--subnet", "fd77::/64", "--mtu", "1279", code=2)


OVERLAPS = ["10.77.0.0/24", "10.77.0.128/25", "10.0.0.0/8", "10.77.0.0/30", "fd77::/64", "fd77::/48",
            "fd77::8000:0:0:0/65"]  # fmt: skip


@pytest.mark.parametrize("subnet", OVERLAPS)
def test_subnets_that_overlap_a_network(peopled: Program, subnet: str) -> None:
    refused(peopled, "network", "create", "other", "--subnet", subnet, code=4)


def test_subnets_that_overlap_the_host(hvtx: Program, world: lab.Namespace) -> None:
    """An address, a route through another device, a route in another table, a prefix inside."""
    lab.run("ip", "route", "add", "10.99.0.0/16", "via", lab.WORLD4)
    lab.run("ip", "route", "add", "10.98.0.0/16", "via", lab.WORLD4, "table", "77")
    lab.run("ip", "route", "add", "unreachable", "10.97.0.0/16")
    lab.run("ip", "-6", "route", "add", "fd99::/48", "via", lab.WORLD6)
    lab.run("ip", "addr", "add", "10.96.0.1/32", "dev", "lo")
    witness.settle()
    for subnet in ("203.0.113.0/24", "203.0.113.128/25", "203.0.0.0/16", "10.99.1.0/24", "10.98.1.0/24",
                   "10.97.1.0/24", "10.0.0.0/8", "fd99::/64", "10.96.0.0/24", "2001:db8:113::/64"):  # fmt: skip
        refused(hvtx, "network", "create", "net", "--subnet", subnet, code=4)


def test_a_bridge_that_is_there(peopled: Program) -> None:
    lab.run("ip", "link", "add", "br-x", "type", "bridge")
    ours = peopled("network", "show", "net", "--json").json()["bridge"]
    lab.run("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
    for name in ("br-x", "eth7", "lo", ours):
        argv = ("network", "create", "other", "--subnet", "10.78.0.0/24", "--bridge", name)
        refused(peopled, *argv, code=4, word=name)
    refused(peopled, "network", "create", "net", "--subnet", "10.78.0.0/24", code=4, word="net")


BAD_PORTS = [
    "0:80", "65536:80", "80:0", "80:65536", "80:90:100", "80-90:80", "80", ":80", "80:", "", "x:80",
    "١:80", "80:١", "+80:80", "-1:80", "8e1:80", "80 :80", " 80:80", "080000:80", "80:80/", "80:80/sctp",
    "80:80/TCP ", "80:80/tcp/udp", "1.2.3:80:80", "1.2.3.4.5:80:80", "300.1.1.1:80:80", "::1:80:80",
    "[::1:80:80", "[]:80:80", "[1.2.3.4]:80:80", "224.0.0.1:80:80", "80:80\n", "999999999999:80", "host:80:80",
    "[fe80::1%eth0]:80:80", "[fe80::1]:80:80", "[::1]:80:80", "[0:0::1]:80:80/udp", "0.0.0.5:80:80",
    "255.255.255.255:80:80", "240.0.0.1:80:80", "[ff02::1]:80:80", "[::ffff:127.0.0.1]:80:80",
]  # fmt: skip


@pytest.mark.parametrize("port", BAD_PORTS)
def test_bad_ports(hvtx: Program, port: str) -> None:
    for verb in ("create", "run"):
        ran = hvtx("vm", verb, "web", f"--publish={port}", *SLEEP, code=2)
        assert ran.err.startswith("error: ")
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()


TAKEN_PORTS = ["8080:1", "0.0.0.0:8080:1", "[::]:8080:1", "127.0.0.1:8080:1", "203.0.113.1:9090:1", "9090:1",
               "0.0.0.0:9090:1", "5353:1/udp", "[::]:9090:1"]  # fmt: skip


@pytest.mark.parametrize("port", TAKEN_PORTS)
def test_ports_of_another_vm(peopled: Program, port: str) -> None:
    for verb in ("create", "run"):
        refused(
            peopled, "vm", verb, "two", "--network", "net", "-p", port, *SLEEP, code=4, word="web"
        )


def test_ports_that_do_not_collide(peopled: Program) -> None:
    """Another protocol, or two HOSTIPs that differ."""
    for number, port in enumerate(
        ("8080:80/udp", "203.0.113.2:9090:1", "5353:53", "[fd99::1]:9090:1")
    ):
        peopled("vm", "create", f"vm{number}", "--network", "net", "-p", port, *SLEEP)


def test_one_vm_that_publishes_a_port_twice(hvtx: Program) -> None:
    for one, two in (("80:1", "80:2"), ("80:1", "0.0.0.0:80:2"), ("1.2.3.4:80:1", "80:2")):
        ran = hvtx("vm", "create", "web", "-p", one, "-p", two, *SLEEP, code=None)
        assert ran.code in (2, 4), ran


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("where", ["0.0.0.0", "127.0.0.1", "::", "::1"])
def test_a_port_that_a_program_of_the_host_has(hvtx: Program, where: str, kind: str) -> None:
    """A socket is a conflict at create, and again at start."""
    hvtx(*NETWORK)
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    hvtx("vm", "create", "early", "--network", "net", "-p", f"7000:80/{kind}", *SLEEP)
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as taken:
        taken.bind((where, 7000))
        if kind == "tcp":
            taken.listen()
        refused(hvtx, "vm", "start", "early", code=4, word="7000")
        hvtx("vm", "rm", "early")
        refused(
            hvtx, "vm", "create", "web", "--network", "net", "-p", f"7000:80/{kind}", *SLEEP, code=4
        )
        refused(
            hvtx, "vm", "run", "web", "--network", "net", "-p", f"7000:80/{kind}", *SLEEP, code=4
        )
    hvtx("vm", "create", "web", "--network", "net", "-p", f"7000:80/{kind}", *SLEEP)


BAD_ADDRESSES = [
    "10.77.0.0", "10.77.0.255", "10.77.0.1", "10.78.0.5", "0.0.0.0", "255.255.255.255", "224.0.0.1",
    "fd77::", "fd77::1", "fd78::5", "::", "::1", "ff02::1", "fe80::5",
    "x", "", "10.77.0", "10.77.0.256", "10.77.0.5/24", "10.77.0.05", "١٠.77.0.5", "10.77.0.5 ", "fd77::5%eth0",
    "::ffff:10.77.0.5",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_addresses_that_no_guest_can_have(peopled: Program, address: str) -> None:
    for verb in ("create", "run"):
        argv = ("vm", verb, "two", "--network", "net", f"--ip={address}", *SLEEP)
        refused(peopled, *argv, code=2)


def test_addresses_and_macs_that_are_taken(peopled: Program) -> None:
    for argv in (("--ip", "10.77.0.2"), ("--ip", "fd77::2"), ("--ip", "FD77:0::2"),
                 ("--mac", "02:00:00:00:00:01")):  # fmt: skip
        refused(
            peopled, "vm", "create", "two", "--network", "net", *argv, *SLEEP, code=4, word="web"
        )
        refused(peopled, "vm", "run", "two", "--network", "net", *argv, *SLEEP, code=4, word="web")


BAD_MACS = ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "03:00:00:00:00:01",
            "00:00:00:00:00:00", "02:00:00:00:00", "02:00:00:00:00:00:01", "02-00-00-00-00-01", "0200.0000.0001",
            "x", "", "02:00:00:00:00:0g", "٠2:00:00:00:00:01", "02:00:00:00:00:01\n"]  # fmt: skip


@pytest.mark.parametrize("mac", BAD_MACS)
def test_bad_macs(hvtx: Program, mac: str) -> None:
    refused(hvtx, "vm", "create", "web", f"--mac={mac}", *SLEEP, code=2)


WRONG_WISHES = [
    ("--kernel", "/dev/null", *SLEEP), ("--hypervisor", "xen", *SLEEP), ("--hypervisor", "command"),
    ("--hypervisor", "qemu", *SLEEP), ("--hypervisor", "external", *SLEEP), ("--memory", "0", *SLEEP),
    ("--memory", "x", *SLEEP), ("--cpus", "0", *SLEEP), ("--cpus=-1", *SLEEP), ("--initrd", "/dev/null"),
    ("--hypervisor", "cloud-hypervisor", "--disk", "/dev/null"), ("--hypervisor", "firecracker"),
    ("--hypervisor", "cloud-hypervisor", "--kernel", "/dev/null", "--disk", "/dev/a,b.raw"),
    ("--hypervisor", "firecracker", "--kernel", "/dev/null", "--disk", "/dev/a.qcow2"),
    ("--append", "x"), ("--no-such-option", *SLEEP), ("sleep", "600"),
    ("--ip", "10.77.0.5", "--ip", "10.77.0.5", *SLEEP), ("--network", "a", "--network", "a", *SLEEP),
    ("--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:02", *SLEEP), ("stray", *SLEEP),
    ("--network", "a", "--network", "b", "--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:01", *SLEEP),
]  # fmt: skip


@pytest.mark.parametrize("wish", WRONG_WISHES, ids=" ".join)
def test_wrong_combinations(
    hvtx: Program, wish: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(hvtx, "vm", "create", "web", *wish, code=2)


@pytest.mark.parametrize("argv", [
    ("gc",), ("gc", "--plan", "file"), ("gc", "--plan", "--unrecorded"), ("gc", "--apply", "--all"),
    ("gc", "--apply", "--out", "x"), ("gc", "--apply", "--detailed-exitcode"), ("log", "-n", "0"),
    ("log", "-n", "x"), ("vm", "stop", "web", "--timeout", "x"), ("vm", "stop", "web", "--timeout=-1"),
    ("vm", "stop", "web", "--timeout=nan"), ("vm", "attach", "web"), ("vm", "attach", "web", "--pid", "0"),
    ("vm", "attach", "web", "--pid", "x"), ("vm", "frobnicate"), ("vm", "start"), ("vm", "restart", "a", "b"),
    ("recover", "x"),
], ids=" ".join)  # fmt: skip
def test_usage_errors(hvtx: Program, argv: tuple[str, ...]) -> None:
    refused(hvtx, *argv, code=2)


def test_what_a_hypervisor_can_never_start(
    hvtx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 at `create` and `set`, before anything is made: by what a disk is, and by where it is."""
    kernel, disk = tmp_path / "vmlinux", tmp_path / "a.img"
    place = tmp_path / "a,b"
    place.mkdir()
    for path in (kernel, disk, place / "d.raw"):
        path.write_bytes(bytes(512))
    (tmp_path / "qcow2.img").write_bytes(b"QFI\xfb\0\0\0\3" + bytes(504))
    words = {"firecracker": "reads raw disks only", "cloud-hypervisor": "a comma in its path"}
    wrong = {"firecracker": tmp_path / "qcow2.img", "cloud-hypervisor": place / "d.raw"}
    for hypervisor, word in words.items():
        of = ("--hypervisor", hypervisor, "--kernel", str(kernel))
        bad = ("--disk", str(wrong[hypervisor]))
        for verb in ("create", "run"):
            refused(hvtx, "vm", verb, "web", *of, *bad, code=2, word=word)
        hvtx("vm", "create", hypervisor, *of, "--disk", str(disk))
        refused(hvtx, "vm", "set", hypervisor, *bad, code=2, word=word)
        refused(hvtx, "vm", "set", hypervisor, "--no-kernel", code=2, word="needs --kernel")
    monkeypatch.chdir(place)
    refused(
        hvtx, "vm", "create", "web", "--hypervisor", "cloud-hypervisor", "--kernel", str(kernel),
        "--disk", "d.raw", code=2, word="a comma in its path",
    )  # fmt: skip


def test_what_does_not_exist(hvtx: Program, tmp_path: Path) -> None:
    """3, before anything is made: VM, network, plan, kernel, initrd, disk, hypervisor, process."""
    missing = str(tmp_path / "missing")
    there = str(tmp_path / "there")
    Path(there).write_text("")
    for argv in (
        ("vm", "start", "web"), ("vm", "stop", "web"), ("vm", "rm", "web"), ("vm", "rm", "web", "--force"),
        ("network", "rm", "net"), ("vm", "attach", "web", "--pid", "1"),
    ):  # fmt: skip
        hvtx(*argv, code=3)
    refused(hvtx, "gc", "--apply", missing, code=3, word=missing)
    for argv in (("vm", "show", "web"), ("network", "show", "net"), ("vm", "logs", "web")):
        hvtx(*argv, code=3)
    for verb in ("create", "run"):
        refused(hvtx, "vm", verb, "web", "--network", "nowhere", *SLEEP, code=3, word="nowhere")
        refused(hvtx, "vm", verb, "web", "--kernel", missing, code=3, word=missing)
        refused(
            hvtx, "vm", verb, "web", "--kernel", there, "--initrd", missing, code=3, word=missing
        )
        refused(hvtx, "vm", verb, "web", "--disk", missing, code=3, word=missing)
    refused(hvtx, "vm", "run", "web", "--", "no-such-program", code=3, word="no-such-program")
    refused(hvtx, "vm", "run", "web", "--", missing, code=3, word=missing)
    ran = refused(
        hvtx, "vm", "run", "web", "--hypervisor", "cloud-hypervisor", "--kernel", there, code=3
    )
    assert "hint:" in ran.err


def test_a_kernel_that_goes_between_create_and_start(hvtx: Program, tmp_path: Path) -> None:
    hvtx(*NETWORK)
    kernel = tmp_path / "kernel"
    kernel.write_text("")
    hvtx("vm", "create", "web", "--network", "net", "--kernel", str(kernel))
    kernel.unlink()
    refused(hvtx, "vm", "start", "web", code=3, word=str(kernel))


def test_a_bad_request_does_not_even_make_the_default_network(
    hvtx: Program, tmp_path: Path
) -> None:
    """`default` is made at first use, and a refused VM uses nothing."""
    hvtx(*NETWORK)
    hvtx("vm", "create", "web", "--network", "net", "--mac", "02:00:00:00:00:01", *SLEEP)
    refused(hvtx, "vm", "create", "two", "--ip", "203.0.113.5", *SLEEP, code=2)
    refused(hvtx, "vm", "create", "two", "--ip", "fd00::5", *SLEEP, code=2)
    refused(hvtx, "vm", "create", "two", "--mac", "02:00:00:00:00:01", *SLEEP, code=4)
    refused(hvtx, "vm", "run", "two", "--", "no-such-program", code=3)
    refused(hvtx, "vm", "create", "web", *SLEEP, code=4)


BAD_GLOBALS = [
    ("--firewall", "pf"), ("--lock-timeout", "x"), ("--lock-timeout", "-1"), ("--lock-timeout", "nan"),
    ("--lock-timeout", "inf"), ("--no-such",),
]  # fmt: skip


@pytest.mark.parametrize("argv", BAD_GLOBALS, ids=" ".join)
def test_bad_global_options(hvtx: Program, argv: tuple[str, ...]) -> None:
    for command in (("vm", "ls"), (*NETWORK,)):
        ran = hvtx(*argv, *command, code=2)
        assert ran.err.startswith("error: ")


def test_bad_configurations(hvtx: Program, tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    for text, code in (('firewall = "pf"', 2), ('lock_timeout = "x"', 2), ("x = 1", 2), ("[", 2),
                       ("\xff", 2), ("state_dir = 5", 2), ("lock_timeout = true", 2)):  # fmt: skip
        config.write_bytes(text.encode("latin-1"))
        for option in ((), ("--config", str(config))):
            ran = hvtx(*option, "vm", "ls", code=code, HVTX_CONFIG=str(config))
            assert str(config) in ran.err or "firewall" in ran.err or "lock" in ran.err, ran.err
    hvtx("--config", str(tmp_path / "none"), "vm", "ls", code=3)


EMPTY_FILES = [
    ("gc", "--apply", ""), ("gc", "--heuristic", "--apply", "--yes", ""), ("gc", "--plan", "--out", ""),
    ("gc", "--plan", "--html", ""), ("gc", "--heuristic", "--plan", "--out", ""),
    ("metrics", "--textfile", ""), ("systemd", "print", "--metrics", ""),
    ("cni", "print", "--conf", ""), ("cni", "uninstall", "--dir", ""),
    ("systemd", "uninstall", "--root", ""), ("import", "my-hypervisor", ""),
    ("vm", "create", "two", "--kernel", ""), ("vm", "create", "two", "--kernel", "/dev/null", "--initrd", ""),
    ("vm", "create", "two", "--disk", ""), ("vm", "create", "two", "--hypervisor", "", "--disk", "/dev/null"),
    ("vm", "create", "two", "--", ""),
]  # fmt: skip


def test_empty_file_names(peopled: Program) -> None:
    """A shell variable that was not set must not mean "none", nor the directory here."""
    for argv in EMPTY_FILES:
        refused(peopled, *argv, code=2)


# -- a host that lacks things --------------------------------------------------------------------


def test_arguments_that_are_no_text(hvtx: Program) -> None:
    """Bytes that are no UTF-8 are refused with a sentence, or kept; never a traceback."""
    hvtx(*NETWORK)
    for argv in (
        ("vm", "create", "web", "--network", "net", "--", "sleep", "\udcff"),
        ("vm", "create", "web", "--kernel", "/tmp/\udcff"),
        ("gc", "--apply", "/tmp/\udcff"), ("log", "--vm", "\udcff"),
    ):  # fmt: skip
        ran = hvtx(*argv, code=None)
        assert "Traceback" not in ran.err, (argv, ran.err)


PREAMBLE = "import sys; sys.argv = ['hvtx', *sys.argv[1:]]; from hvtx.__main__ import main; main()"

# Refuses socket(AF_NETLINK, …, NETLINK_NETFILTER) as a kernel without nfnetlink does.
WITHOUT_NETFILTER = """
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def op(code, k, jt=0, jf=0): return struct.pack('=HBBI', code, jt, jf, k)
import platform
nr = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
program = b''.join([
    op(0x20, 0), op(0x15, nr, 0, 5),
    op(0x20, 16), op(0x15, 16, 0, 3),
    op(0x20, 32), op(0x15, 12, 0, 1),
    op(0x06, 0x00050000 | 93), op(0x06, 0x7FFF0000),
])
buffer = ctypes.create_string_buffer(program)
class Prog(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
prog = Prog(len(program) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(prog), 0, 0) == 0, ctypes.get_errno()
"""


def called(prefix: list[str], code: str, *arguments: str, **environment: str) -> Ran:
    """The program with something done to its process before; ``prefix`` is what runs Python."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code + PREAMBLE, *arguments],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def said(ran: Ran, code: int) -> None:
    assert ran.code == code, ran
    assert ran.err.startswith("error: "), ran.err
    assert "Traceback" not in ran.err
    assert "\nhint: " in ran.err, ran.err


CHANGING = [
    NETWORK, ("vm", "run", "two", "--network", "net", *SLEEP), ("vm", "start", "web"), ("vm", "stop", "web"),
]  # fmt: skip


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_without_netfilter(hvtx: Program, firewall: str) -> None:
    """A kernel that has no nfnetlink: 6, undone."""
    create = ("--firewall", firewall, *NETWORK)
    with witness.undone():
        said(called([], WITHOUT_NETFILTER, *create), 6)
    assert hvtx.is_clean()
    hvtx(*create)
    with witness.undone():
        said(
            called(
                [], WITHOUT_NETFILTER, "vm", "run", "web", "--network", "net", "-p", "80:80", *SLEEP
            ),
            6,
        )
    assert hvtx.is_clean()


def hide(path: str) -> list[str]:
    """A command prefix: in a mount namespace of its own where ``path`` is not to be seen."""
    script = 'mount --make-rprivate / && mount -t tmpfs none "$0" && exec "$@"'
    return ["unshare", "-m", "--", "sh", "-c", script, path]


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_without_a_tun_device(hvtx: Program, firewall: str) -> None:
    """No /dev/net/tun: 6, undone, for a network (its guests could not live) as for a VM."""
    with witness.undone():
        ran = called(hide("/dev/net"), "", "--firewall", firewall, *NETWORK)
        said(ran, 6)
        assert "/dev/net/tun" in ran.err
    assert hvtx.is_clean()
    hvtx("--firewall", firewall, *NETWORK)
    with witness.undone():
        ran = called(hide("/dev/net"), "", "vm", "run", "web", "--network", "net", *SLEEP)
        said(ran, 6)
        assert "/dev/net/tun" in ran.err
    assert hvtx.is_clean()


NO_NET_ADMIN = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


@pytest.mark.parametrize("prefix", [NO_NET_ADMIN], ids=["no CAP_NET_ADMIN"])
def test_without_the_capability(peopled: Program, prefix: list[str]) -> None:
    with witness.unchanged():
        for argv in (
            ("network", "create", "two", "--subnet", "10.78.0.0/24"), ("network", "rm", "net"),
            ("vm", "create", "two", "--network", "net", *SLEEP), ("vm", "start", "web"), ("vm", "stop", "web"),
            ("vm", "rm", "web", "--force"), ("vm", "run", "two", *SLEEP), ("gc", "--apply"), ("recover",),
        ):  # fmt: skip
            said(called(prefix, "", *argv), 5)
        for argv in (("gc", "--plan"), ("gc", "--apply"), ("recover",), ("repair",)):
            ran = called(prefix, "", *argv, "--json")
            assert (ran.code, json.loads(ran.out)["refused"]) == (5, "cannot-observe"), ran
    for argv in (("vm", "ls"), ("vm", "show", "web"), ("network", "ls"), ("intents",), ("log",)):
        assert called(prefix, "", *argv).code == 0


def test_a_doctor_without_the_capability_says_so_in_findings_alone(peopled: Program) -> None:
    """Libraries have words of their own for standard error; a finding has a fix."""
    for more in ((), ("--json",)):
        ran = called(NO_NET_ADMIN, "", "doctor", *more)
        assert (ran.code, ran.err) == (1, "")
    findings = json.loads(ran.out)["findings"]
    unknown = ("could not be checked", "unknown: ")
    unseen = [f for f in findings if any(words in f["message"] for words in unknown)]
    assert {"netfilter", "forward", "damage"} <= {f["check"] for f in unseen}
    for finding in unseen:
        assert finding["hint"], finding


def test_without_the_capability_no_store_is_made(tmp_path: Path) -> None:
    said(called(NO_NET_ADMIN, "", "vm", "create", "web", *SLEEP), 5)
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()


def test_another_user(peopled: Program, tmp_path: Path) -> None:
    """The store is not readable for others: 5, for reading and for changing."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o700 == path.stat().st_mode & 0o777:  # pytest's own, private ones
            path.chmod(0o755)
    lab.need_python_for_others()
    with witness.unchanged():
        for argv in (("vm", "ls"), ("vm", "show", "web"), ("vm", "start", "web"), ("gc", "--plan"),
                     ("vm", "create", "two", "--network", "net", *SLEEP), ("recover",)):  # fmt: skip
            said(called(NOBODY, "", *argv), 5)
        ran = called(NOBODY, "", "vm", "create", "x", *SLEEP, HVTX_STATE_DIR=str(tmp_path / "new"))
        said(ran, 5)
        assert not (tmp_path / "new").exists()


# -- disks ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[..., Ran]]:
    """A tmpfs at ``path`` in a mount namespace of its own; runs programs in there."""
    path.mkdir(exist_ok=True)
    script = 'mount --make-rprivate / && mount -t tmpfs -o size="$2" none "$1" && echo ready && exec sleep 600'
    keeper = subprocess.Popen(
        ["unshare", "-m", "--", "sh", "-c", script, "sh", str(path), size],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        enter = ["nsenter", "-t", str(keeper.pid), "-m", "--"]

        def inside(*argv: str, **environment: str) -> Ran:
            done = subprocess.run(
                [*enter, *argv], capture_output=True, text=True, check=False, timeout=60,
                stdin=subprocess.DEVNULL, env={**os.environ, **environment},
            )  # fmt: skip
            return Ran(done.returncode, done.stdout, done.stderr)

        yield inside
    finally:
        keeper.kill()
        keeper.wait()
        if keeper.stdout:
            keeper.stdout.close()


HVTX = (sys.executable, "-m", "hvtx")


@pytest.mark.parametrize("size", ["4k", "16k", "64k", "100k"])
def test_a_disk_too_small_for_a_store(tmp_path: Path, size: str) -> None:
    """The store cannot even be made: 7, and no piece of it is left lying."""
    before = lab.dump()
    with small_disk(tmp_path / "disk", size) as inside:
        state = str(tmp_path / "disk" / "state")
        said(inside(*HVTX, *NETWORK, HVTX_STATE_DIR=state), 7)
        assert "hvtx.db" not in inside("find", state).out, "pieces of a store"
    assert lab.difference(before, lab.dump()) == ""


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_a_full_disk(tmp_path: Path, firewall: str) -> None:
    """The store cannot be written: 7, nothing in the host, and all is well once there is room."""
    disk = tmp_path / "disk"
    with small_disk(disk, "2m") as inside:
        environment = {"HVTX_STATE_DIR": str(disk / "state"), "HVTX_FIREWALL": firewall}

        def hvtx(*argv: str) -> Ran:
            return inside(*HVTX, *argv, **environment)

        assert hvtx(*NETWORK).code == 0
        assert hvtx("vm", "create", "web", "--network", "net", *SLEEP).code == 0
        before = lab.dump()
        vms = hvtx("vm", "ls", "--json").out
        inside("dd", "if=/dev/zero", f"of={disk}/ballast", "bs=4k")
        for argv in (
            ("vm", "create", "two", "--network", "net", *SLEEP), ("vm", "start", "web"),
            ("vm", "run", "two", "--network", "net", *SLEEP),
            ("network", "create", "two", "--subnet", "10.78.0.0/24"),
        ):  # fmt: skip
            said(hvtx(*argv), 7)
            assert lab.difference(before, lab.dump()) == "", argv
        assert hvtx("vm", "ls", "--json").out == vms
        inside("rm", f"{disk}/ballast")
        assert hvtx("recover").code == 0
        assert hvtx("vm", "start", "web").code == 0
        assert hvtx("vm", "rm", "web", "--force").code == 0
        assert hvtx("network", "rm", "net").code == 0


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "2m") as inside:
        state = {"HVTX_STATE_DIR": str(disk / "state")}
        assert inside(*HVTX, *NETWORK, **state).code == 0
        before = lab.dump()
        inside("mount", "-o", "remount,ro", str(disk))
        for argv in (("vm", "create", "web", "--network", "net", *SLEEP), ("network", "rm", "net"),
                     ("gc", "--apply"), ("recover",)):  # fmt: skip
            said(inside(*HVTX, *argv, **state), 7)
        new = {"HVTX_STATE_DIR": str(disk / "new")}
        said(inside(*HVTX, "vm", "create", "web", *SLEEP, **new), 7)
        assert lab.difference(before, lab.dump()) == ""


def test_a_full_run_directory(tmp_path: Path) -> None:
    """Locks and marks cannot be written: 7, and the host is left alone."""
    disk = tmp_path / "disk"
    before = lab.dump()
    with small_disk(disk, "64k") as inside:
        inside("dd", "if=/dev/zero", f"of={disk}/ballast", "bs=4k")
        ran = inside(*HVTX, *NETWORK, HVTX_RUN_DIR=str(disk / "run"))
        said(ran, 7)
        assert lab.difference(before, lab.dump()) == ""
        inside("rm", f"{disk}/ballast")
        assert inside(*HVTX, *NETWORK, HVTX_RUN_DIR=str(disk / "run")).code == 0


def test_stores_that_are_none(hvtx: Program, tmp_path: Path) -> None:
    """A symlink, a directory, an empty file, noise, somebody else's database: 7, left as they are."""
    state = Path(os.environ["HVTX_STATE_DIR"])
    state.mkdir(mode=0o700)
    database = state / "hvtx.db"

    def check() -> None:
        for argv in (("vm", "ls"), ("vm", "create", "web", *SLEEP), ("gc", "--plan"), ("recover",)):
            ran = hvtx(*argv, code=7)
            assert ran.err.startswith("error: "), ran

    for content in (b"", b"noise" * 1000):
        database.write_bytes(content)
        check()
        assert database.read_bytes() == content
        database.unlink()
    target = tmp_path / "target"
    database.symlink_to(target)
    check()
    assert not target.exists()
    database.unlink()
    database.mkdir()
    check()
    database.rmdir()
    import sqlite3

    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    content = database.read_bytes()
    check()
    assert database.read_bytes() == content
