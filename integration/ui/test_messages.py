"""What a person meets: what a VM is, changing it, and messages that say what was probably meant.

A message is asserted with its exit code and with what it must name; where something is refused,
dumps of the host and every row of the store stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import example_host, witness
from integration.lab.program import Forked, Program, Ran, preload
from integration.lab.waiting import until
from integration.ui.test_screens import on_terminal

NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
SLEEP = ("--", "sleep", "600")
MARK = re.compile(r"hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16}")


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program without a network yet."""
    preload()
    program = Forked()
    yield program
    example_host.end_all(program)


@pytest.fixture
def lan(hvtx: Program) -> Program:
    """The same with the network `net` of both families."""
    hvtx(*NETWORK)
    return hvtx


def refused(hvtx: Program, *argv: str, code: int, says: str = "", hint: str = "") -> Ran:
    """A refusal that names the thing and the fix, and changes nothing."""
    with witness.unchanged():
        ran = hvtx(*argv, code=code)
    first, second = ran.err.splitlines()
    assert first.startswith("error: "), ran.err
    assert says in first, ran.err
    assert hint in second, ran.err
    return ran


def bootable(path: Path) -> str:
    """A disk image with a boot sector and nothing behind it."""
    path.write_bytes(bytes(510) + b"\x55\xaa")
    return str(path)


# -- what a VM is ----------------------------------------------------------------------------------


def test_show_tells_what_a_vm_is_started_with(lan: Program, tmp_path: Path) -> None:
    """Kernel, initrd, append and disks of one, command and directory of the other."""
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd.img"
    kernel.write_text("")
    initrd.write_text("")
    disks = [bootable(tmp_path / name) for name in ("one.raw", "two.raw")]
    append = "root=/dev/vda address={ip}"
    lan("vm", "create", "big", "--network", "net", "--kernel", str(kernel), "--initrd", str(initrd),
        "--append", append, "--disk", disks[0], "--disk", disks[1])  # fmt: skip
    lan("vm", "run", "small", "--network", "net", "--", "sh", "-c", "sleep 600")
    big, small = lan.vm("big"), lan.vm("small")
    wanted = {"kernel": str(kernel), "initrd": str(initrd), "append": append, "disks": disks,
              "command": []}  # fmt: skip
    assert {name: big[name] for name in wanted} == wanted
    empty = {"kernel": None, "initrd": None, "append": None, "disks": []}
    assert {name: small[name] for name in empty} == empty
    assert small["command"] == ["sh", "-c", "sleep 600"]
    assert small["directory"] == str(Path.cwd())
    told = lan("vm", "show", "big").out
    for word in (str(kernel), str(initrd), append, *disks):
        assert word in told
    assert "sh -c 'sleep 600'" in lan("vm", "show", "small").out
    listed = {vm["name"]: vm for vm in lan("vm", "ls", "--json").json()["vms"]}
    assert listed == {"big": big, "small": small}


def test_show_tells_how_a_guest_is_set_up(hvtx: Program) -> None:
    """Prefix and gateway of each family that an interface has an address of, and of no other."""
    hvtx(*NETWORK)
    hvtx("network", "create", "four", "--subnet", "10.78.0.0/16")
    hvtx("vm", "create", "web", "--network", "net", "--network", "four", *SLEEP)
    first, second = hvtx.vm("web")["interfaces"]
    fields = ("ipv4", "prefix", "gateway", "ipv6", "prefix6", "gateway6")
    assert [first[f] for f in fields] == ["10.77.0.2", 24, "10.77.0.1", "fd77::2", 64, "fd77::1"]
    assert [second[f] for f in fields] == ["10.78.0.2", 16, "10.78.0.1", None, None, None]
    told = hvtx("vm", "show", "web").out
    for words in ("10.77.0.2/24 via 10.77.0.1", "fd77::2/64 via fd77::1", "10.78.0.2/16 via"):
        assert words in told


