"""The command line refuses what could never be valid: exit 2, one `error:`, one `hint:`.

Everything here ends before a store or the host is touched, so no privilege is needed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.cli.main import run
from hvtx.cli.root import COMMANDS
from hvtx.drivers.vm_process.probe import probe
from hvtx.engine.vm_options import parse_request
from hvtx.errors import HvtxError, OutputLost, UsageError
from hvtx.host.procfs import look
from hvtx.host.vmuser import numeric_id
from hvtx.model.vm import Vm
from hvtx.store.opening import open_store


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def hvtx(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a command line in this process, with a store that does not exist."""
    for name in ("STATE_DIR", "RUN_DIR", "FIREWALL", "CONFIG", "LOCK_TIMEOUT"):
        monkeypatch.delenv(f"HVTX_{name}", raising=False)
    monkeypatch.setattr("hvtx.api.settings.DEFAULT_CONFIG", str(tmp_path / "no-config.toml"))
    places = ["--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path / "run")]

    def call(*arguments: str, before: list[str] | None = None) -> Ran:
        capsys.readouterr()
        code = run([*places, *(before or []), *arguments])
        return Ran(code, *capsys.readouterr())

    return call


USAGE = [
    # nothing, nonsense, and things in the wrong place
    ["nonsense"],
    ["vm"],
    ["vm", "nonsense"],
    ["vm", "create"],
    ["vm", "start"],
    ["vm", "restart", "web", "db"],
    ["vm", "create", "web", "--nonsense", "--", "true"],
    ["vm", "attach", "web"],
    # names
    ["vm", "create", "Web", "--", "true"],
    ["vm", "create", "", "--", "true"],
    ["vm", "create", "../web", "--", "true"],
    ["vm", "create", "a" * 64, "--", "true"],
    ["network", "create", "Lan", "--subnet", "10.77.0.0/24"],
    # what a VM is
    ["vm", "create", "web", "--hypervisor", "command"],
    ["vm", "create", "web", "--hypervisor", "xen", "--", "true"],
    ["vm", "create", "web", "--hypervisor", "qemu", "--", "true"],
    ["vm", "create", "web", "--kernel", "/k", "--", "true"],
    ["vm", "create", "web", "--initrd", "/i", "--disk", "/d"],
    ["vm", "create", "web", "--append", "x", "--disk", "/d"],
    ["vm", "create", "web", "--hypervisor", "firecracker", "--disk", "/d"],
    ["vm", "create", "web", "--hypervisor", "external", "--disk", "/d"],
    ["vm", "create", "web", "--memory", "0", "--", "true"],
    ["vm", "create", "web", "--memory", "٢٥٦", "--", "true"],
    ["vm", "create", "web", "--memory", "1_000", "--", "true"],
    ["vm", "create", "web", "--cpus", "0", "--", "true"],
    ["vm", "create", "web", "--cpus", "many", "--", "true"],
    ["vm", "create", "web", "true"],
    ["vm", "create", "web", "true", "--", "true"],
    # its interfaces
    ["vm", "create", "web", "--ip", "10.77.0.05", "--", "true"],
    ["vm", "create", "web", "--ip", "fd00::1%eth0", "--", "true"],
    ["vm", "create", "web", "--ip", "::ffff:10.77.0.5", "--", "true"],
    ["vm", "create", "web", "--ip", "10.77.0.5", "--ip", "10.77.0.5", "--", "true"],
    ["vm", "create", "web", "--limit", "in=0", "--", "true"],
    ["vm", "set", "web", "--limit", "up=1mbit"],
    ["network", "create", "lab", "--subnet", "10.1.0.0/24", "--uplink", "lo"],
    ["network", "create", "lab", "--subnet", "10.1.0.0/24", "--source", "127.0.0.1"],
    ["vm", "create", "web", "--mac", "01:00:5e:00:00:01", "--", "true"],
    ["vm", "create", "web", "--mac", "02:00", "--", "true"],
    ["vm", "create", "web", "--network", "lan", "--network", "lan", "--", "true"],
    ["vm", "create", "web", "--network", "La/n", "--", "true"],
    ["vm", "create", "web", "--publish", "0:80", "--", "true"],
    ["vm", "create", "web", "--publish", "80:65536", "--", "true"],
    ["vm", "create", "web", "--publish", "٨٠:٨٠", "--", "true"],
    ["vm", "create", "web", "-p", "80:80", "-p", "127.0.0.1:80:81", "--", "true"],
    # networks
    ["network", "create", "lan"],
    ["network", "create", "lan", "--subnet", "10.77.0.0/31"],
    ["network", "create", "lan", "--subnet", "10.77.0.1/24"],
    ["network", "create", "lan", "--subnet", "fd00::%1/64"],
    ["network", "create", "lan", "--subnet", "10.77.0.0/24", "--subnet", "10.78.0.0/24"],
    ["network", "create", "lan", "--subnet", "10.77.0.0/24", "--bridge", "br%d"],
    ["network", "create", "lan", "--subnet", "10.77.0.0/24", "--bridge", "a" * 16],
    ["network", "create", "lan", "--subnet", "10.77.0.0/24", "--mtu", "100"],
    ["network", "create", "lan", "--subnet", "fd00::/64", "--mtu", "1279"],
    # gc and the rest
    ["gc"],
    ["gc", "--plan", "file"],
    ["gc", "--plan", "--unrecorded"],
    ["gc", "--apply", "--all"],
    ["gc", "--apply", "--out", "x"],
    ["gc", "--apply", "--detailed-exitcode"],
    ["doctor", "--dry-run"],
    ["log", "-n", "0"],
    ["vm", "stop", "web", "--timeout", "-1"],
    ["vm", "attach", "web", "--pid", "0"],
]


def told(ran: Ran) -> None:
    """Exit 2, nothing on standard output, and the form of an error."""
    assert ran.code == 2, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: "), ran.err
    assert len(lines[0]) > len("error: ")
    assert len(lines) == 2, ran.err
    assert lines[1].startswith("hint: ")
    assert len(lines[1]) > len("hint: ")
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("words", USAGE, ids=lambda words: " ".join(words)[:50])
def test_a_usage_error_is_told_and_changes_nothing(
    hvtx: Run, tmp_path: Path, words: list[str]
) -> None:
    """One line that says what, one that says the fix; no store is made."""
    if words == ["vm"]:  # alone it prints its help
        assert hvtx(*words).code == 2
        return
    told(hvtx(*words))
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "run").exists()


