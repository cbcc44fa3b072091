"""What a program gives is of its kind, or refused before anything is done."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from hvtx import Host, HvtxError, NotFound, UsageError
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
        lambda host: host.store.backup("a\0b"),
        lambda host: host.store.restore(None),
        lambda host: host.gc.save(7, "plan.json"),
        lambda host: host.gc.apply(Path("a\0b")),
        lambda host: host.import_my_hypervisor(7),
        lambda host: host.import_my_hypervisor(b"state.json"),
        lambda host: host.import_my_hypervisor(["state.json", None]),
        lambda host: host.cni_plugin.print(subnets="10.0.0.0/24"),
        lambda host: host.systemd.install(root=None),
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


def _verbs(host: Host) -> dict[str, Any]:
    """Every verb of a Host and of its groups, by name."""
    found = {}
    groups = {
        name: getattr(host, name)
        for name in dir(Host)
        if isinstance(vars(Host).get(name), property)
    }
    for where, owner in (("host", host), *groups.items()):
        if where != "attachments":  # whose requests the plugin makes and checks
            for name, verb in inspect.getmembers(owner, callable):
                if not name.startswith("_"):
                    found[f"{where}.{name}"] = verb
    return found


_PATHS = {"file", "path", "root", "metrics", "dir", "conf", "reviewed", "state_dir", "run_dir"}
_WRONG = {"bool": ("no", 0, 1, None, b"x"), "str": (7, b"x", object(), Path("x"))}
_RIGHT = {"str": "web", "int": 1, "Sequence[str]": (), "Iterable[str]": (), "Sequence[Path]": ()}


def _kind(param: inspect.Parameter) -> str:
    return str(param.annotation).replace("'", "").removesuffix(" | None")


@pytest.mark.parametrize("name", sorted(_verbs(Host())))
def test_every_verb_refuses_another_kind_of_flag_text_and_path(name: str, tmp_path: Path) -> None:
    """Each argument of each, the others as they should be; Python's own errors come from none."""
    host = Host(state_dir=tmp_path / "state", run_dir=tmp_path / "run", config="/dev/null")
    verb = _verbs(host)[name]
    request = Host.sets.fget(host).described(vms={})  # type: ignore[attr-defined]
    params = inspect.signature(verb).parameters
    needed = {
        one.name: _RIGHT.get(_kind(one), request)
        for one in params.values()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }
    for place in {"dir", "conf", "root"} & set(params):
        needed[place] = tmp_path / "none" / "place"  # never this machine's own
    for one in params.values():
        kind = "str" if _kind(one) == "Path" else _kind(one)
        for wrong in _WRONG.get(kind, ()):
            if isinstance(wrong, Path) and one.name in _PATHS:
                continue
            with pytest.raises(UsageError):
                verb(**{**needed, one.name: wrong})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_a_text_or_a_path(tmp_path: Path) -> None:
    """For each verb that reads or writes one; what it says is the same."""
    host = Host(state_dir=tmp_path / "state", run_dir=tmp_path / "run", config="/dev/null")
    for call in (
        host.store.backup,
        host.store.restore,
        lambda file: host.systemd.install(root=file),
    ):
        told = []
        for file in (str(tmp_path / "none" / "x"), tmp_path / "none" / "x"):
            with pytest.raises(HvtxError) as caught:
                call(file)
            told.append((caught.value.exit_code, caught.value.message))
        assert told[0] == told[1]
        assert told[0][0] == 3


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
