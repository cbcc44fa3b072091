"""VMs of which nothing needs judging: what a plan says of them, on hosts that others changed.

With ``--all`` each row is judged by itself, so that must say the same.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from hvtx.commands import explain
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.snapshot import take_snapshot
from hvtx.host.netlink import Channel
from integration import lab
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms

VMS = ("api", "db", "web")
GETQDISC = 38


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """Three running VMs in a network, and a TAP of somebody else's."""
    preload()
    program = Forked(HVTX_FIREWALL="nftables")
    program("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64")
    lab.run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    for number, name in enumerate(VMS):
        port = f"{8080 + number}:80"
        program("vm", "run", name, "--network", "net", "-p", port, "--", "sleep", "600")
    yield program
    end_vms(program)


def settled() -> set[str]:
    """The VMs that a plan does not judge row by row, now."""
    runtime = Runtime(
        Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], "auto"), writable=False
    )
    try:
        snapshot = take_snapshot(runtime, settle=True)
        return {snapshot.vms[vm].name for vm in snapshot.settled.vms}
    finally:
        runtime.nftables().close()
        runtime.close()


def items(hvtx: Program, *more: str) -> list[dict[str, Any]]:
    found = hvtx("gc", "--plan", "--json", *more, code=None).json()["items"]
    return [item for item in found if item["reason"] != "foreign"]


def device(hvtx: Program, name: str = "web") -> str:
    return str(hvtx.vm(name)["interfaces"][0]["device"])


def table(hvtx: Program) -> str:
    mark = items(hvtx)[0]["mark"]
    return f"hvtx-{mark.split(':')[2]}"


def mark_of(hvtx: Program, kind: str, name: str = "web") -> str:
    return str(next(i["mark"] for i in items(hvtx) if (i["vm"], i["kind"]) == (name, kind)))


def nft(words: str) -> None:
    lab.run("nft", words)


def port_element(hvtx: Program, name: str = "web") -> str:
    """The element of a VM's device among the ports, as nft reads it."""
    return f'bridge {table(hvtx)} ports {{ "{device(hvtx, name)}"'


def other_mark(hvtx: Program) -> None:
    whole = port_element(hvtx)
    nft(f"delete element {whole} }}")
    nft(f'add element {whole} comment "{mark_of(hvtx, "tap", "db")}" }}')


def mark_on_a_rule(hvtx: Program) -> None:
    nft("add table inet mine; add chain inet mine c")
    nft(f'add rule inet mine c counter comment "{mark_of(hvtx, "filter")}"')


def mark_on_a_device(hvtx: Program) -> None:
    lab.run("ip", "link", "set", "tap-foo", "alias", mark_of(hvtx, "lease"))


def ended(hvtx: Program) -> None:
    lab.end(hvtx.vm("web")["pid"])


DAMAGES: dict[str, tuple[Callable[[Program], Any], set[str]]] = {
    "nothing": (lambda _: None, set(VMS)),
    "a device is renamed": (
        lambda hvtx: lab.run("ip", "link", "set", device(hvtx), "name", "other"), {"api", "db"},
    ),
    "a device lacks its mark": (
        lambda hvtx: lab.run("ip", "link", "set", device(hvtx), "alias", ""), {"api", "db"},
    ),
    "two devices have a mark": (
        lambda hvtx: lab.run("ip", "link", "set", "tap-foo", "alias", mark_of(hvtx, "tap")),
        {"api", "db"},
    ),
    "a device has the mark of a lease": (mark_on_a_device, {"api", "db"}),
    "a device is gone": (lambda hvtx: lab.run("ip", "link", "del", device(hvtx)), {"api", "db"}),
    "an element is gone": (
        lambda hvtx: nft(f"delete element {port_element(hvtx)} }}"), {"api", "db"},
    ),
    "an element has the mark of another VM": (other_mark, {"api"}),
    "a set is empty": (lambda hvtx: nft(f"flush set bridge {table(hvtx)} macs"), set()),
    "a rule of others has a mark": (mark_on_a_rule, {"api", "db"}),
    "a process has ended": (ended, {"api", "db"}),
    "others' device is a port": (
        lambda _: lab.run("ip", "link", "set", "tap-foo", "master", bridge()), set(VMS),
    ),
    "tc on a device": (
        lambda hvtx: lab.run("tc", "qdisc", "add", "dev", device(hvtx), "root", "pfifo"), set(VMS),
    ),
    "no table is left": (
        lambda hvtx: nft(f"delete table bridge {table(hvtx)}; delete table inet {table(hvtx)}"),
        set(),
    ),
}  # fmt: skip


