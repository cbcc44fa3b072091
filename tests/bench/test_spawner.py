"""The small process that runs commands and tells what each took."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench.inside.spawner import Spawner


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    found = Spawner({"PATH": os.environ["PATH"], "GREETING": "hello"})
    yield found
    found.close()


def test_a_command_has_its_time_its_processor_time_and_its_peak(spawner: Spawner) -> None:
    found = spawner.run("sh", "-c", '[ "$GREETING" = hello ]')
    assert found["code"] == 0
    assert found["ms"] > 0
    assert found["processor"] >= 0
    assert found["peak"] > 0.5


def test_a_peak_is_the_commands_and_not_that_of_who_asked(spawner: Spawner) -> None:
    """A child begins with the peak of its parent: this process is far above what sh needs."""
    own = bytearray(64 << 20)
    assert spawner.run("sh", "-c", "exit 0")["peak"] < len(own) >> 20


def test_a_command_that_fails_is_told_with_its_words(spawner: Spawner) -> None:
    with pytest.raises(RuntimeError, match="exit 7: no such thing"):
        spawner.run("sh", "-c", "echo no such thing >&2; exit 7")
    assert spawner.run("sh", "-c", "exit 7", may_fail=True)["code"] == 7


def test_on_a_terminal_the_first_byte_is_told_and_who_holds_it_is_not_waited_for(
    spawner: Spawner,
) -> None:
    """A hypervisor that was started may keep the terminal: the command ended all the same."""
    script = "[ -t 1 ] && [ $TERM = xterm ] && echo begun; sleep 60 & echo $!; exit 0"
    found = spawner.run("sh", "-c", script, terminal=True)
    words = found["error"].split()
    os.kill(int(words[1]), 9)
    assert words[0] == "begun"
    assert found["code"] == 0
    assert 0 < found["first"] <= found["ms"]


def test_on_a_terminal_a_command_that_says_nothing_has_no_first_byte(spawner: Spawner) -> None:
    assert spawner.run("true", terminal=True)["first"] is None
