"""What a runtime says in the environment."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.cni.environment import Call, parse_args, parse_environment
from hvtx.cni.errors import ENVIRONMENT, CniError

GOOD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "web",
    "CNI_NETNS": "/run/netns/web",
    "CNI_IFNAME": "eth0",
}


def test_what_is_needed_is_read() -> None:
    assert parse_environment(GOOD) == Call("ADD", "web", "/run/netns/web", "eth0", "")


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID, CNI_IFNAME"),
    ],
)
def test_all_that_is_missing_is_named(command: str, missing: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_environment({"CNI_COMMAND": command, "CNI_NETNS": ""})
    assert caught.value.code == ENVIRONMENT
    assert caught.value.msg == f"{command} needs {missing}"


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION"])
def test_the_other_commands_need_nothing(command: str) -> None:
    """libcni sets all the variables to nothing."""
    empty = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"), "")
    assert parse_environment({"CNI_COMMAND": command, **empty}).command == command


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", "-web"),
        ("CNI_CONTAINERID", "we b"),
        ("CNI_CONTAINERID", "web\n"),
        ("CNI_CONTAINERID", "a" * 256),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "et/0"),
        ("CNI_IFNAME", "et:0"),
        ("CNI_IFNAME", "et 0"),
        ("CNI_IFNAME", "a" * 16),
        ("CNI_IFNAME", "\u00e9" * 8),  # 16 bytes
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "all"),
        ("CNI_IFNAME", "lo"),
        ("CNI_IFNAME", "eth\udcff"),
        ("CNI_NETNS", "/run/\x1b[2J"),
        ("CNI_NETNS", "/run/\udcff"),
    ],
)
def test_what_cannot_be_is_named(name: str, value: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_environment({**GOOD, name: value})
    assert caught.value.code == ENVIRONMENT
    assert name in caught.value.msg
    assert caught.value.msg.isprintable()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("A=1", {"A": "1"}),
        ("A=1;B=", {"A": "1", "B": ""}),
        (";A=1;;", {"A": "1"}),
        ("A=x=y", {"A": "x=y"}),
        ("A=1;A=2", {"A": "2"}),
        ("MAC=a;MAC=a", {"MAC": "a"}),
        ("MAC=;MAC=a", {"MAC": "a"}),
        ("MAC=a;MAC=", {"MAC": "a"}),
    ],
)
def test_arguments_are_a_map(text: str, found: dict[str, str]) -> None:
    assert parse_args(text) == found


@pytest.mark.parametrize("text", ["A", "A=1;B", "MAC=a;MAC=b", "IP=1;IP=2", "A=\x00", "A" * 70000])
def test_arguments_that_contradict_themselves_are_refused(text: str) -> None:
    with pytest.raises(CniError, match="CNI_ARGS") as caught:
        parse_args(text)
    assert caught.value.code == ENVIRONMENT


names = st.sampled_from(["CNI_COMMAND", *GOOD, "CNI_ARGS", "OTHER"])
values = st.one_of(st.text(max_size=30), st.sampled_from([*GOOD.values(), "DEL", "GC"]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values))
def test_nothing_but_an_error_of_cni_is_raised(environment: dict[str, str]) -> None:
    try:
        call = parse_environment(environment)
    except CniError as problem:
        assert problem.code == ENVIRONMENT
        assert "CNI_" in problem.msg
    else:
        assert call.command == environment["CNI_COMMAND"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_arguments_are_read_or_refused(text: str) -> None:
    try:
        found = parse_args(text)
    except CniError as problem:
        assert problem.code == ENVIRONMENT
    else:
        assert all(f"{key}={value}" in text for key, value in found.items())