def bridge() -> str:
    shown = json.loads(lab.run("ip", "-j", "link", "show", "type", "bridge"))
    return str(shown[0]["ifname"])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plan_says_what_it_says_row_by_row(hvtx: Program, damage: str) -> None:
    act, left = DAMAGES[damage]
    act(hvtx)
    assert settled() == left
    one, other = items(hvtx), items(hvtx, "--all")
    assert one == other
    assert {item["vm"] for item in one} >= {*VMS}


def test_queues_are_asked_of_what_is_judged_alone(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the bridge here; the list of all queues grows with the VMs that are settled."""
    dumped: list[int] = []
    dump = Channel.dump

    def noted(channel: Channel, kind: int, body: bytes) -> list[bytes]:
        dumped.append(kind)
        return dump(channel, kind, body)

    monkeypatch.setattr(Channel, "dump", noted)
    assert settled() == set(VMS)
    assert dumped
    assert GETQDISC not in dumped


@pytest.mark.parametrize("damage", DAMAGES)
def test_explain_says_of_one_thing_what_it_says_row_by_row(hvtx: Program, damage: str) -> None:
    """Of each thing on record, and of what others put there."""
    DAMAGES[damage][0](hvtx)
    texts = {"tap-foo", "net", bridge(), "8081", "8082/tcp", "10.77.0.3", "10.77.0.9", "fd00:77::3"}
    listed = [item for item in items(hvtx, "--all") if item["vm"] != "db"]
    texts |= {word for item in listed for word in (item["key"], item["mark"]) if word}
    for name in ("api", "web"):
        one = hvtx.vm(name)
        texts |= {name, one["id"], one["interfaces"][0]["mac"]}
        link = lab.run("ip", "-j", "link", "show", "dev", device(hvtx, name), check=False)
        texts |= {str(each["address"]) for each in json.loads(link or "[]")}
    runtime = Runtime(
        Settings(os.environ["HVTX_STATE_DIR"], os.environ["HVTX_RUN_DIR"], "auto"), writable=False
    )
    try:
        sight = explain.look(runtime)
        for text in sorted(texts):
            told = explain.explain(runtime, text)
            if told != explain.answer(runtime, sight, text):
                sight = explain.look(runtime)  # a process that was killed is reaped only now
                told = explain.explain(runtime, text)
                assert told == explain.answer(runtime, sight, text), text
    finally:
        runtime.nftables().close()
        runtime.close()


def test_two_rows_that_claim_one_element_are_both_judged(hvtx: Program) -> None:
    """A row is for what another VM has, by a hand in the store: that stands in its place."""
    path = os.path.join(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as sql, sql:
        specs = dict(
            sql.execute(
                "SELECT vm.name, spec.spec FROM resource spec JOIN vm ON vm.id = spec.vm"
                " WHERE spec.kind = 'publish' AND spec.state = 'committed'"
            )
        )
        sql.execute("UPDATE resource SET spec = ? WHERE spec = ?", (specs["web"], specs["db"]))
    assert settled() == {"api"}
    one, other = items(hvtx), items(hvtx, "--all")
    assert one == other
    assert "mark-mismatch" in {item["reason"] for item in one if item["vm"] == "db"}


@pytest.mark.parametrize("point", ["intended", "releasing"])
def test_a_vm_that_an_operation_works_on_is_judged(hvtx: Program, point: str) -> None:
    """Stopped half-way, while its rows are committed still and while they are on their way."""
    hvtx("vm", "stop", "web", code=-9, HVTX_FAILPOINT=f"{point}:kill")
    assert settled() == {"api", "db"}
    assert items(hvtx) == items(hvtx, "--all")


def test_the_json_is_that_of_one_object(hvtx: Program) -> None:
    """Written piece by piece, to the letter as the encoder of Python would."""
    text = hvtx("gc", "--plan", "--json").out
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    lab.run("ip", "link", "set", device(hvtx), "alias", "")
    text = hvtx("gc", "--plan", "--json").out
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
