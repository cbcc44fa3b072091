"""Tables of a set are options of `create`: one list of options, one way to read them."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import Any

import click
import pytest

from hvtx.cli import described
from hvtx.cli.common import File, complete_file
from hvtx.cli.described import Source, keys, parsed, request
from hvtx.cli.network import create as network_create
from hvtx.cli.vm import create as vm_create
from hvtx.cli.vm import run
from hvtx.cli.vm import set_ as vm_set
from hvtx.errors import HvtxError, UsageError

# An option of `vm create` that says how it is recorded, not what the VM is.
ASIDE = {"from-log", "operation", "json"}


def long_options(command: click.Command) -> set[str]:
    return {
        word[2:]
        for param in command.params
        for word in (*param.opts, *param.secondary_opts)
        if word.startswith("--")
    } - ASIDE


@pytest.mark.parametrize("command", [vm_create, run, vm_set])
def test_no_part_of_a_limit_is_passed_over(command: click.Command) -> None:
    """Each may have an option of its own."""
    words = ["web", "--limit", "in=1mbit,in-packets=9", "--limit", "out=2mbit"]
    with command.make_context("x", words, resilient_parsing=False) as context:
        assert context.params["limit"] == "in=1mbit,in-packets=9,out=2mbit"
    with command.make_context("x", ["web"]) as context:
        assert context.params["limit"] is None
    both = "[vms.web]\nlimit = ['in=1mbit', 'out=2mbit']\ncommand = ['true']"
    assert asked(both).vms["web"].request.limits[:2] == (10**6, 2 * 10**6)


def test_the_keys_are_the_long_options() -> None:
    assert set(keys("networks")) == long_options(network_create)
    assert set(keys("vms")) == long_options(vm_create) | {"command", "start"}


def test_every_file_of_a_vm_counts_from_the_directory_of_the_set() -> None:
    """What a shell completes with names of files is a file."""
    files = {
        param.name
        for param in run.params
        if isinstance(param, click.Option) and param._custom_shell_complete is complete_file
    }
    assert files == {param.name for param in run.params if isinstance(param.type, File)}
    assert files == {"kernel", "initrd", "disks", "user_data", "ssh_keys"}


def asked(text: str, directory: str = "/sets") -> Any:
    return request([Source("f", directory, parsed("f", text.encode()))])


def test_a_table_is_a_request() -> None:
    made = asked(
        """
        [vms.web]
        network = ["lab", "two"]
        publish = "8080:80"
        kernel = "vmlinuz"
        disk = ["/abs/a.raw", "b.raw"]
        append = "-v {ip}"
        memory = 0x200
        autostart = true
        user-data = "../seed"
        limit = "in=1mbit"
        deny = ["192.0.2.0/24"]
        start = false
        """
    ).vms["web"]
    found = made.request
    assert (made.start, made.where) == (False, "f: [vms.web]")
    assert found.networks == ("lab", "two")
    assert (found.kernel, found.disks) == ("/sets/vmlinuz", ("/abs/a.raw", "/sets/b.raw"))
    assert found.append == "-v {ip}"
    assert (found.memory, found.cpus, found.autostart) == (512, 1, True)
    assert found.guest.user_data == "/seed"
    assert found.publish[0].host_port == 8080
    assert found.limits.into_guest == 10**6
    assert found.policy.rules[0].action == "deny"


def test_words_of_a_command_are_its_own() -> None:
    """Options, dashes and separators in it are not read."""
    words = ["sh", "-c", "--help", "--", "--json", "-f"]
    made = asked(f"[vms.web]\ncommand = {words!r}\n".replace("'", '"')).vms["web"].request
    assert (made.command, made.hypervisor, made.directory) == (tuple(words), "command", "/sets")


def test_values_that_look_like_options_are_values() -> None:
    made = asked('[vms.web]\nkernel = "--json"\nappend = "--help"\n').vms["web"].request
    assert (made.kernel, made.append) == ("/sets/--json", "--help")


@pytest.mark.parametrize(
    ("text", "nat", "dhcp"),
    [("nat = false", False, None), ("no-nat = true", False, None), ("no_nat = false", True, None),
     ("dhcp = false", True, False), ("no_dhcp = true", True, False), ("dhcp = true", True, True),
     ("isolate = false", True, None)],
)  # fmt: skip
def test_flags(text: str, nat: bool, dhcp: bool | None) -> None:
    made = asked(f'[networks.lab]\nsubnet = "10.77.0.0/24"\n{text}\n').networks["lab"].request
    assert (made.nat, made.dhcp, made.isolate) == (nat, dhcp, False)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("memory = 0", "memory"),
        ('network = ["a", "a"]', "network"),
        ('publish = "80"', "publish"),
        ('ip = "10.0.0.256"', "ip"),
        ('mac = "01:00:00:00:00:00"', "mac"),
        ('limit = "fast"', "limit"),
        ('egress = "some"', "egress"),
        ('allow = "nowhere"', "allow"),
        ("queues = 0", "queues"),
        ('user = "a b"', "user"),
        ('hypervisor = "external"\nkernel = "k"', "hypervisor"),
        ('append = "{ipv4}"\nkernel = "k"', "append"),
        ("cpus = -1", "cpus"),
        ('append = "a\\nb"\nkernel = "k"', "append"),
        ('initrd = "a\\nb"\nkernel = "k"', "initrd"),
        ('hypervisor = "firecracker"\nkernel = "k"\nappend = "{ipv4}"', "append"),
        ('hypervisor = "qemu"\nkernel = "k"\nappend = "{ipv4}"\nmemory = 1', "append"),
        ('append = "{ipv4}"', "append"),
    ],
)
def test_the_key_that_is_wrong_is_named(text: str, key: str) -> None:
    """In whatever order the keys stand."""
    for lines in permutations([*text.splitlines(), "autostart = true"]):
        with pytest.raises(UsageError, match=rf"^f: \[vms.web\]: {key}: "):
            asked("\n".join(["[vms.web]", *lines]))


@pytest.mark.parametrize("table", ["networks.lab", "vms.web"])
def test_no_hint_names_a_program_that_there_is_not(table: str) -> None:
    """Of each key, empty, of another kind, and with a value that no option can have."""
    for key in (*keys(table.partition(".")[0]), "colour"):
        for value in (
            '""',
            "[]",
            "true",
            "7",
            '"\\u0001"',
            '"a b"',
            "-1",
            '["", "a"]',
            "{ a = 1 }",
        ):
            given = "" if key == "subnet" else 'subnet = "10.0.0.0/24"\n'
            try:
                asked(f"[{table}]\n{given if 'lab' in table else ''}{key} = {value}\n")
            except HvtxError as problem:
                assert problem.hint
                assert not re.search("`(run|create|vm|network) ", problem.hint), problem.hint


def test_what_is_missing_has_no_key() -> None:
    with pytest.raises(UsageError, match=r"^f: \[networks.lab\]: a network needs a --subnet"):
        asked("[networks.lab]\nmtu = 1400\n")


def test_what_is_no_text_names_the_line() -> None:
    with pytest.raises(UsageError, match="line 2"):
        parsed("f", b"[vms.web]\n\xff\n")
    with pytest.raises(UsageError, match="not TOML"):
        parsed("f", b"a = " + b"[" * 100_000)
    with pytest.raises(UsageError, match="not TOML"):
        parsed("f", b"a = " + b"9" * 100_000)


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "vms.toml"
    path.write_text('[vms.web]\nkernel = "k"\n')
    found = request(described.read([str(path)])).vms["web"].request
    assert found.kernel == str(tmp_path / "deep" / "k")
