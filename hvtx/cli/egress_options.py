"""The options that say what guests may reach, of `vm create`, `vm run` and `network create`."""

from __future__ import annotations

from collections.abc import Callable

import click

from hvtx.cli.common import Given, complete_words
from hvtx.errors import UsageError
from hvtx.model.policy import EGRESS
from hvtx.model.typed import Any

RULE = "CIDR[:PORT[-PORT][/PROTO]]"
ALLOWED = f"NAME|{RULE}"


def _modes() -> tuple[str, ...]:
    return EGRESS


def egress_options(default: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--egress``, ``--allow`` and ``--deny``; without the first it is the ``default``."""
    told = f" [default: {default}]" if default else ""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in _options(told):
            function = decorate(function)
        return function

    return decorated


def _options(default: str) -> tuple[Callable[..., Any], ...]:
    return (
        click.option(
            "--deny",
            multiple=True,
            metavar=RULE,
            help="Let guests not reach it, whatever is allowed; repeatable.",
        ),
        click.option(
            "--allow",
            multiple=True,
            metavar=ALLOWED,
            help="Let guests reach it, whatever the mode; a NAME with its subdomains; repeatable.",
        ),
        click.option(
            "--egress",
            type=Given(),
            metavar="open|internet|none",
            shell_complete=complete_words(_modes),
            help=f"What guests may reach beside their own network{default}.",
        ),
    )


def egress_changes(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for what is there, with ``--no-egress``, for the ``default``, and ``--no-rules``."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorate in (
            click.option(
                "--no-rules",
                is_flag=True,
                help="Remove all --allow and --deny rules, then add those.",
            ),
            click.option(
                "--no-egress", is_flag=True, help=f"Without a mode of its own: {default} again."
            ),
            egress_options(),
        ):
            function = decorate(function)
        return function

    return decorated


def egress_change(wanted: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a policy, taken out of the options. Raises UsageError."""
    taken = {name: wanted.pop(name) for name in ("egress", "allow", "deny", "no_rules")}
    if wanted.pop("no_egress"):
        if taken["egress"]:
            raise UsageError("--egress and --no-egress cannot be combined", hint="give one of them")
        taken["egress"] = ""
    return taken
