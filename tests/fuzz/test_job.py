"""The long job adds up: what each parser had as its code is now, the least fuzzed first."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from hvtx.host import procfs
from tests.fuzz import job
from tests.fuzz.parsers import Parser
from tests.fuzz.reached import Trace, digest, reach


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and the signal's handler as it was."""
    monkeypatch.setattr(job, "PLACE", tmp_path)
    before = signal.getsignal(signal.SIGVTALRM)
    yield
    signal.signal(signal.SIGVTALRM, before)


def entry(seconds: float, **more: Any) -> job.Entry:
    return {
        "seconds": seconds,
        "examples": 1,
        "hit": 1,
        "lines": 1,
        "found": "",
        "modules": ["hvtx/errors.py"],
        **more,
    }


def test_what_was_had_counts_until_the_code_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.had("QMP")["seconds"] == 0
    job.keep("QMP", entry(7.5))
    assert job.had("QMP")["seconds"] == 7.5
    monkeypatch.setattr(job, "digest", lambda modules: f"another {modules}")
    assert job.had("QMP")["seconds"] == 0


def test_a_module_that_is_gone_is_another_code() -> None:
    assert digest(["hvtx/errors.py"]) != ""
    assert digest(["hvtx/errors.py", "hvtx/no_such.py"]) == ""
    job.keep("QMP", entry(7.5, modules=["hvtx/no_such.py"]))
    assert job.had("QMP")["seconds"] == 0


def test_the_least_fuzzed_comes_first_until_all_have_had_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, seconds in (("QMP", 30.0), ("stat", 5.0), ("marks", 25.0), ("views", 40.0)):
        job.keep(name, entry(seconds))
    job.keep("API", entry(0.0, found="--seed 1"))
    turns: list[tuple[str, float]] = []

    def turn(name: str, seconds: float, _output: object) -> None:
        turns.append((name, seconds))
        job.keep(name, entry(job.had(name)["seconds"] + seconds))

    monkeypatch.setattr(job, "turn", turn)
    job.work(["QMP", "stat", "marks", "views", "API"], 40.0, 15.0, float("inf"))
    assert turns == [("stat", 15.0), ("stat", 15.0), ("marks", 15.0), ("QMP", 10.0), ("stat", 5.0)]


def test_another_process_has_it_meanwhile() -> None:
    with job.mine("QMP") as mine, job.mine("QMP") as other, job.mine("stat") as free:
        assert (mine, other, free) == (True, False, True)


def parser_of(call: Any) -> Parser:
    return Parser(call, st.just(b"x"), (ValueError,), ("host.procfs.field_of",))


@pytest.mark.parametrize("words", ["no text", "an endless one"])
def test_what_is_found_is_kept_with_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def call(_given: bytes) -> None:
        if words == "no text":
            raise KeyError("this was not named")
        while True:
            pass

    monkeypatch.setattr(job, "TOO_LONG", 0.02)
    monkeypatch.setitem(job.PARSERS, "wrong", parser_of(call))
    monkeypatch.setattr(job, "measure", lambda _name, to: to.update(modules=["hvtx/errors.py"]))
    said = io.StringIO()
    job.turn("wrong", 5.0, said)
    kept = job.had("wrong")
    assert "--seed" in kept["found"]
    assert ("KeyError" if words == "no text" else "TookTooLong") in kept["found"]
    assert said.getvalue().startswith("FOUND in wrong: ")
    assert "FOUND" in job.table(["wrong"])


def test_lines_that_ran_are_counted_of_what_is_covered() -> None:
    trace = Trace()
    with trace:
        procfs.field_of(b"Tgid:\t7\n", b"Tgid:")
    found = reach(["host.procfs.field_of"], trace.lines)
    assert 0 < found.hit <= found.lines
    assert found.modules == ["hvtx/host/procfs.py"]
    none = reach(["host.procfs.start_time"], {})
    assert none.hit == 0 < none.lines == len(none.missed["hvtx/host/procfs.py"])
