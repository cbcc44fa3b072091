"""The words of the history that a person may ask for are those that the code writes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

from hvtx.model.history_terms import WORDS
from tests.structure.source import program

_EVENT_OF_GC = {"removed", "kept"}  # of engine/gc_apply.py, chosen by the outcome
_VERB_OF_PLANS = {"gc", "recover", "resolve"}  # of apply_plan


@cache
def _nodes() -> list[ast.AST]:
    modules = [module for module in program() if not module.path.endswith("/words.py")]
    return [node for module in modules for node in ast.walk(module.tree)]


def _calls() -> Iterator[ast.Call]:
    return (node for node in _nodes() if isinstance(node, ast.Call))


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _text(node: ast.expr | None) -> str | None:
    found = node.value if isinstance(node, ast.Constant) else None
    return found if isinstance(found, str) else None


def test_every_event_that_is_written_can_be_asked_for() -> None:
    """And nothing is offered that is never written."""
    calls = [c for c in _calls() if _name(c) in ("Event", "_event") and c.args]
    written = {word for call in calls if (word := _text(call.args[0]))} | _EVENT_OF_GC
    assert written == set(WORDS["event"])


def test_every_verb_that_is_written_can_be_asked_for() -> None:
    """Verbs of operations, as second argument of ``begin`` or as ``verb=``."""
    begun = [c for c in _calls() if _name(c) == "begin" and len(c.args) > 1]
    written = {word for call in begun if (word := _text(call.args[1]))} | _VERB_OF_PLANS
    written |= {
        w for c in _calls() for k in c.keywords if k.arg == "verb" and (w := _text(k.value))
    }
    assert written <= set(WORDS["verb"]), "add it to hvtx/model/history_terms.py"
    elsewhere = {node.value for node in _nodes() if isinstance(node, ast.Constant)}
    assert set(WORDS["verb"]) <= elsewhere, "nothing writes it any more"
