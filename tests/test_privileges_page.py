"""docs/privileges.md says of every verb what it takes; integration/security runs the table's rows."""

from __future__ import annotations

import re
from pathlib import Path

import click

from hvtx.cli.root import COMMANDS, root
from tests.documents.test_fields import verbs

PAGE = (Path(__file__).parent.parent / "docs/privileges.md").read_text()


def test_every_verb_is_on_the_page() -> None:
    """In its first part: as a row of the table, or in a sentence beside it."""
    (part,) = re.findall(r"^## What a command needs$(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    named = {re.sub(r" (--|[A-Z]).*", "", words) for words in re.findall(r"`([^`]+)`", part)}
    context = click.Context(root)
    found = [
        path
        for name in COMMANDS
        for path, _ in verbs(root.get_command(context, name), name)  # type: ignore[arg-type]
    ]
    assert [path for path in found if path not in named] == []
