"""What a program gives is of its kind, or refused before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvtx import Host, NotFound, UsageError
from hvtx.api import given


def test_any_sequence_will_do_and_any_path() -> None:
    found = given.options(
        {"disks": [], "command": None, "ips": iter(["10.0.0.1"]), "memory": 3, "kernel": Path("/k")}
    )
    assert found == {"disks": (), "ips": ("10.0.0.1",), "memory": 3, "kernel": "/k"}
    assert given.options({"ssh_keys": (Path("/a"), "/b")}) == {"ssh_keys": ("/a", "/b")}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"memory": "256"}, {"memory": 1.5}, {"memory": True}, {"cpus": 2.0}, {"mtu": "1500"}),
        *({"autostart": "no"}, {"nat": 0}, {"dhcp": "on"}),
        *({"publish": [8080]}, {"publish": "80:80"}, {"disks": Path("/d")}, {"command": b"sh"}),
        *({"kernel": 5}, {"kernel": "/k\0"}, {"command": ["a\0b"]}, {"egress": ["none"]}),
    ],
)  # fmt: skip
def test_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        given.options(wrong)
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