JSON = [words for words in USAGE if words[0] != "nonsense" and len(words) > 1]


@pytest.mark.parametrize("form", ["frr", "bird"])
def test_routes_have_one_form(hvtx: Run, form: str) -> None:
    """A routing daemon's file is not to become JSON for a word too many."""
    done = hvtx("network", "routes", "--json", "--format", form)
    assert (done.code, done.out) == (2, "")
    assert json.loads(done.err)["error"]["message"] == f"--json and --format {form} are two forms"
    assert hvtx("network", "routes", "--json", "--format", "text").code == 0


@pytest.mark.parametrize("words", JSON, ids=lambda words: " ".join(words)[:50])
def test_with_json_an_error_is_an_object(hvtx: Run, words: list[str]) -> None:
    """`{"error": {"code", "message", "hint"}}` on standard error, nothing on standard output."""
    place = words.index("--") if "--" in words else len(words)
    ran = hvtx(*words[:place], "--json", *words[place:])
    assert (ran.code, ran.out) == (2, "")
    document = json.loads(ran.err)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "hint"}
    assert document["error"]["code"] == "usage"
    assert document["error"]["message"]
    assert document["error"]["hint"]


@pytest.mark.parametrize("kind", [HvtxError, *HvtxError.__subclasses__()])
def test_an_error_without_a_hint_has_that_of_its_class(kind: type[HvtxError]) -> None:
    """None of a kind falls back on the words for all others."""
    assert kind.default_hint
    assert kind in (HvtxError, OutputLost) or kind.default_hint != HvtxError.default_hint


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["--state-dir", "vm", "gc", "--schema", "--all"], "hvtx gc"),
        (["--bogus", "vm", "create"], "hvtx"),
        (["--bogus"], "hvtx"),
        (["vm", "create", "x", "--bogus"], "hvtx vm create"),
        (["vm", "attach", "--pid", "x", "vm"], "hvtx vm attach"),
        (["gc", "--plan", "--yes"], "hvtx gc"),
    ],
)
def test_a_usage_error_without_a_hint_names_the_commands_help(
    hvtx: Run, words: list[str], path: str
) -> None:
    """Click's own errors and ours."""
    ran = hvtx(*words)
    told(ran)
    assert ran.err.splitlines()[1] == f"hint: `{path} --help` shows its options"


