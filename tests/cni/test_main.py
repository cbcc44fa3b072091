"""One run of the plugin: whatever comes in, one JSON object or nothing goes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.cni import main
from hvtx.errors import Conflict
from tests.cni import recorded
from tests.cni.recorded import Recorded
from tests.cni.standin import StandIn

RECORDED = {name: one for name, one in vars(recorded).items() if isinstance(one, Recorded)}


def play(one: Recorded, host: StandIn, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    monkeypatch.setattr(main, "_read", lambda: one.data)
    monkeypatch.setattr(main, "_attachments", host.opened)
    code, said = main.run(one.environment)
    return code, json.loads(said) if said else None


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_request_is_answered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = RECORDED[name]
    command = one.environment["CNI_COMMAND"]
    code, told = play(one, StandIn(), monkeypatch)
    if name == "LIBCNI_CHECK":  # of another ADD than the stand-in's: only the dual stack differs
        assert (code, told["code"]) == (1, 105)
        assert told["msg"] == "prevResult does not have the address fd77::2/64"
        return
    assert code == 0, told
    if command == "ADD":
        assert told["cniVersion"] == one.stdin["cniVersion"]
        assert told["ips"]
    elif command == "VERSION":
        assert told["cniVersion"] == "0.4.0"
        assert "0.3.1" in told["supportedVersions"]
    else:
        assert told is None


@pytest.mark.parametrize(
    ("environment", "stdin", "code", "version"),
    [
        ({}, {}, 4, "1.1.0"),
        ({"CNI_COMMAND": "ADD"}, {}, 4, "1.1.0"),
        ({"CNI_COMMAND": "ADD"}, {"cniVersion": "0.4.0", "name": "lan"}, 4, "0.4.0"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.0.0", "name": "lan"}, 1, "1.0.0"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0"}, 7, "1.1.0"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "9.0.0", "name": "lan"}, 1, "1.1.0"),
    ],
)
def test_errors_are_answered_too(
    environment: dict[str, str],
    stdin: Any,
    code: int,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exit_code, told = play(Recorded(environment, stdin), StandIn(), monkeypatch)
    assert exit_code == 1
    assert (told["code"], told["cniVersion"]) == (code, version)
    assert told["msg"]
    assert told["details"]


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (Conflict("taken", hint="DEL first"), 100, "taken"),
        (RuntimeError("oops"), 199, "unexpected RuntimeError: oops"),
        (KeyboardInterrupt(), 11, "interrupted"),
    ],
)
def test_what_goes_wrong_in_the_library_is_an_answer(
    problem: Any, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_code, told = play(recorded.CTR_ADD, StandIn(problem), monkeypatch)
    assert (exit_code, told["code"], told["msg"]) == (1, code, words)
    assert told["cniVersion"] == "1.0.0"


@pytest.mark.parametrize(
    ("problem", "command"), [(RuntimeError("oops"), "doctor"), (KeyboardInterrupt(), "recover")]
)
def test_what_ends_the_plugin_names_the_store_of_the_configuration(
    problem: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person runs the hint as it stands: on the default store it would find nothing."""
    one = recorded.CTR_ADD
    data = json.dumps({**one.stdin, "stateDir": "/srv/pods", "runDir": None}).encode()
    monkeypatch.setattr(main, "_read", lambda: data)
    monkeypatch.setattr(main, "_attachments", StandIn(problem).opened)
    _, said = main.run(one.environment)
    assert f"`hvtx --state-dir /srv/pods {command}`" in json.loads(said)["details"]


def test_a_standard_input_that_cannot_be_read_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _most: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", refuse)
    code, said = main.run({"CNI_COMMAND": "STATUS"})
    assert code == 1
    assert json.loads(said)["code"] == 5


def test_no_more_is_read_than_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def endless(_descriptor: int, most: int) -> bytes:
        nonlocal asked
        asked += most
        return b" " * most

    monkeypatch.setattr(os, "read", endless)
    code, said = main.run({"CNI_COMMAND": "STATUS"})
    assert (code, json.loads(said)["code"]) == (1, 6)
    assert asked < 2 * main.MOST


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":"7"}', "1.1.0"),
        (b"", "1.1.0"),
        (b"[", "1.1.0"),
    ],
)
def test_versions_are_answered_whatever_is_asked(data: bytes, version: str) -> None:
    assert main.versions(data)["cniVersion"] == version


# Documents that are nearly right: each key of a request may have a value of any type.
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70000) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["eth0", "10.77.0.2/24", "tcp", "02:00:00:00:00:01", "1.1.0", "0.3.1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["hostPort", "ContainerPort", "protocol", "HostIP", "ingressRate", "egressRate",
             "servers", "interfaces", "ips", "routes", "dns", "interface", "address", "cni", "mac",
             "containerID", "ifname", "name", "sandbox", "portMappings", "bandwidth"]
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = [
    "cniVersion", "name", "type", "network", "subnets", "subnet", "mtu", "nat", "isolate", "vm",
    "runtimeConfig", "args", "prevResult", "dns", "ipam", "stateDir", "lockTimeout",
    "historyLines", "egress", "group",
    "cni.dev/attachments", "cni.dev/valid-attachments", "other",
]  # fmt: skip
documents = st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from([one.stdin for one in RECORDED.values()]),
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=3),
)
environments = st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from([one.environment for one in RECORDED.values()]),
    st.dictionaries(
        st.sampled_from(["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]),
        st.text(max_size=8) | st.sampled_from(["ADD", "CHECK", "GC", "MAC=x", "IP=1", "eth0"]),
        max_size=2,
    ),
)


def _check_answer(command: str, code: int, said: bytes) -> None:
    if code == 0:
        assert bool(said) == (command in ("ADD", "VERSION"))
        return
    assert code == 1
    told = json.loads(said)
    assert {"cniVersion", "code", "msg"} <= told.keys() <= {"cniVersion", "code", "msg", "details"}
    assert told["code"] != 199, told  # a mistake of ours
    assert "\n" not in told["msg"] + told.get("details", "")


def _answered(environment: dict[str, str], data: bytes) -> None:
    saved: tuple[Callable[[], bytes], Any] = main._read, main._attachments
    main._read, main._attachments = lambda: data, StandIn().opened  # type: ignore[assignment]
    try:
        _check_answer(environment.get("CNI_COMMAND", ""), *main.run(environment))
    finally:
        main._read, main._attachments = saved


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(environments, documents)
def test_any_request_is_answered(environment: dict[str, str], document: dict[str, Any]) -> None:
    _answered(environment, json.dumps(document).encode())


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(environments, st.binary(max_size=60))
def test_any_bytes_are_answered(environment: dict[str, str], data: bytes) -> None:
    _answered(environment, data)


_SCRIPT = """
import sys
from hvtx.cni import main
main.run = lambda environment: (0, type(sys.meta_path[0]).__name__.encode())
main.main()
"""


def test_the_program_finds_its_modules_by_their_names() -> None:
    """What answers is loaded as the command line's modules are (docs/adr/0061)."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", _SCRIPT], capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"Finder"
