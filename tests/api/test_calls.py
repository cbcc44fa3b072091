"""A call of a verb: where its settings are from, who hears it, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hvtx import (
    Conflict,
    Host,
    HostRefused,
    HvtxError,
    NotFound,
    NotPermitted,
    StoreError,
    UsageError,
)
from hvtx.api.calls import Calls, unexpected
from hvtx.engine import notice

# Calls a function in itself until the interpreter has no room for one more.
NO_FRAME = """
import resource
def deep(left):
    return deep(left - 1) if left else 0
for _ in range(9):
    deep(20)  # the call is specialised
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
try:
    deep(900)
except (SystemError, MemoryError) as problem:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(f"{type(problem).__name__}: {problem}")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr("hvtx.api.settings.DEFAULT_CONFIG", str(tmp_path / "none.toml"))
    for name in ("HVTX_CONFIG", "HVTX_STATE_DIR", "HVTX_RUN_DIR", "HVTX_FIREWALL"):
        monkeypatch.delenv(name, raising=False)
    return Calls(
        {"state_dir": str(tmp_path / "state"), "run_dir": str(tmp_path / "run")}, None, None
    )


# -- settings --------------------------------------------------------------------------------------


def test_an_argument_is_before_the_environment_and_that_before_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('firewall = "iptables"\nlock_timeout = 3\ndhcp = "on"\n')
    monkeypatch.setenv("HVTX_FIREWALL", "nftables")
    monkeypatch.setenv("HVTX_LOCK_TIMEOUT", "5")
    monkeypatch.setenv("HVTX_DHCP", "off")
    with Host(config=file, state_dir=tmp_path / "s", lock_timeout=0.0, dhcp="auto") as host:
        known = host._calls.settings
    assert (known.firewall, known.lock_timeout, known.dhcp) == ("nftables", 0.0, "auto")
    assert known.state_directory == str(tmp_path / "s")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"firewall": "pf"}, "--firewall cannot be 'pf'"),
        ({"lock_timeout": float("nan")}, "--lock-timeout"),
        ({"lock_timeout": -1.0}, "--lock-timeout"),
        ({"state_dir": ""}, "--state-dir is empty"),
        ({"history_lines": 5}, "--history-lines"),
    ],
)
def test_a_setting_that_is_none_is_refused_when_it_is_first_needed(
    wrong: dict[str, Any], words: str
) -> None:
    host = Host(**{"config": "/dev/null", **wrong})
    with pytest.raises(UsageError, match=words):
        host.__enter__()


def test_a_configuration_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound), Host(config=tmp_path / "none"):
        pass


# -- who hears it ----------------------------------------------------------------------------------


def test_warnings_go_to_whoever_wants_them_and_nowhere_else(
    calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    heard: list[tuple[str, str]] = []
    other = Calls(calls.given, lambda level, words: heard.append((level, words)), None)
    with other.speaking():
        notice.warning("look out")
        with calls.speaking():
            notice.note("for the log")
        notice.note("see there")
    assert heard == [("warning", "look out"), ("note", "see there")]
    assert capsys.readouterr() == ("", "")
    notice.warning("nobody called")
    assert capsys.readouterr().err == "warning: nobody called\n"


def test_without_a_listener_a_program_finds_them_in_its_log(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hvtx"), calls.speaking():
        notice.warning("look out: %s")
        notice.note("see there")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("hvtx", "WARNING", "look out: %s"),
        ("hvtx", "INFO", "see there"),
    ]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "kind", "code"),
    [
        (PermissionError(errno.EACCES, "no"), NotPermitted, 5),
        (OSError(errno.ENOSPC, "full"), StoreError, 7),
        (OSError(errno.EFBIG, "large"), StoreError, 7),
        (OSError(errno.EIO, "torn"), StoreError, 7),
        (OSError(errno.EMFILE, "many"), HostRefused, 6),
        (OSError(errno.ENODEV, "none"), HvtxError, 1),
        (MemoryError(), HvtxError, 1),
        (sqlite3.OperationalError("disk I/O error"), StoreError, 7),
    ],
)
def test_an_error_of_the_system_becomes_one_of_ours(
    calls: Calls, problem: Exception, kind: type[HvtxError], code: int
) -> None:
    problem.add_note("and TAP hv1 is left")
    with pytest.raises(kind) as caught, calls.speaking():
        raise problem
    assert caught.value.exit_code == code
    assert caught.value.hint
    assert caught.value.__cause__ is problem
    if not isinstance(problem, sqlite3.Error):
        assert caught.value.__notes__ == ["and TAP hv1 is left"]


@pytest.mark.parametrize("problem", [ValueError("x"), KeyboardInterrupt(), BrokenPipeError()])
def test_what_is_the_callers_or_a_mistake_of_ours_stays_what_it_is(
    calls: Calls, problem: BaseException
) -> None:
    with pytest.raises(type(problem)) as caught, calls.speaking():
        raise problem
    assert caught.value is problem


def test_each_unexpected_error_has_a_hint() -> None:
    assert all(unexpected(OSError(number, "x")).hint for number in errno.errorcode)


def test_a_call_without_memory_for_its_frame_is_out_of_memory(calls: Calls) -> None:
    """The words are CPython's own: no errno and no class tells it from a bug."""
    ran = subprocess.run(
        [sys.executable, "-c", NO_FRAME], capture_output=True, text=True, check=True
    )
    kind, _, words = ran.stdout.strip().partition(":")  # a MemoryError may say nothing (3.13)
    raised = {"SystemError": SystemError, "MemoryError": MemoryError}[kind](words.strip())
    with pytest.raises(HvtxError, match="out of memory") as told, calls.speaking():
        raise raised
    assert told.value.code == "memory"
    with pytest.raises(SystemError), calls.speaking():
        raise SystemError("bad argument to internal function")


# -- where it may be called ------------------------------------------------------------------------


def test_a_closed_host_is_refused(calls: Calls) -> None:
    calls.close()
    with pytest.raises(UsageError, match="closed"), calls.opened(writable=False):
        raise AssertionError
    with pytest.raises(UsageError, match="closed"), calls.reading():
        raise AssertionError


def test_the_thread_of_an_event_loop_is_refused_and_told_the_way(calls: Calls) -> None:
    async def wrong() -> None:
        with calls.speaking():
            raise AssertionError

    async def right() -> int:
        def ask() -> int:
            with calls.speaking():
                return 3

        return await asyncio.to_thread(ask)

    with pytest.raises(UsageError) as caught:
        asyncio.run(wrong())
    assert "asyncio.to_thread" in str(caught.value.hint)
    assert asyncio.run(right()) == 3


def test_what_is_refused_makes_no_store(calls: Calls, tmp_path: Path) -> None:
    def refuse(runtime: Any) -> None:
        assert runtime.store.missing
        raise Conflict("it is taken")

    with pytest.raises(Conflict, match="it is taken"), calls.recording(refuse):
        pytest.fail("the call is not made")
    assert not (tmp_path / "state").exists()


def test_a_store_that_came_during_the_check_is_asked_instead(calls: Calls) -> None:
    """The first commands of two: what the other has made is no conflict of who did not know it."""

    def overtaken(_: Any) -> None:
        with calls.opened(writable=True):
            pass
        raise Conflict("the host has a route to it")

    with calls.recording(overtaken) as runtime:
        assert not runtime.store.missing