def test_a_port_that_is_bound_does_not_look_open(lan: Program) -> None:
    """Its address stands before it wherever it is told; one that is open has none."""
    ran = lan("vm", "create", "db", "--network", "net", "-p", "127.0.0.1:5432:5432", "-p",
              "[2001:db8::5]:5353:53/udp", "-p", "8080:80", *SLEEP)  # fmt: skip
    for word in ("127.0.0.1:5432/tcp → 5432", "[2001:db8::5]:5353/udp → 53", " 8080/tcp → 80"):
        assert word in ran.out
    assert "10.77.0.2 fd77::2" in ran.out
    ports = lan("vm", "ls").out.splitlines()[1].split()[-3:]
    assert ports == ["127.0.0.1:5432→5432/tcp", "[2001:db8::5]:5353→53/udp", "8080→80/tcp"]
    assert "10.77.0.2 fd77::2" in lan("vm", "ls").out


def test_the_network_default_is_announced_when_it_is_made(hvtx: Program) -> None:
    """Once, on standard error, with its subnet and its bridge; the answer stays one object."""
    hvtx(*NETWORK)  # another one, which does not take its place
    ran = hvtx("vm", "create", "a", "--json", *SLEEP)
    network = hvtx("network", "show", "default", "--json").json()
    assert ran.json()["name"] == "a"
    (line,) = ran.err.splitlines()
    made = f"{network['subnets'][0]} on bridge {network['bridge']}"
    assert line == f"note: there is no network default yet: creating it: {made}"
    assert hvtx("vm", "create", "b", *SLEEP).err == ""


# -- vm set and vm restart -------------------------------------------------------------------------


def test_what_is_set_is_what_is_started(lan: Program, tmp_path: Path) -> None:
    """Each field, and only what was named; one operation, whose line says from what to what."""
    disks = [bootable(tmp_path / name) for name in ("a.raw", "b.raw")]
    kernel = tmp_path / "vmlinuz"
    kernel.write_text("")
    lan("vm", "create", "web", "--network", "net", "-p", "8080:80", "--disk", disks[0])
    before = lan.vm("web")
    ran = lan("vm", "set", "web", "--memory", "512", "--cpus", "2", "--kernel", str(kernel),
              "--append", "quiet {ip}", "--disk", disks[1], "--autostart", "--json")  # fmt: skip
    wanted = {"memory": 512, "cpus": 2, "kernel": str(kernel), "append": "quiet {ip}",
              "disks": [disks[1]], "autostart": True}  # fmt: skip
    assert ran.json() == {**before, **wanted} == lan.vm("web")
    entries = lan("log", "--verb", "set", "--detail", "--json").json()["entries"]
    assert len(entries) == 1
    assert entries[0]["event"] == "changed"
    assert entries[0]["detail"]["memory"] == {"from": 256, "to": 512}
    assert set(entries[0]["detail"]) == set(wanted)
    assert (
        "quiet" not in entries[0]["message"]
    )  # a view publishes messages, and words may be secret
    lan("vm", "set", "web", "--no-kernel", "--no-append", "--no-autostart")
    after = lan.vm("web")
    assert (after["kernel"], after["append"], after["autostart"]) == (None, None, False)
    assert lan("intents", "--json").json()["operations"] == []


def test_a_command_that_is_set_is_run(lan: Program) -> None:
    """The next start runs it, with the values of the VM's own interface."""
    lan("vm", "create", "web", "--network", "net", *SLEEP)
    lan("vm", "set", "web", "--", "sh", "-c", "echo I am {ip}; sleep 600")
    lan("vm", "start", "web")
    until("what the command says", lambda: "I am 10.77.0.2" in lan("vm", "logs", "web").out)


