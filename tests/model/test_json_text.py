"""JSON is read and written to the letter as Python's own library has it."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.model import json_text


class Kind(StrEnum):
    ONE = "one"


class Pair(NamedTuple):
    one: int
    two: str | None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda within: st.lists(within) | st.dictionaries(st.text(), within),
)
BROKEN = [
    "", " ", "{", "[1,]", "[1] 2", '{"a":1,}', "nul", "tru", "01", "1.", '"', '"\\x"', '"\n"', "'a'",
    "\ufeff{}", "{1:2}", '{"a" 1}', "[" * 100_000, "-", "NaN x",
]  # fmt: skip


def told(function: Any, *given: Any, **named: Any) -> tuple[str, str]:
    try:
        return "value", repr(function(*given, **named))
    except (ValueError, TypeError, RecursionError) as problem:
        return type(problem).__name__, str(problem)


@given(VALUES)
def test_what_is_written_is_what_python_writes(value: Any) -> None:
    text = json_text.dumps(value)
    assert text == json.dumps(value)
    assert json_text.dumps(value, separators=(",", ":")) == json.dumps(value, separators=(",", ":"))
    for one in (text, json.dumps(value, indent=2), json.dumps(value, ensure_ascii=False)):
        assert repr(json_text.loads(one)) == repr(json.loads(one))


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_refused_is_refused_in_the_same_words(text: str) -> None:
    said = told(json_text.loads, text)
    assert said == told(json.loads, text)
    assert said[0] != "value" or text == "NaN x"


def test_what_is_in_itself_or_too_deep_is_refused_in_the_same_words() -> None:
    inside: list[Any] = [1]
    inside.append({"again": inside})
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (inside, deep, {"a": object()}):
        said = told(json_text.dumps, value)
        assert said == told(json.dumps, value)
        assert said[0] != "value"
    assert json_text.dumps({"a": [1, {"b": None}]}) == '{"a": [1, {"b": null}]}', "as before"


def test_what_is_refused_is_refused_where_nobody_loaded_json() -> None:
    script = f"""
import sys
sys.path += {sys.path!r}
from hvtx.model import json_text
for text in {BROKEN!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "json"]:
        del sys.modules[name]
    try:
        json_text.loads(text)
    except (ValueError, RecursionError) as problem:
        print(type(problem).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [told(json.loads, one)[0] for one in BROKEN]


@pytest.mark.parametrize(
    "text", [" [1]\r\n\t", "NaN", "[-Infinity, Infinity]", '"\\ud83d\\ude00"', "1e999"]
)
def test_what_is_taken_is_taken(text: str) -> None:
    assert told(json_text.loads, text) == told(json.loads, text)
    assert told(json_text.loads, text)[0] == "value"


def test_bytes_are_read_too() -> None:
    assert json_text.loads(b'{"a": "\xc3\xa4"}') == {"a": "ä"}


def test_a_constant_is_what_the_caller_says() -> None:
    assert json_text.loads("[NaN, 1]", str.lower) == ["nan", 1]


@pytest.mark.parametrize(
    "value", [Kind.ONE, {Kind.ONE: [Kind.ONE]}, Pair(1, None), "\ud800", {None: 1, True: 2, 1.5: 3}]
)
def test_values_of_ours_are_written_alike(value: Any) -> None:
    assert json_text.dumps(value) == json.dumps(value)


def test_what_cannot_be_written_is_refused_in_the_same_words() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), {(1, 2): 3}, circle, {1, 2}, b"a"):
        assert told(json_text.dumps, value) == told(json.dumps, value)
        assert told(json_text.dumps, value)[0] != "value"
    assert json_text.dumps([1]) == "[1]"  # a circle that was met is forgotten


@pytest.mark.parametrize("lacks", ["_json", None])
def test_without_the_parts_the_library_does_it(lacks: str | None) -> None:
    script = f"""
import sys
sys.path += {sys.path!r}
lacks = {lacks!r}
if lacks:
    sys.modules[lacks] = None
from hvtx.model import json_text
assert json_text.loads(json_text.dumps({{"a": [1, "\\u00e4"]}})) == {{"a": [1, "\\u00e4"]}}
assert json_text.quoted("\\u00e4") == '"\\\\u00e4"'
print("json" in sys.modules, "re" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [str(bool(lacks))] * 2
