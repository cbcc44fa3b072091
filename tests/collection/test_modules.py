"""The collection's modules in check mode: they say what they would change, and change nothing.

Ansible is not there: what the modules use of it stands in its place, as does the library's `Host`.
"""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

import hvtx
from hvtx.api import given

PLUGINS = Path(__file__).resolve().parents[2] / "scripts/ansible/hvtx/host/plugins"
COMMON = "ansible_collections.hvtx.host.plugins.module_utils"


class Ended(Exception):
    """A module ended; ``told`` is what it returned."""

    def __init__(self, told: dict[str, Any], *, failed: bool) -> None:
        super().__init__(told.get("msg", ""))
        self.told, self.failed = told, failed


class Task:
    """What the modules use of AnsibleModule; ``given`` are a task's words."""

    given: dict[str, Any]
    check = True
    options: frozenset[str] = frozenset()  # those of the module that ran last

    def __init__(self, argument_spec: dict[str, Any], **_: Any) -> None:
        self.params = {name: spec.get("default") for name, spec in argument_spec.items()}
        self.params |= self.given
        Task.options = frozenset(argument_spec)
        self.check_mode = self.check
        self.warnings: list[str] = []

    def warn(self, words: str) -> None:
        self.warnings.append(words)

    def exit_json(self, **told: Any) -> None:
        raise Ended({**told, "warnings": self.warnings}, failed=False)

    def fail_json(self, **told: Any) -> None:
        raise Ended({**told, "warnings": self.warnings}, failed=True)


class Verbs:
    """One group of the library's verbs: those that read are given, any other is noted."""

    def __init__(self, called: list[str], name: str, **reading: Any) -> None:
        self._called, self._name = called, name
        self.__dict__.update(reading)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def change(*_: Any, **__: Any) -> Any:
            self._called.append(f"{self._name}.{verb}")
            return SimpleNamespace(items=(), refusals=(), refused=None, plan=PLAN)

        return change


def vm(name: str, state: str, hypervisor: str = "qemu", pid: int | None = None) -> Any:
    """A VM as the library shows it."""
    about = SimpleNamespace(name=name, hypervisor=hypervisor)
    return SimpleNamespace(vm=about, state=state, pid=pid, interfaces=())


def network(name: str, *vms: str) -> Any:
    """A network as the library shows it."""
    plain = dict.fromkeys(("bridge", "firewall"), "x") | dict.fromkeys(
        ("nat", "isolate", "dhcp"), True
    )
    return SimpleNamespace(
        name=name, mtu=1500, subnets=("10.0.0.0/24",), gateways=(), vms=vms, **plain
    )


class Item:
    """An item of gc's plan."""

    vm, outcome, message, kind, key = "web", None, "a sentence", "tap", "hv1"

    def __init__(self, action: str, reason: str) -> None:
        self.action, self.reason = action, reason

    def _replace(self, action: str) -> Item:
        return Item(action, self.reason)


DEAD, LOST, ALIVE = Item("delete", "vm-dead"), Item("skip", "unrecorded"), Item("skip", "vm-alive")
PLAN = SimpleNamespace(
    judged=lambda: [LOST, DEAD, ALIVE],
    acting=lambda: [DEAD],
    counts=lambda: {("skip", "unrecorded"): 1, ("delete", "vm-dead"): 1, ("skip", "vm-alive"): 1},
)
BLOCK = SimpleNamespace(
    action="give-back", reason="network-gone", cidr="10.1.0.0/26", network="lab", outcome=None
)
STEP = SimpleNamespace(
    action="create", kind="vm", name="new", message="create VM new (qemu, in lab)", differences=()
)
VMS = {
    "web": vm("web", "running", pid=7),
    "own": vm("own", "running", "external", pid=8),
    "idle": vm("idle", "defined"),
    "box": vm("box", "running", "cni", pid=9),
}


class Host:
    """What the modules use of the library; ``called`` are verbs that change something."""

    called: list[str]

    def __init__(self, **_: Any) -> None:
        called = self.called
        lan = network("lab", "web", "own")
        self.vm = Verbs(called, "vm", names=lambda: list(VMS), show=VMS.__getitem__, ls=VMS.values)
        self.network = Verbs(called, "network", names=lambda: ["lab"], ls=lambda: [lan])
        self.sets = Verbs(called, "sets", described=self._described, plan=self._plan)
        self.gc = Verbs(
            called, "gc", plan=lambda: SimpleNamespace(refused=None, plan=PLAN, blocks=(BLOCK,))
        )

    def _described(self, **sets: Any) -> dict[str, Any]:
        self.asked = sets
        return sets

    def _plan(self, request: dict[str, Any], **_: Any) -> Any:
        made = [
            SimpleNamespace(
                action="create",
                kind="network",
                name=name,
                message=f"create network {name}",
                differences=(),
            )
            for name in request.get("networks", ())
        ]
        return SimpleNamespace(steps=(*made, *([STEP] if "vms" in request else [])), refusals=())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ended]]:
    """Runs a module with a task's words: how it ended."""
    basic = types.ModuleType("ansible.module_utils.basic")
    basic.AnsibleModule = Task  # type: ignore[attr-defined]
    for name in ("ansible", "ansible.module_utils", *parents(COMMON)):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, basic.__name__, basic)
    common = types.ModuleType(f"{COMMON}.host")
    exec((PLUGINS / "module_utils/host.py").read_text(), common.__dict__)
    monkeypatch.setattr(sys.modules[COMMON], "host", common, raising=False)
    monkeypatch.setattr(hvtx, "Host", Host, raising=False)
    monkeypatch.setattr(Host, "called", [], raising=False)
    monkeypatch.chdir("/")

    def act(module: str, *, check: bool = True, **given: Any) -> Ended:
        monkeypatch.setattr(Task, "given", given, raising=False)
        monkeypatch.setattr(Task, "check", check)
        with pytest.raises(Ended) as ended:
            runpy.run_path(str(PLUGINS / f"modules/{module}.py"), run_name="__main__")
        return ended.value

    yield act