def test_of_a_group_the_help_shows_commands(hvtx: Run) -> None:
    ran = hvtx("vm", "nonsense")
    assert ran.err.splitlines()[1] == "hint: `hvtx vm --help` shows its commands"


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["network", "create", "n", "--subnet", "127.0.0.0/24"], "10.77.0.0/24"),
        (["vm", "create", "x", "--ip", "x", "--", "true"], "10.77.0.5"),
        (["vm", "create", "x", "--mac", "01:00:5e:00:00:01", "--", "true"], "02:11:22"),
        (["vm", "create", "x", "-p", "80:80/icmp", "--", "true"], "8080:80"),
        (["vm", "create", "X", "--", "true"], "a-z"),
        (["vm", "create", "x", "--initrd", "/i", "--disk", "/d"], "--disk"),
        (["vm", "create", "x", "--kernel", "/k", "--", "true"], "--hypervisor qemu"),
    ],
)
def test_a_hint_helps_with_what_was_written(hvtx: Run, words: list[str], fix: str) -> None:
    """An example, or the option that would do."""
    ran = hvtx(*words)
    told(ran)
    assert fix in ran.err.splitlines()[1]


def test_json_behind_the_dashes_belongs_to_the_command(hvtx: Run) -> None:
    """`-- prog --json` is not our option."""
    told(hvtx("vm", "create", "Web", "--", "prog", "--json"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--firewall", "pf"),
        ("--lock-timeout", "soon"),
        ("--lock-timeout", "nan"),
        ("--lock-timeout", "-1"),
        ("--lock-timeout", "inf"),
        ("--lock-timeout", "١٠"),
        ("--state-dir", ""),
        ("--run-dir", ""),
        ("--state-dir", "/tmp/a\nb"),
        ("--state-dir", "/tmp/\udcff"),
    ],
)
def test_bad_global_options_are_usage_errors(hvtx: Run, option: str, value: str) -> None:
    """An empty directory is a shell variable that was not set, not the default."""
    told(hvtx("vm", "ls", before=[option, value]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("FIREWALL", "pf"), ("LOCK_TIMEOUT", "soon"), ("RUN_DIR", "/tmp/\udcff")],
)
def test_the_environment_is_checked_alike(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    value: str,
) -> None:
    """The same values from HVTX_… give the same error."""
    monkeypatch.setenv(f"HVTX_{name}", value)
    code = run(["--state-dir", str(tmp_path / "state"), "vm", "ls"])
    told(Ran(code, *capsys.readouterr()))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("firewall = 'pf'", 2),
        ("nonsense = 1", 2),
        ("firewall = ", 2),
        ("lock_timeout = 'x'", 2),
        ("state_dir = 5", 2),
        ("lock_timeout = 3", 0),
        (None, 3),
    ],
)
def test_a_configuration_is_checked(hvtx: Run, tmp_path: Path, text: str | None, code: int) -> None:
    """Its syntax, its keys, its values; and it is there if it was named."""
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    ran = hvtx("vm", "ls", before=["--config", str(path)])
    assert ran.code == code, ran
    assert (str(path) in ran.err) is (code != 0)