def test_nothing_of_a_vm_that_runs_is_set(lan: Program) -> None:
    """4, and nothing changes; a crashed one does not run."""
    lan("vm", "run", "web", "--network", "net", *SLEEP)
    refused(lan, "vm", "set", "web", "--memory", "512", code=4, says="running", hint="vm stop web")
    lan("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    lan("vm", "start", "ext")
    refused(lan, "vm", "set", "ext", "--cpus", "2", code=4, says="unknown")
    example_host.crash(lan, "web")
    lan("vm", "set", "web", "--memory", "512")
    assert (lan.vm("web")["memory"], lan.vm("web")["state"]) == (512, "crashed")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("--memory", "0"), 2),
        (("--memory", "2G"), 2),
        (("--cpus", "5000"), 2),
        (("--kernel", ""), 2),
        (("--kernel", "/nonexistent"), 3),
        (("--disk", "/nonexistent"), 3),
        (("--initrd", "/dev/null"), 2),
        (("--append", "x"), 2),
        (("--kernel", "/dev/null", "--append", "{foo}"), 2),
        (("--kernel", "/dev/null", "--append", "a\nb"), 2),
        (("--kernel", "/dev/null", "--no-kernel"), 2),
        (("--", "true"), 2),
        (("true",), 2),
        (("--autostart", "--ip", "10.77.0.9"), 4),
        (("--mac", "01:00:00:00:00:01"), 2),
    ],
)
def test_what_create_refuses_set_refuses(lan: Program, words: tuple[str, ...], code: int) -> None:
    """With the same exit codes, and without a change."""
    lan("vm", "create", "web", "--network", "net")
    refused(lan, "vm", "set", "web", *words, code=code)
    refused(lan, "vm", "set", "wbe", "--cpus", "2", code=3, hint="did you mean 'web'?")


def test_the_same_again_is_no_operation(lan: Program) -> None:
    """What is as it should be is not changed."""
    lan("vm", "create", "web", "--network", "net", *SLEEP)
    with witness.unchanged():
        lan("vm", "set", "web", "--memory", "256", "--no-autostart")


