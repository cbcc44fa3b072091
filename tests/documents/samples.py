"""Values of every kind that is shown as JSON, with all that an object may have or lack in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvtx.commands import cni_install
from hvtx.commands.cluster_forget import Forgotten
from hvtx.commands.cluster_register import Registered
from hvtx.commands.cluster_status import ClusterStatus, ShownRoute
from hvtx.commands.metrics import Gauge
from hvtx.commands.recover import Recovery
from hvtx.commands.show import Surroundings
from hvtx.commands.store_backup import Copied, Restored
from hvtx.commands.systemd import Entry, Outcome
from hvtx.commands.vm_apply import Done
from hvtx.engine.finding import Finding
from hvtx.engine.imported import Adopted, Import, imported_thing, imported_vm, unread_file
from hvtx.engine.refusals import Refused
from hvtx.engine.repaired import Failed, Repair, Repaired
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.state_files import Unread
from hvtx.engine.units import Unit
from hvtx.errors import Conflict
from hvtx.model.block import Block, BlockState, Held, Member, Pool
from hvtx.model.described import Action as Change
from hvtx.model.described import Difference, Step
from hvtx.model.described import Reason as Because
from hvtx.model.plan import Action, Ground, Item, Plan, Result
from hvtx.model.policy import NO_POLICY, EgressRule, Policy
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Epoch, Interface, Liveness, Publish, Vm
from hvtx.planner.adoption import TOOL, Claim, Verdict, Why
from hvtx.planner.adoption import Finding as Found
from hvtx.planner.subjects import Subject
from hvtx.store import history, intents, leases, records
from tests.store.shelf import NOW, Shelf, add_network, enter, network, vm

SET = [
    Done(
        Step(
            Change.CHANGE, Because.DIFFERS, "vm", "web", "change VM web: memory 256 → 512",
            (Difference("memory", 256, 512), Difference("publish", [], ["8080:80/tcp"])),
        ),
        "failed",
        Conflict("VM 'web' is busy", hint="wait"),
    ),
    Done(Step(Change.START, Because.DOWN, "vm", "web", "start VM web"), "skipped"),
    Done(
        Step(
            Change.REFUSE, Because.NEEDS_REPLACE, "network", "lab", "network lab would have to be …",
            (Difference("mtu", 1500, 1400),), "--replace lets it be",
        )
    ),
    Done(Step(Change.SKIP, Because.AS_DESCRIBED, "vm", "db", "VM db is as described")),
]  # fmt: skip
_POOL = Pool("lab", "10.64.0.0/10", 26)
_HELD = Held("lab", "10.64.1.0/26", "bbbbbbbbbb", "000000000001.aa", "two", "192.0.2.2")
CLUSTER = ClusterStatus(
    source="etcd",
    installation="aaaaaaaaaa",
    endpoints={"https://192.0.2.11:2379": None, "https://192.0.2.12:2379": "timed out"},
    problem=None,
    doubted=False,
    blocks=(
        Block(1, "aa", _POOL, "10.64.0.0/26", BlockState.COMMITTED, NOW, used=3),
        Block(2, "bb", _POOL, None, BlockState.INTENDED, NOW),
    ),
    unrecorded=(_HELD._replace(installation="aaaaaaaaaa", cidr="10.64.7.0/26", host="one"),),
    holders=(_HELD,),
    hosts=(Member("bbbbbbbbbb", forgotten=False, host="two", address="192.0.2.2"),),
)
FORGOTTEN = Forgotten("bbbbbbbbbb", "two", (_HELD,))
REGISTERED = Registered(
    "aaaaaaaaaa", moved=True, another=False, blocks=CLUSTER.blocks[:1],
    lost=(Block(3, "cc", _POOL, "10.64.9.0/26", BlockState.COMMITTED, NOW),),
)  # fmt: skip
ROUTES = [
    ShownRoute("lab", "10.64.0.0/26", "aaaaaaaaaa", "one", None, local=True),
    ShownRoute("lab", "10.64.1.0/26", "bbbbbbbbbb", "two", "192.0.2.2", local=False),
]
STARTED = {
    "boot_id": "boot-a", "pid": 4242, "start": 99, "inode": 0, "pidns": 0, "user": 71001,
    "accelerator": "tcg", "accelerator_reason": "/dev/kvm is missing", "vhost": False,
}  # fmt: skip
RULES = (
    EgressRule("allow", "192.0.2.0/24", 443, 443, "tcp"),
    EgressRule("deny", "2001:db8::1/128", 8000, 8010),
)
NETWORKS = {
    "net-lan": Surroundings(
        [("10.77.0.0/24", "10.77.0.1"), ("fd77::/64", "fd77::1")], Policy("internet", RULES), 1500
    ),
    "net-six": Surroundings([("fd78::/56", "fd78::1")], NO_POLICY, 9000),
}
COUNTS = {"06:00:00:00:00:01": Refused(3, 180)}
WEB = Vm(
    "id-web", "web", "qemu", 512, 2, "/boot/vmlinuz", None, "console=ttyS0 ip={ip}",
    ("/srv/a.raw", "/srv/b c.qcow2"), (), "", True,
    (
        Interface(
            0, "net-lan", "lan", "06:00:00:00:00:01", "10.77.0.2", "fd77::2",
            (
                Publish("tcp", None, 8080, 80),
                Publish("udp", "127.0.0.1", 53, 67),
                Publish("tcp", "::1", 8443, 443),
            ),
        ),
        Interface(1, "net-six", "six", "06:00:00:00:00:02", None, "fd78::2", ()),
        Interface(
            2, "net-gone", "gone", "06:00:00:00:00:03", None, None,
            (Publish("tcp", "192.0.2.1", 1, 2),),
        ),
    ),
)  # fmt: skip


def row(
    number: int,
    kind: Kind,
    key: str,
    state: State = State.COMMITTED,
    mark: str = "",
    **observed: object,
) -> Resource:
    return Resource(number, kind, key, state, mark, {}, observed, 1, 1, "id-web", None)


WEB_ROWS = (
    row(1, Kind.LEASE, "10.77.0.2"),
    row(2, Kind.TAP, "hvt-web-0", State.COMMITTED, "hvtx:1:aaaaaaaaaa:2:bbbb"),
    row(3, Kind.TAP, "hvt-web-1", State.RELEASING, "hvtx:1:aaaaaaaaaa:3:cccc"),
    row(4, Kind.PROCESS, "web", **STARTED),
)
FINDINGS = (
    Finding("tun", "ok", "/dev/net/tun opens"),
    Finding(
        "forward", "error", "FORWARD drops", ("chain FORWARD: policy drop", "ufw"), "ufw route"
    ),
)
GAUGES = (
    Gauge("hvtx_networks", "Networks on record.", (), {(): 3}),
    Gauge("hvtx_gc_items", "Items.", ("action", "reason"), {("skip", "vm-alive"): 2.0}),
    Gauge("hvtx_empty", "Nothing.", ("x",), {}),
)
RECOVERY = Recovery(
    (
        Item(Action.DELETE, Reason.VM_DEAD, Kind.TAP, "hvt-web-0", "web", 2, State.COMMITTED,
             ("pid 4242 is gone",), "its VM is dead", "hvtx:1:aaaaaaaaaa:2:bbbb", outcome=Result.DONE),
        Item(Action.SKIP, Reason.FOREIGN, "device", "eth0", None, 0, None, (), "not ours"),
    ),
    ("lan", "six"),
    ("web",),
    (("VM db", "no disk"),),
)  # fmt: skip
UNITS = Outcome(
    (Entry("hvtx-recover.service", "/etc/systemd/system/hvtx-recover.service", "written"),
     Entry("10-hvtx.conf", "/etc/NetworkManager/conf.d/10-hvtx.conf", "kept")),
    running=True,
    note="a note",
)  # fmt: skip
PLUGIN = cni_install.Outcome(
    (cni_install.Entry("/opt/cni/bin/hvtx", "written"),
     cni_install.Entry("/etc/cni/net.d/10-hvtx.conflist", "unchanged")),
    note="a note",
)  # fmt: skip
MADE_PLUGIN = (
    cni_install.File("/opt/cni/bin/hvtx", "#!/usr/bin/python3 -IS\n", 0o755),
    cni_install.File("/etc/cni/net.d/10-hvtx.conflist", '{"name": "lan"}\n', 0o644),
)
MADE_UNITS = (
    (Unit("hvtx-gc.timer", "[Timer]\nOnCalendar=hourly\n"),),
    (Unit("x.conf", "a\n", "/etc/x"),),
)

CLAIM = Claim(
    "/srv/vms/old/state.json", "0123", "old", "running", 77, "tap-old", "mybr0", "10.88.0.5", (),
    owns=True, spelling={"pid": "vm.pid", "device": "network_ownership.tap"},
)  # fmt: skip
TAP = Found("tap", "tap-old", True, "", "as described", ("held by process 77",))
RULE = Found("rule", "-A POSTROUTING", False, Why.NOT_UNIQUE.value, "it is there 2 times")
TAKEN = Verdict(CLAIM, "id-old", "old", Liveness.ALIVE, "it holds tap-old", "", "", (TAP, RULE))
LEFT = Verdict(
    CLAIM._replace(path="/srv/vms/bare/state.json", name="bare", status=None, spelling={}),
    "id-bare", "bare", Liveness.UNKNOWN, "", Why.NO_OWNERSHIP.value, "an older file", (),
)  # fmt: skip
GONE = Verdict(
    CLAIM._replace(path="/srv/vms/gone/state.json"), "id-gone", "gone", Liveness.DEAD,
    "process 77 has ended", "", "", (TAP._replace(proven=False, reason=Why.GONE.value),),
)  # fmt: skip
UNREAD = Unread("/srv/vms/bad/state.json", Why.UNREADABLE, "no JSON")
IMPORT = Import(
    TOOL,
    applied=True,
    vms=(
        imported_vm(TAKEN, {0: ("imported", "")}),
        imported_vm(LEFT, {}),
        imported_vm(GONE, {}),
        unread_file(UNREAD),
    ),
)
ADOPTED = Adopted(
    "tap-old", applied=False, vm="old", liveness="alive", process="it holds tap-old",
    item=imported_thing(TAP, ("already", "on record and marked")),
)  # fmt: skip
COPIED = Copied("/b", "aaaaaaaaaa", 41, 3, 1)
RESTORED = Restored(COPIED, None, "hvtx recover", "it reconciles host and record")
REPAIR = Repair(
    (Repaired(Kind.BRIDGE, "br-lan", "it is down"),),
    (
        Failed("publish", "tcp 8080", "it could not be inspected: x"),
        Failed(Kind.TAP, "hvt-web-0", "still", "it is gone"),
    ),
)
GUESSES = Plan(
    (
        Item(Action.DELETE, Ground.NAME, "tap", "tap-old", None, 0, None, ("nobody holds it",),
             "a guess", restore="ip tuntap"),
        Item(Action.SKIP, Reason.FOREIGN, "rule", "-A FORWARD", None, 0, None, (), "not ours"),
    )
)  # fmt: skip

SUBJECTS = (
    Subject(
        "tap", "hvt-web-0", "", RECOVERY.items[0], "hvtx", Reason.VM_DEAD, "web", "lan", None,
        ("tun with index 7", "pid 4242 is gone"),
    ),
    Subject("interface", "eth0", "not ours: no mark"),
    Subject("tap", "hvt-x", "", RECOVERY.items[1], "unknown", Reason.UNRECORDED),
)  # fmt: skip


@contextmanager
def desk(base: Path, patch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """A store with two networks, two VMs, an interrupted start and some lines of history."""
    patch.setattr(history, "now", lambda: NOW)
    shelf = Shelf(base)
    with shelf.opened() as store:
        lan, six = network("lan", "10.77.0.0/24", "fd77::/64"), network("six", "fd78::/64")
        add_network(store, lan, six)
        ports = (Publish("tcp", None, 8080, 80),)
        operation = enter(store)
        with store.transaction() as sql:
            records.add_vm(sql, vm("web"), operation)
            records.add_vm(sql, vm("db"), operation)
            web = [(lan, "06:00:00:00:00:01", None, None, ports),
                   (six, "06:00:00:00:00:02", None, None, ())]  # fmt: skip
            leases.claim(sql, "id-web", web)
            leases.claim(sql, "id-db", [(lan, "06:00:00:00:00:03", None, None, ())])
            drafts = [intents.NewRow(Kind.TAP, "hvt-web-0", {}, "id-web", None),
                      intents.NewRow(Kind.BRIDGE, "br-lan", {}, None, "net-lan")]  # fmt: skip
            intents.intend(
                sql, drafts, operation=operation, life=1,
                mark=lambda row: f"hvtx:1:aaaaaaaaaa:{row}:cccc",
            )  # fmt: skip
            detail = {"mark": "hvtx:1:aaaaaaaaaa:2:bbbb", "spec": {"device": "hvt-web-0"}}
            events = [
                history.Event("made", "tap hvt-web-0", "tap", "hvt-web-0"),
                history.Event("removed", "tap hvt-web-0", "tap", "hvt-web-0", "vm-dead", "web", detail),
                history.Event("kept", "hvtx:1:aaaaaaaaaa:2:bbbb is in use", None, None, "in-use"),
            ]  # fmt: skip
            history.add(sql, events, operation=operation, verb="start", vm="web")
    runtime = Runtime(Settings(str(shelf.state), str(shelf.run)), writable=False)
    runtime.life = Epoch(2, "boot-b", 9, recovered=True)
    try:
        yield runtime
    finally:
        runtime.close()