def parents(name: str) -> list[str]:
    """A module's name and those above it."""
    words = name.split(".")
    return [".".join(words[: count + 1]) for count in range(len(words))]


CHANGES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("vm", {"name": "web", "state": "stopped"}, ["stop VM web"]),
    ("vm", {"name": "web", "state": "restarted"}, ["stop VM web", "start VM web"]),
    ("vm", {"name": "web", "state": "absent"}, ["stop VM web", "remove VM web"]),
    ("vm", {"name": "idle"}, ["start VM idle"]),
    ("vm", {"name": "new", "networks": ["lab"]}, ["create VM new (qemu, in lab)"]),
    ("vm", {"name": "new", "networks": ["lan", "lab"]}, ["create VM new (qemu, in lab)"]),
    ("network", {"name": "lan", "subnets": ["10.1.0.0/24"]}, ["create network lan"]),
    ("network", {"name": "lab", "state": "absent"}, ["remove network lab"]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "given", "actions"), CHANGES, ids=str)
def test_what_would_be_changed_is_said(
    run: Callable[..., Ended], module: str, given: dict[str, Any], actions: list[str]
) -> None:
    """With a diff, and without any verb that changes; the same task outside of check mode has one."""
    ended = run(module, **given)
    assert not ended.failed
    assert (ended.told["changed"], ended.told["actions"]) == (True, actions)
    assert ended.told["diff"].keys() == {"before", "after"}
    assert Host.called == []
    run(module, check=False, **given)
    assert Host.called != []


@pytest.mark.parametrize(
    ("module", "options"), [("network", given.NETWORK | {"subnets"}), ("vm", given.VM)]
)
def test_what_the_library_can_be_told_a_task_can_say(
    run: Callable[..., Ended], module: str, options: frozenset[str]
) -> None:
    """A description is whole: what has no option here could not be had by a play."""
    run(module, name="none", state="absent")
    assert options <= Task.options


def test_networks_and_vms_of_earlier_tasks_are_taken_for_done(run: Callable[..., Ended]) -> None:
    """With a warning each."""
    (warned,) = run("vm", name="new", networks=["lan"]).told["warnings"]
    assert "no network lan, which an earlier task may make" in warned
    (warned,) = run("network", name="lab", state="absent").told["warnings"]
    assert "used by web, own, which an earlier task may remove" in warned


@pytest.mark.parametrize("state", ["stopped", "restarted", "absent"])
@pytest.mark.parametrize(
    ("name", "words"), [("own", "did not start it"), ("box", "of a container")]
)
def test_what_would_be_refused_is_refused(
    run: Callable[..., Ended], name: str, words: str, state: str
) -> None:
    """A process that hvtx did not start; by ``force`` it is ended."""
    ended = run("vm", name=name, state=state)
    assert ended.failed
    assert (ended.told["code"], ended.told["exit_code"]) == ("conflict", 4)
    assert words in ended.told["msg"]
    assert run("vm", name=name, state=state, force=True).failed is (name == "box")
    assert Host.called == []


@pytest.mark.parametrize("unrecorded", [False, True])
def test_gc_shows_what_would_go(run: Callable[..., Ended], unrecorded: bool) -> None:
    """In the plan's order, what is off the record where that is asked for, and blocks of a cluster."""
    told = run("gc", apply=True, unrecorded=unrecorded).told
    lost = ["delete tap hv1 (unrecorded)"] if unrecorded else []
    dead, block = "delete tap hv1 (vm-dead)", "give-back block 10.1.0.0/26 (network-gone)"
    assert told["diff"] == {"before": "\n".join([*lost, dead, block, ""]), "after": ""}
    assert told["changed"]
    assert told["left"] == {"vm-alive": 1} | ({} if unrecorded else {"unrecorded": 1})
    assert not run("gc", check=False).told["changed"]
    assert Host.called == []
    run("gc", check=False, apply=True)
    assert Host.called == ["gc.apply"]


WITHOUT: list[tuple[str, dict[str, Any], bool]] = [
    ("vm", {"name": "web", "networks": ["lab"]}, True),
    ("vm", {"name": "web", "state": "absent"}, False),
    ("network", {"name": "lab", "subnets": ["10.1.0.0/24"]}, True),
    ("network", {"name": "lab", "state": "absent"}, False),
    ("gc", {"apply": True}, False),
]


@pytest.mark.parametrize(("module", "given", "changed"), WITHOUT, ids=str)
def test_a_host_without_hvtx(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch,
    module: str, given: dict[str, Any], changed: bool,
) -> None:  # fmt: skip
    """In check mode an earlier task may be to install it; else it is an error."""
    monkeypatch.setitem(sys.modules, "hvtx", None)
    monkeypatch.setattr("os.path.isdir", lambda _: False)
    ended = run(module, **given)
    assert (ended.failed, ended.told["changed"]) == (False, changed)
    (warned,) = ended.told["warnings"]
    assert "which an earlier task may install" in warned
    ended = run(module, check=False, **given)
    assert ended.failed
    assert ended.told["code"] == "interpreter"