def test_a_restart_is_a_stop_and_a_start(lan: Program) -> None:
    """Another process with the same address; one that is not running is started."""
    lan("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    before = lan.vm("web")
    after = lan("vm", "restart", "web", "--timeout", "1", "--json").json()
    assert after["state"] == "running"
    assert after["pid"] != before["pid"]
    assert after["interfaces"][0]["ipv4"] == before["interfaces"][0]["ipv4"]
    verbs = [e["verb"] for e in lan("log", "--vm", "web", "--json").json()["entries"]]
    assert list(dict.fromkeys(verbs)) == ["run", "stop", "start"]
    example_host.crash(lan, "web")
    assert "VM web is running" in lan("vm", "restart", "web").out
    lan("vm", "stop", "web", "--force")
    assert "VM web is running" in lan("vm", "restart", "web", "--force").out
    refused(lan, "vm", "restart", "wbe", code=3, hint="did you mean 'web'?")


def test_a_restart_that_could_not_start_stops_nothing(lan: Program, tmp_path: Path) -> None:
    """A program that is gone is found out before the VM is stopped."""
    program = tmp_path / "guest"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    lan("vm", "run", "web", "--network", "net", "--", str(program))
    program.unlink()
    refused(lan, "vm", "restart", "web", code=3, says=str(program))
    assert lan.vm("web")["state"] == "running"


# -- what was meant ---------------------------------------------------------------------------------


def test_a_name_that_was_meant_is_named(lan: Program) -> None:
    """Of VMs and networks; without a likely one the hint says what lists them."""
    lan("vm", "create", "web", "--network", "net", *SLEEP)
    for verb in ("start", "show", "stop", "rm", "logs", "console"):
        refused(lan, "vm", verb, "wbe", code=3, hint="did you mean 'web'?")
    refused(lan, "network", "show", "nte", code=3, hint="did you mean 'net'?")
    refused(lan, "vm", "start", "quite-another", code=3, hint="`hvtx vm ls` lists them")
    refused(lan, "repair", "wbe", code=3, hint="did you mean 'web'? `hvtx network ls`")
    refused(lan, "explain", "net9", code=3, hint="did you mean 'net'? give an interface")
    refused(lan, "vm", "create", "wbe", "--from-log", code=3, hint="hvtx log --event removed")
    lan("vm", "rm", "web")
    refused(lan, "vm", "create", "wbe", "--from-log", code=3, hint="did you mean 'web'? hvtx log")


def test_the_history_says_when_nothing_fits(hvtx: Program) -> None:
    """An unknown word is 2, an unknown VM 3; what only has no line is 0, and says so."""
    assert "the history is empty" in hvtx("log").err
    hvtx(*NETWORK)
    hvtx("vm", "create", "web", "--network", "net", *SLEEP)
    refused(hvtx, "log", "--kind", "foo", code=2, says="'foo'", hint="tap, veth, netns, bridge")
    refused(hvtx, "log", "--kind", "brige", code=2, hint="did you mean 'bridge'?")
    refused(hvtx, "log", "--event", "mad", code=2, hint="did you mean 'made'?")
    refused(hvtx, "log", "--reason", "vm-ded", code=2, hint="did you mean 'vm-dead'?")
    refused(hvtx, "log", "--verb", "strat", code=2, hint="did you mean 'start'?")
    refused(hvtx, "log", "--vm", "nope", code=3, says="'nope'", hint="hvtx vm ls")
    refused(hvtx, "log", "--vm", "wbe", code=3, hint="did you mean 'web'?")
    for words in (("--kind", "masquerade"), ("--since", "2099-01-01"), ("--reason", "vm-dead")):
        ran = hvtx("log", *words)
        assert (ran.out, ran.err) == ("", "no entry of the history matches\n")
        assert hvtx("log", *words, "--json").json()["entries"] == []
    hvtx("vm", "rm", "web")
    assert "VM web" in hvtx("log", "--vm", "web").out  # gone, and in the history


def test_a_time_of_the_history_can_be_given_back(lan: Program) -> None:
    """What text shows, --since takes: the lines of that second are among its answer."""
    when = lan("log", "-n", "1").out.splitlines()[1].split()[0]
    assert re.fullmatch(r"[0-9T:-]+Z", when), "no fraction of a second"
    assert "10.77.0.1/24" in lan("log", "--since", when).out


# -- what is probably not meant ----------------------------------------------------------------------


def test_public_addresses_are_warned_of(hvtx: Program) -> None:
    """Once, when a network is made; private and documentation's are nobody's."""
    ran = hvtx("network", "create", "pub", "--subnet", "8.8.8.0/24")
    assert ran.err.startswith("warning: 8.8.8.0/24 is a public subnet")
    for n, subnet in enumerate(("10.1.0.0/24", "192.168.7.0/24", "203.0.113.0/24", "fd01::/64")):
        assert hvtx("network", "create", f"n{n}", "--subnet", subnet).err == ""


def test_a_host_address_that_is_not_here_is_warned_of(lan: Program) -> None:
    """At create and at start, and the port is told with its address; a local one is silent."""
    lab.run("ip", "link", "set", "lo", "up")
    argv = ("vm", "create", "a", "--network", "net", "-p", "10.1.2.3:81:80", *SLEEP)
    ran = lan(*argv)
    assert ran.err.startswith("warning: no device of this host has 10.1.2.3: port 81/tcp")
    assert "10.1.2.3:81/tcp → 80" in ran.out
    assert "10.1.2.3" in lan("vm", "start", "a").err
    lab.run("ip", "addr", "add", "10.1.2.3/32", "dev", "lo")
    lan("vm", "rm", "a", "--force")
    assert lan(*argv).err == ""
    assert lan("vm", "create", "b", "--network", "net", "-p", "127.0.0.1:82:80", *SLEEP).err == ""


def test_a_disk_that_cannot_boot_is_warned_of(lan: Program, tmp_path: Path) -> None:
    """Without a kernel only; one that can, or of which nobody knows, is taken as it is."""
    text = tmp_path / "notes.txt"
    text.write_text("not a disk\n" * 100)
    ran = lan("vm", "create", "a", "--network", "net", "--disk", str(text))
    assert (
        ran.err == f"warning: {text} has no boot sector: without --kernel nothing boots from it\n"
    )
    image, unknown = bootable(tmp_path / "disk.raw"), tmp_path / "disk.qcow2"
    unknown.write_bytes(b"QFI\xfb" + bytes(508))
    for n, more in enumerate(
        (["--disk", image], ["--disk", str(text), "--disk", image], ["--disk", str(unknown)],
         ["--disk", str(text), "--kernel", image])
    ):  # fmt: skip
        assert lan("vm", "create", f"b{n}", "--network", "net", *more).err == ""
    assert "no boot sector" in lan("vm", "set", "b0", "--disk", str(text)).err


def test_a_state_directory_that_was_open_is_told(lan: Program) -> None:
    """By doctor as long as it is, by the command that closes it."""
    state = Path(os.environ["HVTX_STATE_DIR"])
    state.chmod(0o777)
    findings = lan("doctor", "--json", code=None).json()["findings"]
    (found,) = [f for f in findings if f["check"] == "store" and f["level"] == "warning"
                and str(state) in f["hint"]]  # fmt: skip
    assert (found["evidence"], found["hint"]) == (["mode 0777"], f"chmod 700 {state}")
    ran = lan("vm", "create", "a", "--network", "net", *SLEEP)
    assert f"{state} (mode 0777)" in ran.err
    assert state.stat().st_mode & 0o777 == 0o700
    assert lan("vm", "rm", "a").err == ""


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (("network", "create", "n", "--subnet", "10.78.0.5/24"), 2, "host bits", "10.78.0.0/24"),
        (("network", "create", "n", "--subnet", "fd78::5/64"), 2, "host bits", "fd78::/64"),
        (("network", "create", "n", "--subnet", "x"), 2, "'x'", "10.77.0.0/24"),
        (
            ("network", "create", "n", "--subnet", "10.9.0.0/24", "--bridge", "lo"),
            4, "a device named lo exists already", "another --bridge",
        ),
        (
            ("network", "create", "n", "--subnet", "10.9.0.0/24", "--bridge", "all"),
            2, "no device can be called 'all'", "another --bridge",
        ),
        (("vm", "create", "a", "--memory", "2G"), 2, "'2G'", "2048 is 2 GiB"),
        (("vm", "stop", "web", "--timeout", "-1"), 2, "-1 is not between 0 and 86400", ""),
        (("vm", "stop", "web", "--timeout", "soon"), 2, "0 to 86400", ""),
        (("vm", "create", "a", "--", "echo", "{ipv4}"), 2, "{ipv4}", "did you mean {ip}?"),
        (
            ("vm", "run", "a", "--network", "net", "--", "false"),
            6, "exit status 1", "it printed nothing",
        ),
    ],
)  # fmt: skip
def test_a_hint_is_of_the_thing_that_was_given(
    lan: Program, words: tuple[str, ...], code: int, says: str, hint: str
) -> None:
    """Not of an example, and not of something else."""
    first, second = lan(*words, code=code).err.splitlines()
    assert says in first
    assert hint in second


