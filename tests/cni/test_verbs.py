"""What each command asks of the library, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.cni import errors
from hvtx.cni.environment import parse_environment
from hvtx.cni.errors import CniError
from hvtx.cni.result import result
from hvtx.cni.verbs import answer
from hvtx.errors import Busy, Conflict, HostRefused, PartialFailure, StoreError, UsageError
from hvtx.model.attachment import AttachmentKey, Kept, Missing
from tests.cni import recorded
from tests.cni.recorded import NETNS, POD, Recorded
from tests.cni.standin import StandIn
from tests.cni.test_result import MADE

KEY = AttachmentKey("lan", POD, "eth0")


def ask(one: Recorded, host: StandIn, said: list[str] | None = None) -> dict[str, Any] | None:
    lines = [] if said is None else said
    return answer(parse_environment(one.environment), one.stdin, host.opened, lines.append)


def test_add_answers_with_what_was_made() -> None:
    host = StandIn()
    told = ask(recorded.CRI_ADD, host)
    dns = {"nameservers": ["192.0.2.53"], "search": ["cluster.local"], "options": ["ndots:5"]}
    assert told == result("1.0.0", NETNS, MADE, None, dns)
    assert [verb for verb, _ in host.asked] == ["add"]


def test_what_cannot_be_asks_for_nothing() -> None:
    """Also where only the answer would show it."""
    host = StandIn()
    for more in ({"prevResult": 3}, {"dns": 3}, {"isolat": True}, {"runtimeConfig": 3}):
        with pytest.raises(CniError):
            ask(Recorded(recorded.CTR_ADD.environment, {**recorded.CTR_ADD.stdin, **more}), host)
    assert host.asked == []


@pytest.mark.parametrize(
    "one", [recorded.CRI_DEL_FIRST, recorded.CRI_DEL_AGAIN, recorded.CRI_DEL_AFTER_REBOOT]
)
def test_del_needs_neither_namespace_nor_result(one: Recorded) -> None:
    host = StandIn()
    assert ask(one, host) is None
    assert host.asked == [("delete", KEY)]


def test_del_reads_no_more_than_it_needs() -> None:
    """Best effort: a configuration that ADD would refuse keeps nobody attached."""
    host = StandIn()
    stdin = {**recorded.CRI_ADD.stdin, "isolat": 1, "runtimeConfig": 3, "prevResult": []}
    environment = {**recorded.CRI_DEL_AGAIN.environment, "CNI_ARGS": "no arguments"}
    assert ask(Recorded(environment, stdin), host) is None
    assert host.asked == [("delete", KEY)]


def test_settings_of_the_configuration_open_the_store() -> None:
    host = StandIn()
    stdin = {**recorded.CRI_DEL_AGAIN.stdin, "stateDir": "/srv/hvtx", "runDir": "/run/other"}
    ask(Recorded(recorded.CRI_DEL_AGAIN.environment, stdin), host)
    assert host.settings == {"state_dir": "/srv/hvtx", "run_dir": "/run/other"}


def previous(**more: Any) -> Recorded:
    told = {**result("1.0.0", NETNS, MADE, None, {}), **more}
    stdin = recorded.conf("1.0.0", prevResult=told)
    return recorded.call("CHECK", stdin, POD, NETNS, "eth0")


def test_check_of_what_is_whole_answers_nothing() -> None:
    host = StandIn()
    assert ask(previous(), host) is None
    assert [verb for verb, _ in host.asked] == ["show", "check"]


def test_check_tells_what_is_missing_and_the_command() -> None:
    host = StandIn()
    host.missing = (
        Missing("the filter element of hvhost is missing", "hvtx repair"),
        Missing("the port 8080 is not forwarded", "hvtx repair"),
    )
    with pytest.raises(CniError) as caught:
        ask(previous(ips=[]), host)
    assert caught.value.code == errors.CHECK_FAILED
    assert caught.value.msg == (
        "the filter element of hvhost is missing; the port 8080 is not forwarded;"
        " prevResult does not have the address 10.77.0.2/24;"
        " prevResult does not have the address fd77::2/64"
    )
    assert caught.value.details == "hvtx repair; DEL, then ADD, attaches it anew"


def test_check_of_an_unknown_attachment() -> None:
    """Without ``prevResult``, too: a runtime whose cache has none is not told of that alone."""
    host = StandIn()
    host.attached = None
    for one in (previous(), recorded.call("CHECK", recorded.conf("1.0.0"), POD, NETNS, "eth0")):
        with pytest.raises(CniError, match=POD) as caught:
            ask(one, host)
        assert caught.value.code == errors.UNKNOWN_CONTAINER


def test_check_needs_the_earlier_result() -> None:
    with pytest.raises(CniError, match="prevResult") as caught:
        ask(recorded.call("CHECK", recorded.conf("1.0.0"), POD, NETNS, "eth0"), StandIn())
    assert caught.value.code == errors.CONFIGURATION


@pytest.mark.parametrize(
    ("one", "valid"),
    [(recorded.LIBCNI_GC, ((POD, "eth0"),)), (recorded.LIBCNI_GC_ALL, ())],
)
def test_gc_passes_the_list_on_and_tells_what_is_kept(one: Recorded, valid: Any) -> None:
    host, said = StandIn(), []
    host.kept = (Kept(KEY, "cni-abcdefghijklmnop", "vm-alive", "its namespace lives"),)
    assert ask(one, host, said) is None
    assert host.asked == [("collect", ("lan", valid))]
    assert said == [f"hvtx: GC of lan kept eth0 of container {POD} (vm-alive): its namespace lives"]


def test_gc_says_that_not_all_is_done_where_it_could_not_look() -> None:
    """Who asked sees an error; what stays because it may live is none."""
    host, said = StandIn(), []
    words = "the host could not be read"
    lost = Kept(KEY, "cni-abcdefghijklmnop", "observe-failed", words, failed=True)
    lives = Kept(KEY._replace(ifname="eth1"), "cni-b", "vm-alive", "its namespace lives")
    host.kept = (lives, lost, lost._replace(key=KEY._replace(ifname="eth2")))
    with pytest.raises(CniError) as caught:
        ask(recorded.LIBCNI_GC_ALL, host, said)
    assert caught.value.code == errors.TRY_AGAIN
    assert f"eth0 of container {POD} ({words}), and 1 more" in caught.value.msg
    assert "hvtx gc --apply" in caught.value.details
    assert len(said) == 3, "each is told"


def test_a_setting_that_is_refused_is_called_by_its_key() -> None:
    problem = UsageError("--lock-timeout cannot be 'soon'", hint="it is a number")
    with pytest.raises(CniError) as caught:
        ask(recorded.CTR_ADD, StandIn(problem))
    assert caught.value.code == errors.CONFIGURATION
    assert caught.value.msg == "lockTimeout cannot be 'soon'"


def test_status_asks_for_the_network_of_hvtx() -> None:
    host = StandIn()
    declared = {"network": "other", "mtu": 1400, "nat": False, "isolate": True, "vm": True}
    stdin = {**recorded.LIBCNI_STATUS.stdin, **declared}
    assert ask(Recorded(recorded.LIBCNI_STATUS.environment, stdin), host) is None
    asked = ("other", tuple(stdin.get("subnets", ())), 1400, False, True, True)
    assert host.asked == [("status", asked)]


@pytest.mark.parametrize(
    ("one", "problem", "code"),
    [
        (recorded.CTR_ADD, Conflict("it is attached", hint="DEL first"), 100),
        (recorded.CTR_ADD, HostRefused("no netfilter"), 102),
        (recorded.CTR_DEL, PartialFailure("a device is held"), 11),
        (recorded.CTR_DEL, Busy("busy"), 11),
        (recorded.LIBCNI_GC, StoreError("full"), 103),
        (recorded.LIBCNI_STATUS, StoreError("full"), 50),
        (recorded.LIBCNI_STATUS, Busy("busy"), 50),
        (recorded.LIBCNI_STATUS, HostRefused("flushed", code="network-damaged"), 51),
    ],
)
def test_errors_of_the_library(one: Recorded, problem: Any, code: int) -> None:
    with pytest.raises(CniError) as caught:
        ask(one, StandIn(problem))
    assert caught.value.code == code
    assert caught.value.msg == problem.message
    assert caught.value.details == errors.of_library(problem).details


def test_a_hint_names_the_store_of_the_configuration() -> None:
    """Of the library's errors, and of the plugin's own."""
    own = Recorded(
        recorded.CRI_ADD.environment, {**recorded.CRI_ADD.stdin, "stateDir": "/srv/pods"}
    )
    with pytest.raises(CniError) as met:
        ask(own, StandIn(Conflict("a", hint="by hand: hvtx vm rm a --force")))
    assert met.value.details == "by hand: hvtx --state-dir /srv/pods vm rm a --force"
    host = StandIn()
    host.missing = (Missing("a is gone", "hvtx repair a"),)
    check = {**own.stdin, "prevResult": result("1.0.0", NETNS, MADE, None, {})}
    with pytest.raises(CniError) as met:
        ask(Recorded({**own.environment, "CNI_COMMAND": "CHECK"}, check), host)
    assert "hvtx --state-dir /srv/pods repair a" in met.value.details
