"""What a program gives is of its kind, or refused before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvtx import Host, NotFound, UsageError
from hvtx.api import given, options


def test_any_sequence_will_do_and_any_path() -> None:
    found = given.options(
        {
            "disks": [],
            "command": None,
            "ips": iter(["10.0.0.1"]),
            "memory": 3,
            "kernel": Path("/k"),
        },
        given.VM,
    )
    assert found == {"disks": (), "ips": ("10.0.0.1",), "memory": 3, "kernel": "/k"}
    assert given.options({"ssh_keys": (Path("/a"), "/b")}, given.VM) == {"ssh_keys": ("/a", "/b")}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"memory": "256"}, {"memory": 1.5}, {"memory": True}, {"cpus": 2.0}, {"mtu": "1500"}),
        *({"autostart": "no"}, {"nat": 0}, {"dhcp": "on"}),
        *({"publish": [8080]}, {"publish": "80:80"}, {"disks": Path("/d")}, {"command": b"sh"}),
        *({"networks": 5}, {"allow": True}),
        *({"kernel": 5}, {"kernel": "/k\0"}, {"command": ["a\0b"]}, {"egress": ["none"]}),
    ],
)  # fmt: skip
def test_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        given.options(wrong, given.VM | given.NETWORK)
    assert next(iter(wrong)) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("value", [-1, 86401, float("nan"), float("inf"), "5", None, True])
def test_a_time_that_is_none(value: Any) -> None:
    with pytest.raises(UsageError, match="timeout"):
        given.seconds("timeout", value)


def test_a_time() -> None:
    assert given.seconds("timeout", 0) == 0.0
    assert given.seconds("timeout", 86400) == 86400.0


@pytest.mark.parametrize(
    "call",
    [
        lambda host: host.vm.stop("web", timeout=-1),
        lambda host: host.vm.restart("web", timeout=float("nan")),
        lambda host: host.vm.stop_each(["web"], timeout="5"),
        lambda host: host.vm.stop_each(["web"], timeout=-1),
        lambda host: host.vm.start_each("web"),
        lambda host: host.vm.stop_each(b"web"),
        lambda host: host.vm.rm_each(["web", 5]),
        lambda host: host.vm.rm_each(None),
        lambda host: host.vm.attach("web", 0),
        lambda host: host.vm.attach("web", 1 << 40),
        lambda host: host.vm.create_from_log("web", operation=1 << 70),
        lambda host: host.log(limit=0),
        lambda host: host.log(limit=-1),
        lambda host: host.log(operation=1 << 70),
        lambda host: host.adopt("tap0", vm="web", pid=-3),
        lambda host: host.gc.apply(5),
        lambda host: host.gc.apply_heuristic(b"plan.json"),
        lambda host: host.network.create("lab", "10.0.0.0/24"),
        lambda host: host.vm.create("web", memory="256"),
        lambda host: host.vm.show("we\udc80"),
        lambda host: host.vm.show(None),
        lambda host: host.vm.create(7),
        lambda host: host.vm.run(b"web"),
        lambda host: host.vm.create_from_log(None),
        lambda host: host.vm.start(["web"]),
        lambda host: host.vm.stop(None),
        lambda host: host.vm.restart(7),
        lambda host: host.vm.set(None, memory=512),
        lambda host: host.vm.rm(7),
        lambda host: host.vm.attach(None, 1),
        lambda host: host.vm.logs(7),
        lambda host: host.vm.console(None),
        lambda host: host.network.create(None, ["10.0.0.0/24"]),
        lambda host: host.network.set(7, isolate=True),
        lambda host: host.network.show(7),
        lambda host: host.network.rm(None),
        lambda host: host.network.routes(7),
        lambda host: host.explain(8080),
        lambda host: host.repair(7),
        lambda host: host.adopt(7, vm="web"),
        lambda host: host.adopt("tap0", vm=None),
        lambda host: host.log(vm=7),
        lambda host: host.log(since=3600),
        lambda host: host.cluster.forget(7),
        lambda host: host.gc.plan_installation(None),
        lambda host: host.sets.plan(7),
        lambda host: host.sets.apply({"web": {}}),
        lambda host: host.sets.described(vms=["web"]),
        lambda host: host.sets.described(vms={"web": None}),
        lambda host: host.sets.described(vms={"web": {"start": "no"}}),
        lambda host: host.sets.described(vms={"web": {"nat": None}}),
        lambda host: host.sets.described(
            networks={"lab": {"subnets": ["10.0.0.0/24"], "memory": 1}}
        ),
    ],
)
def test_a_verb_refuses_it_and_makes_no_store(call: Any, tmp_path: Path) -> None:
    host = Host(state_dir=tmp_path / "state", run_dir=tmp_path / "run", config="/dev/null")
    with pytest.raises(UsageError) as caught:
        call(host)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_saved_plan_is_named_as_any_file_is(tmp_path: Path) -> None:
    for path in (tmp_path / "plan.json", str(tmp_path / "plan.json")):
        with pytest.raises(NotFound):
            Host(config="/dev/null").gc.apply(path)


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        (given.VM, options.VmOptions),
        (given.VM_CHANGES, options.VmChanges),
        (given.NETWORK, options.NetworkOptions),
        (given.NETWORK_CHANGES, options.NetworkChanges),
    ],
)
def test_what_is_taken_is_what_type_checkers_are_told(known: Any, kind: Any) -> None:
    assert known == set(kind.__annotations__)


@pytest.mark.parametrize("value", ["red", 1, None])
def test_an_option_that_there_is_not_is_named_whatever_its_value(value: Any) -> None:
    """None too, which would otherwise be the same as leaving it out: a misspelt one unseen."""
    with pytest.raises(TypeError, match="there is no option 'netwroks'; did you mean 'networks'"):
        given.options({"netwroks": value}, given.VM)
    with pytest.raises(UsageError, match="'web', and there is no option 'colour'"):
        Host().sets.described(vms={"web": {"colour": value}})