def test_doctor_tells_another_user_all_but_the_store(lan: Program) -> None:
    """The store is one finding among the others; that it may not be read decides the exit code."""
    enter = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    asked = [*enter, sys.executable, "-m", "hvtx"]
    lab.need_python_for_others()
    with witness.unchanged():
        done = subprocess.run(
            [*asked, "doctor", "--json"], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "HVTX_CONFIG": os.devnull},
        )  # fmt: skip
    assert done.returncode == 5
    assert set(json.loads(done.stderr)["error"]) == {"code", "message", "hint"}
    levels = {f["check"]: f["level"] for f in json.loads(done.stdout)["findings"]}
    assert levels["store"] == "error"
    assert {"permissions", "tun", "netfilter", "kvm", "forward", "company"} <= set(levels)
    forwarding = next(f for f in json.loads(done.stdout)["findings"] if f["check"] == "forwarding")
    assert "which networks need it is on record" in forwarding["message"]


# -- at 80 columns -----------------------------------------------------------------------------------


def test_what_is_copied_is_whole_on_a_terminal_of_80_columns(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mark, path and time of the JSON stands in one piece on some line of the screen."""
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("vm", "run", "web", "--network", "net", "-p", "127.0.0.1:8080:80", *SLEEP)
    example_interrupted(hvtx)
    device = hvtx.device("web")
    screens: list[tuple[str, ...]] = [
        ("vm", "show", "web"), ("vm", "show", "half"), ("network", "show", "net"), ("log",),
        ("intents",), ("explain", device), ("explain", "8080"),
    ]  # fmt: skip
    for argv in screens:
        document = hvtx(*argv, "--json").json()
        shown = on_terminal(80, *argv)
        pieces = set(shown.split())
        for word in wanted(document):
            if argv == ("intents",) and MARK.fullmatch(word):
                continue  # which only its JSON has
            assert word in pieces or f"{word}," in pieces, f"{argv}: {word}\n{shown}"
        assert "…" not in shown, argv
        # no terminal breaks a line in the midst of a word: only one long word may be too wide
        wide = [line for line in shown.splitlines() if len(line) > 80 and len(line.split()) > 3]
        assert not wide, (argv, wide)
    for argv in (("gc", "--plan", "--evidence"), ("doctor",), ("gc", "--plan")):
        shown = on_terminal(80, *argv)
        whole = MARK.findall(shown)
        assert len(re.findall("hvtx:1:", shown)) == len(whole), argv


def example_interrupted(hvtx: Program) -> None:
    """A start that was killed half-way."""
    hvtx("vm", "create", "half", "--network", "net", *SLEEP)
    hvtx("vm", "start", "half", code=-9, HVTX_FAILPOINT="acted:tap:kill")


def wanted(document: object) -> set[str]:
    """Marks, paths and times (to the second) of an answer."""
    if isinstance(document, dict):
        return set().union(*(wanted(v) for k, v in document.items() if k != "command"))
    if isinstance(document, list):
        return set().union(*(wanted(v) for v in document))
    found: set[str] = set()
    for word in document.split() if isinstance(document, str) else ():
        if MARK.fullmatch(word) or re.match(r"/\w", word):
            found.add(word)
        elif re.fullmatch(r"[0-9-]{10}T[0-9:.]+Z", word):
            found.add(re.sub(r"\.[0-9]+", "", word))
    return found


def test_the_widest_things_that_there_can_be(hvtx: Program) -> None:
    """Long names, two networks and many ports: each word is whole at 80 columns."""
    name = "x" * 63
    hvtx(*NETWORK)
    ports = [f"-p{port}:80" for port in range(8000, 8012)]
    hvtx("vm", "create", name, "--network", "net", *ports, "-p[fd00:1:2:3:4:5:6:7]:53:53/udp",
         *SLEEP)  # fmt: skip
    hvtx("network", "create", name[:62], "--bridge", "b" * 15, "--subnet", "10.78.0.0/24")
    hvtx("vm", "start", name)
    for argv in (("vm", "ls"), ("vm", "show", name), ("log",), ("network", "ls")):
        shown = on_terminal(80, *argv, NO_COLOR="1")
        assert name in shown.split() or name[:62] in shown.split(), argv
        wide = [line for line in shown.splitlines() if len(line) > 80 and len(line.split()) > 1]
        assert wide == [], argv  # the terminal would break it in the middle of a column
    shown = on_terminal(80, "vm", "ls", NO_COLOR="1").split()
    assert all(f"{port}→80/tcp" in shown for port in range(8000, 8012))
    assert "[fd00:1:2:3:4:5:6:7]:53→53/udp" in shown


# -- words of netfilter ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_what_all_networks_share_is_named(hvtx: Program, backend: str) -> None:
    """A base row is tables and chains, or a setting: not only something that belongs somewhere."""
    hvtx("--firewall", backend, *NETWORK)
    told = " ".join(hvtx("gc", "--plan", "--all").out.split())
    stands = {
        "nftables": "nftables' tables and base chains that their rules stand in",
        "iptables": "iptables' chains that their rules stand in, and the jumps there",
    }
    for what in (stands[backend], "the kernel forwards their packets by it"):
        assert f"belongs to all networks of this installation ({what}) (reserved)" in told


def test_a_network_tells_what_its_passage_is(hvtx: Program) -> None:
    """Accept rules where a policy drops, and whether there are any."""
    hvtx(*NETWORK)
    told = "yes, by accept rules in INPUT/FORWARD where a policy drops; "
    assert f"passage:   {told}none now\n" in hvtx("network", "show", "net").out
    lab.run("iptables-nft", "-P", "FORWARD", "DROP")
    hvtx("repair")
    assert f"passage:   {told}in 1 now\n" in hvtx("network", "show", "net").out
    hvtx("network", "set", "net", "--no-passage")
    said = "no: where a policy drops in INPUT or FORWARD, guests are cut off"
    assert f"passage:   {said}\n" in hvtx("network", "show", "net").out
    shown = hvtx("network", "show", "net", "--json").json()
    assert shown["passage"] is False  # as ever, for programs
