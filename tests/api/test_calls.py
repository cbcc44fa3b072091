"""A call of a verb: where its settings are from, who hears it, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
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
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from tests.machine.fake_world import FakeWorld

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


WRONG = [
    'firewall = "nft"', "isolat = true", "dhcp = 1", 'lock_timeout = "soon"', "group = 3",
    'group = "no-such-group"', 'tap_user = "no-such-user"',
    '[cluster]\nsource = "etcd"\nendpoint = ["http://[::1]:2379"]',
    '[cluster]\nsource = "etcd"\nendpoints = ["http://192.0.2.1"]', "cluster = 3",
]  # fmt: skip
KEY = AttachmentKey("lan", "c0ffee", "eth0")


def config_of(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "edited.toml"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_keeps_no_container_attached(tmp_path: Path, line: str) -> None:
    """A configuration that was edited since: DEL and GC need the store alone, and say so."""
    told: list[tuple[str, str]] = []
    with closing(FakeWorld(tmp_path)) as world:
        asked = AttachmentRequest(KEY, "lan", world.container(), ("10.77.0.0/24",))
        with world.kernel.run():
            Host().attachments.add(asked)
            host = Host(config=config_of(tmp_path, line), notices=lambda *words: told.append(words))
            assert [one.key for one in host.attachments.collect("lan", []).kept] == [KEY]
            host.attachments.delete(KEY)
            assert [level for level, _ in told] == ["warning"] * 2 or "user" in line
            if "no-such-group" not in line:
                with pytest.raises(UsageError):
                    host.attachments.add(asked)
            assert list(Host().vm.ls()) == []


def test_what_is_wrong_in_a_runtimes_environment_keeps_none_either(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVTX_DHCP", "yes")
    monkeypatch.setenv("HVTX_LOCK_TIMEOUT", "soon")
    with pytest.raises(UsageError, match="HVTX_DHCP"):
        Host(**calls.given).attachments.show(KEY)
    Host(**calls.given).attachments.delete(KEY)
    monkeypatch.setenv("HVTX_STATE_DIR", "\x01")
    Host(**calls.given).attachments.delete(KEY)
    del calls.given["state_dir"]
    with pytest.raises(UsageError, match="HVTX_STATE_DIR"):
        Host(**calls.given).attachments.delete(KEY)


def test_what_ends_a_container_waits_as_long_as_is_said(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.given["config"] = config_of(
        tmp_path, "lock_timeout = 0", "history_lines = 500", 'group = "0"', 'firewall = "nft"'
    )
    known = calls._settings_to_end()
    assert (known.lock_timeout, known.history_lines, known.group) == (0, 500, "0")
    monkeypatch.setenv("HVTX_LOCK_TIMEOUT", "3")
    assert calls._settings_to_end().lock_timeout == 3
    assert known.state_directory == calls.given["state_dir"]


@pytest.mark.parametrize("written", [None, "firewall: nftables", "state_dir = 3"])
def test_where_the_store_is_has_to_be_known(
    calls: Calls, tmp_path: Path, written: str | None
) -> None:
    """Else it would be another's, or be worked on beside those who hold other locks."""
    path = tmp_path / "none.toml" if written is None else Path(config_of(tmp_path, written))
    calls.given["config"] = str(path)
    Host(**calls.given).attachments.delete(KEY)
    for missing in ("state_dir", "run_dir"):
        given = {name: value for name, value in calls.given.items() if name != missing}
        if written == "state_dir = 3" and missing == "run_dir":
            continue  # of that one the file says nothing
        with pytest.raises((UsageError, NotFound), match=path.name):
            Host(**given).attachments.delete(KEY)


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
        (DumpInterrupted(), HostRefused, 6),
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