@pytest.mark.parametrize(
    "text",
    [
        "firewall = 'pf'",
        "lock_timeout = nan",
        "lock_timeout = -1",
        "lock_timeout = 1e400",
        "history_lines = 99",
        "history_lines = 99999999999999999999",
        f"history_lines = {'9' * 5000}",
        "history_lines = 1000.5",
        f"group = {'[' * 5000}",
        "state_dir = 'a\u0007'",
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_configuration_is_told_though_something_overrides_it(
    hvtx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Or the next call without the flag or the variable would be the first to fail."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    monkeypatch.setenv("HVTX_LOCK_TIMEOUT", "1")
    monkeypatch.setenv("HVTX_HISTORY_LINES", "1000")
    ran = hvtx("vm", "ls", before=["--config", str(path)])
    told(ran)
    assert str(path) in ran.err


HUGE = (str(1 << 31), str(1 << 32), str(1 << 63), str(1 << 64), "9" * 40, "9" * 5000)
NO_NUMBER = ("", "-1", "nan", "inf", "0x10", "1_0", " 5", "5 ", "\u0665", "1e400", "--")
COUNTED = (
    ["vm", "attach", "web", "--pid"],
    ["adopt", "tap0", "--vm", "web", "--pid"],
    ["network", "create", "lan", "--subnet", "10.77.0.0/24", "--mtu"],
    ["vm", "create", "web", "--hypervisor", "external", "--memory"],
    ["vm", "create", "web", "--hypervisor", "external", "--cpus"],
    ["vm", "stop", "web", "--timeout"],
    ["log", "-n"],
)


@pytest.mark.parametrize("words", COUNTED, ids=" ".join)
def test_a_number_that_cannot_be_is_a_usage_error(
    hvtx: Run, tmp_path: Path, words: list[str]
) -> None:
    """Too big for the kernel, for SQLite, for C and for Python; and what is no number."""
    for number in (*HUGE, *NO_NUMBER):
        told(hvtx(*words, number))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [*HUGE[3:], *NO_NUMBER])
def test_the_number_of_an_operation_is_one_that_the_store_can_hold(hvtx: Run, number: str) -> None:
    """Eight bytes with a sign."""
    told(hvtx("log", "--operation", number))
    told(hvtx("vm", "create", "web", "--from-log", "--operation", number))
    assert hvtx("log", "--operation", str((1 << 63) - 1)).code == 0


@pytest.mark.parametrize("port", [*HUGE, *NO_NUMBER, "65536", "0"])
def test_a_port_that_cannot_be_is_a_usage_error(hvtx: Run, port: str) -> None:
    """On either side."""
    told(hvtx("vm", "create", "web", "-p", f"{port}:80", "--", "true"))
    told(hvtx("vm", "create", "web", "-p", f"80:{port}", "--", "true"))


@pytest.mark.parametrize("number", [*HUGE, *NO_NUMBER[1:]])
@pytest.mark.parametrize("name", ["LOCK_TIMEOUT", "HISTORY_LINES"])
def test_a_number_of_the_environment_is_checked_alike(
    hvtx: Run, monkeypatch: pytest.MonkeyPatch, name: str, number: str
) -> None:
    """And the variable is named."""
    monkeypatch.setenv(f"HVTX_{name}", number)
    ran = hvtx("vm", "ls")
    told(ran)
    assert f"HVTX_{name}" in ran.err


def test_an_empty_configuration_file_name_is_a_usage_error(hvtx: Run) -> None:
    """The variable may be empty, which is as good as unset."""
    told(hvtx("vm", "ls", before=["--config", ""]))


@pytest.mark.parametrize("text", ["4294967295", str(1 << 64), "9" * 5000])
def test_an_id_that_nobody_can_have_is_a_usage_error(text: str) -> None:
    """Of `tap_user` and `group`: the kernel takes the last one for nobody in particular."""
    with pytest.raises(UsageError, match="tap_user"):
        numeric_id("tap_user", text)
    assert numeric_id("tap_user", "4294967294") == 4294967294


@pytest.mark.parametrize("pid", [1 << 31, 1 << 64, -1, 0])
def test_what_can_be_no_pid_is_not_looked_for(pid: int) -> None:
    """Nothing is concluded from it."""
    assert look(pid).error


@pytest.mark.parametrize("text", ["xen", "KVM", " kvm", "kvm,tcg"])
def test_an_accelerator_that_is_none_is_a_usage_error(
    hvtx: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    """Before a VM of qemu is made or a unit is written; the values allowed are named."""
    monkeypatch.setenv("HVTX_QEMU_ACCEL", text)
    ran = hvtx("systemd", "print")
    told(ran)
    assert "HVTX_QEMU_ACCEL" in ran.err
    assert "auto, kvm or tcg" in ran.err
    qemu = tmp_path / f"qemu-system-{os.uname().machine}"
    qemu.write_text("#!/bin/sh\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    guest = Vm("", "web", "qemu", 256, 1, "/dev/null", None, None, (), (), "/", False, ())
    with pytest.raises(UsageError, match="HVTX_QEMU_ACCEL"):
        probe(guest, str(tmp_path))
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "")
    assert hvtx("systemd", "print").code == 0


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in turn taken away."""
    from hvtx.api.settings import settings as decided

    path = tmp_path / "config.toml"
    path.write_text("state_dir = '/file'\nlock_timeout = 3\n")
    monkeypatch.setenv("HVTX_STATE_DIR", "/environment")
    options = {"config": str(path), "state_dir": "/flag"}
    assert decided(options).state_directory == "/flag"
    assert decided({"config": str(path)}).state_directory == "/environment"
    monkeypatch.delenv("HVTX_STATE_DIR")
    assert decided({"config": str(path)}).state_directory == "/file"
    assert decided({"config": str(path)}).lock_timeout == 3.0
    path.write_text("")
    assert decided({"config": str(path)}).state_directory == "/var/lib/hvtx"
    assert decided({"config": str(path)}).run_directory == "/run/hvtx"


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        (["vm", "ls"], "hvtx/vms/1"),
        (["network", "ls"], "hvtx/networks/1"),
        (["intents"], "hvtx/intents/1"),
        (["log"], "hvtx/log/1"),
    ],
)
def test_reading_commands_read_a_missing_store_as_empty(
    hvtx: Run, tmp_path: Path, words: list[str], schema: str
) -> None:
    """Exit 0, one JSON object on standard output; nothing is made."""
    ran = hvtx(*words, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["schema"] == schema
    plain = hvtx(*words)
    assert (plain.code, plain.out) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["vm", "show", "web"], ["network", "show", "lan"], ["vm", "logs", "web"]]
)
def test_what_does_not_exist_is_named(hvtx: Run, words: list[str]) -> None:
    """Exit 3."""
    ran = hvtx(*words)
    assert (ran.code, ran.out) == (3, "")
    assert words[-1] in ran.err


def test_a_damaged_store_is_told_wherever_it_hurts(hvtx: Run, tmp_path: Path) -> None:
    """A page that only this command reads: exit 7 and an error, not a traceback."""
    open_store(str(tmp_path / "state"), str(tmp_path / "run"), writable=True).close()
    file = tmp_path / "state" / "hvtx.db"
    data = bytearray(file.read_bytes())
    connection = sqlite3.connect(file)
    pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'vm'")
    for (page,) in pages.fetchall():
        data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    connection.close()
    file.write_bytes(data)
    ran = hvtx("vm", "ls")
    assert (ran.code, ran.out) == (7, "")
    assert ran.err.startswith("error: ")
    assert json.loads(hvtx("vm", "ls", "--json").err)["error"]["code"] == "store-untrusted"


def test_help_and_version_need_nothing(hvtx: Run, tmp_path: Path) -> None:
    """Every command of the table has help, on standard output, exit 0."""
    assert hvtx("--version").out.startswith("hvtx ")
    for name in COMMANDS:
        ran = hvtx(name, "--help")
        assert (ran.code, ran.err) == (0, ""), name
        assert "Usage: hvtx" in ran.out
    assert hvtx("--help").code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_file_is_checked_before_anything_else(hvtx: Run, tmp_path: Path) -> None:
    """No such file: 3. Not a plan, or half of one: 2. No store is made."""
    path = tmp_path / "plan.json"
    assert hvtx("gc", "--apply", str(path)).code == 3
    item = {"action": "delete", "reason": "vm-dead", "kind": "tap", "key": "x"}
    for text in (
        "",
        "[]",
        "null",
        "{}",
        '{"schema": "hvtx/gc/2", "items": []}',
        '{"schema": "hvtx/gc/1"}',
        '{"schema": "hvtx/gc/1", "items": 5}',
        json.dumps({"schema": "hvtx/gc/1", "items": [item]}),
        json.dumps({"schema": "hvtx/gc/1", "items": [{**item, "record": 5, "mark": None}]}),
        "\x00\xff",
    ):
        path.write_text(text, encoding="latin-1")
        told(hvtx("gc", "--apply", str(path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_an_error_shows_no_control_character(hvtx: Run) -> None:
    """What people typed comes back without anything that a terminal would obey."""
    ran = hvtx("explain", "--nonsense\x1b[31m\x07")
    assert ran.code == 2
    assert "\x1b" not in ran.err
    assert "\x07" not in ran.err


# -- the parser of requests ------------------------------------------------------------------------------


def test_a_request_is_taken_as_it_was_written() -> None:
    """Defaults of the interface; paths become absolute; a command makes the hypervisor `command`."""
    wish = parse_request("web", command=["sleep", "1"])
    assert (wish.hypervisor, wish.memory, wish.cpus, wish.autostart) == ("command", 256, 1, False)
    assert wish.command == ("sleep", "1")
    wish = parse_request("web", kernel="k", initrd="i", append="quiet", disks=["d"])
    assert wish.hypervisor == "qemu"
    assert wish.kernel == str(Path.cwd() / "k")
    assert wish.initrd == str(Path.cwd() / "i")
    assert wish.disks == (str(Path.cwd() / "d"),)


def test_several_networks_have_addresses_each() -> None:
    """The nth --ip of a family belongs to the nth network."""
    wish = parse_request(
        "web",
        networks=["a", "b"],
        ips=["10.1.0.5", "fd00::5", "10.2.0.5"],
        macs=["02:00:00:00:00:01", "02:00:00:00:00:02"],
        command=["true"],
    )
    assert wish.ips == ("10.1.0.5", "fd00::5", "10.2.0.5")
    macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
    with pytest.raises(UsageError, match="more --mac"):
        parse_request("web", networks=["a"], macs=macs, command=["true"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=20),
    st.lists(st.text(max_size=20), max_size=2),
    st.lists(st.text(max_size=20), max_size=2),
    st.lists(st.text(max_size=20), max_size=2),
    st.integers(),
)
def test_no_request_breaks_the_parser(
    name: str, ips: list[str], macs: list[str], publish: list[str], memory: int
) -> None:
    """UsageError or a wish, never another exception."""
    try:
        parse_request(name, ips=ips, macs=macs, publish=publish, memory=memory, command=["true"])
    except UsageError as problem:
        assert problem.exit_code == 2
