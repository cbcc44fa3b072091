"""Each word of an error that stands in the source has its meaning on docs/json.md."""

from __future__ import annotations

import ast
from collections import defaultdict

from hvtx import errors
from hvtx.documents.error_codes import WORDS
from tests.structure.source import program

KINDS = {name: kind for name, kind in vars(errors).items()
         if isinstance(kind, type) and issubclass(kind, errors.HvtxError)}  # fmt: skip


def raised() -> dict[str, set[int]]:
    """The words that errors are made with, each with the exit codes of the errors' classes."""
    texts = {}
    for module in program():
        for one in module.nodes(ast.Assign):
            name = ast.unparse(one.targets[0])
            if name.isupper() and isinstance(one.value, ast.Constant):
                texts[name] = one.value.value
    found: dict[str, set[int]] = defaultdict(set)
    for module in program():
        for call in module.nodes(ast.Call):
            kind = KINDS.get(ast.unparse(call.func))
            given = next((k.value for k in call.keywords if k.arg == "code"), None)
            word = (
                texts.get(given.id)
                if isinstance(given, ast.Name)
                else getattr(given, "value", None)
            )
            if kind is not None and isinstance(word, str):
                found[word].add(kind.exit_code)
    return found


def test_every_word_is_explained_with_its_exit_codes() -> None:
    """That of a signal is made where it is told (`hvtx/cli/interrupts.py`)."""
    found = raised()
    found["interrupted"] = {130, 143, 129}
    assert {word: set(codes) for word, (codes, _) in WORDS.items()} == found


def test_no_word_is_a_class_s_too() -> None:
    assert WORDS.keys() & {kind.code for kind in KINDS.values()} == set()
