"""Hints of errors work on the plugin's own store."""

from __future__ import annotations

import shlex

import pytest

from hvtx.cli.root import COMMANDS
from hvtx.cni import own_commands
from hvtx.cni.own_commands import with_options

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
