"""What changes something is in the crash matrix, and every firewall is in its contract.

A new command, a new flag of one, or a new backend fails here until it has joined, or until it says
why it need not.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from hvtx.cli.root import root
from hvtx.engine.registry import DRIVERS, FIREWALLS
from integration.crash.test_failpoints import BACKENDS, COMMANDS
from integration.lab import attachments, firewall_contract

# Commands that are not in COMMANDS, each with its reason.
ASIDE = {
    "network ls": "reads",
    "network show": "reads",
    "vm ls": "reads",
    "vm show": "reads",
    "vm logs": "reads",
    "vm console": "joins two descriptors; neither store nor host",
    "intents": "reads",
    "log": "reads",
    "explain": "reads",
    "network routes": "reads",
    "cluster status": "reads",
    "cluster forget": "etcd alone; killed in between it is asked again (integration/cluster)",
    "cluster register": "etcd and rows of the cluster; goes on when it is killed (integration/cluster)",
    "store backup": "reads; writes one file of its own, under another name first (test_backup)",
    "metrics": "reads; --textfile writes one file by rename (test_monitoring)",
    "doctor": "reads; --gc is the older spelling of `gc`, which is there",
    "completion": "prints",
    "systemd install": "files of systemd, no store and no host: test_installs_killed",
    "systemd uninstall": "the same",
    "systemd print": "prints",
    "cni install": "two files, no store and no host: test_installs_killed",
    "cni uninstall": "the same",
    "cni print": "prints",
}
# Flags of commands in COMMANDS that no command line there has, each with its reason.
FLAGS_ASIDE = {
    "--json": "another way to print the same",
    "--plan": "reads",
    "--schema": "prints",
    "--evidence": "another way to print a plan",
    "--all": "goes with --plan",
    "--detailed-exitcode": "goes with --plan",
    "--dry-run": "reads",
    "--from-log": "another source of the same wish",
    "store restore --force": "the same, with no look at what runs",
    "--nat": "the default",
    "--isolate": "other rules in the same steps",
    "--passage": "the default; without it fewer steps",
    "--autostart": "a column; what it starts at boot are starts (test_boot)",
    "--accept-rollback": "a person's word that the store is right; no operation is "
    "interrupted by it",
    "--new-namespace": "likewise, of the namespace; then `recover` as ever",
    "vm apply --no-start": "fewer steps",
    "vm stop --force": "`vm rm --force` stops in the same way",
    "vm restart --force": "likewise",
    "vm set --no-kernel": "another value in the same row, as are the next three",
    "vm set --no-initrd": "likewise",
    "vm set --no-append": "likewise",
    "vm set --no-disk": "likewise",
    "vm set --no-user-data": "likewise",
    "vm set --no-ssh-key": "likewise",
    "vm set --no-user": "likewise",
    "vm set --user-data": "likewise; what is made of it at the start is in `vm start`",
    "vm set --ssh-key": "likewise",
    "vm set --queues": "likewise",
    "vm set --user": "likewise",
    "--no-uplink": "another value in the same row and rules as --uplink",
    "--no-source": "likewise",
    "--no-egress": "another policy in the same steps as --egress",
    "--no-rules": "likewise",
}


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree with its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, f"{path} {name}".strip())
    else:
        yield path, command


LEAVES = dict(leaves(root))


def lines_of(path: str) -> list[tuple[str, ...]]:
    """The command lines of COMMANDS that call a command."""
    words = tuple(path.split())
    return [c.argv for c in COMMANDS.values() if c.argv[: len(words)] == words]


@pytest.mark.parametrize("path", list(LEAVES))
def test_a_command_is_killed_or_says_why_not(path: str) -> None:
    """Each command of the tree is in COMMANDS or in ASIDE, and in one of them only."""
    assert bool(lines_of(path)) != (path in ASIDE), f"{path}: COMMANDS or ASIDE?"


def test_the_lists_name_what_there_is() -> None:
    """Nothing is excused that does not exist, and no command line of the matrix is unknown."""
    assert set(ASIDE) <= set(LEAVES)
    matched = [line for path in LEAVES for line in lines_of(path)]
    typed = [c.argv for c in COMMANDS.values() if c.argv[0] != attachments.WORD]
    assert sorted(matched) == sorted(typed)


@pytest.mark.parametrize("path", [path for path in LEAVES if lines_of(path)])
def test_a_flag_is_used_or_says_why_not(path: str) -> None:
    """A flag that makes a command change other things joins with a command line of its own."""
    used = {word for line in lines_of(path) for word in line}
    flags = [p for p in LEAVES[path].params if isinstance(p, click.Option) and p.is_flag]
    for flag in flags:
        names = {*flag.opts, *flag.secondary_opts}
        excused = names & FLAGS_ASIDE.keys() or {f"{path} {n}" for n in names} & FLAGS_ASIDE.keys()
        assert names & used or excused, f"{path} {flag.opts}: in a command line, or excused?"


def test_every_firewall_is_in_the_contract_and_in_the_matrix() -> None:
    """A backend joins both; that every driver keeps its contract, `tests/drivers` asserts."""
    assert set(FIREWALLS) <= set(DRIVERS)
    assert set(firewall_contract.BACKENDS) == set(FIREWALLS)
    assert set(BACKENDS) == set(FIREWALLS)
