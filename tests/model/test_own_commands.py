"""Printed commands work on the store that the command before them was about."""

from __future__ import annotations

import shlex

import pytest

from hvtx.cli.root import COMMANDS
from hvtx.model import own_commands
from hvtx.model.own_commands import given_before, with_given, with_options

STATE = {"state_dir": "/srv/pods"}


@pytest.mark.parametrize(
    ("hint", "settings", "wanted"),
    [
        ("by hand: hvtx vm rm a --force", {}, "by hand: hvtx vm rm a --force"),
        (
            "by hand: hvtx vm rm a --force",
            STATE,
            "by hand: hvtx --state-dir /srv/pods vm rm a --force",
        ),
        (
            "`hvtx gc --apply` does it; `hvtx doctor`",
            {"state_dir": "/s", "run_dir": "/p", "firewall": "nftables"},
            "`hvtx --state-dir /s --run-dir /p gc --apply` does it; `hvtx --state-dir /s --run-dir /p doctor`",
        ),
        ("run hvtx as root", STATE, "run hvtx as root"),
        ("`hvtx doctor`", {"state_dir": "/var/lib/hvtx"}, "`hvtx doctor`"),
        ("`hvtx doctor`", {"config": "/etc/pods.toml"}, "`hvtx --config /etc/pods.toml doctor`"),
    ],
)
def test_a_command_names_the_store(hint: str, settings: dict[str, str], wanted: str) -> None:
    assert with_options(hint, settings) == wanted


@pytest.mark.parametrize("path", ["/srv/my pods", "/srv/it's", "/srv/$HOME", "/srv/grün", "/a;b"])
def test_any_path_is_one_word(path: str) -> None:
    told = with_options("hvtx gc --plan", {"state_dir": path})
    assert shlex.split(told) == ["hvtx", "--state-dir", path, "gc", "--plan"]


def test_every_command_is_known() -> None:
    assert set(own_commands.COMMANDS) == set(COMMANDS)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("vm rm web --state-dir /x", {}),
        ("--state-dir /s --run-dir=/r vm rm web", {"--state-dir": "/s", "--run-dir": "/r"}),
        ("-v --lock-timeout 5 --config c.toml --debug gc", {"--config": "c.toml"}),
        ("--firewall iptables --state-dir /a --state-dir /b vm ls", {"--state-dir": "/b"}),
        ("--state-dir", {"--state-dir": ""}),
        ("--state-dir /var/lib/hvtx vm ls", {"--state-dir": "/var/lib/hvtx"}),
    ],
)
def test_what_stands_before_a_command_says_which_store(line: str, given: dict[str, str]) -> None:
    """The default, too, where somebody gives it: the environment may say another."""
    assert given_before(line.split()) == given


@pytest.mark.parametrize(
    "text",
    [
        "`hvtx --state-dir /s gc --apply` does it",
        "hvtx vm rm --help",
        "`hvtx --help` lists the commands",
        "hvtx vmx",
        "a process of hvtx is at work",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert with_given(text, {"--state-dir": "/s"}) == text
