"""A described set beside what is on record: the steps, their order, and what could never be."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.errors import Conflict, HvtxError, NotFound, UsageError
from hvtx.model.described import (
    Action,
    Allowed,
    Described,
    Known,
    KnownVm,
    Step,
    WantedNetwork,
    WantedVm,
)
from hvtx.model.policy import NO_POLICY, EgressRule, Limits, Policy
from hvtx.model.vm import Attachment, Interface, Network, Publish, Vm
from hvtx.planner.described import NETWORK_CHANGES, VM_AT_START, VM_CHANGES, plan
from hvtx.planner.described_order import acting

LAB = Network(
    "n1", "lab", "hvbrx", "02:00:00:00:00:01", 1500, True, False, "nftables",
    ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1",
)  # fmt: skip
SERVED = LAB._replace(dhcp=True)
VM = Vm("", "web", "command", 256, 1, None, None, None, (), ("sleep",), "/srv", False, ())
HTTP = Publish("tcp", None, 8080, 80)
NONE, ALL = Allowed(), Allowed(restart=True, replace=True)


def net(name: str = "lab", **more: Any) -> WantedNetwork:
    subnets = more.pop("subnets", LAB.subnets)
    return WantedNetwork(
        name, subnets, None, 1500, True, False, None, (), True, NO_POLICY, None, f"f: [{name}]"
    )._replace(**more)


def vm(name: str = "web", **more: Any) -> WantedVm:
    parts = {k: more.pop(k) for k in ("networks", "ips", "macs", "ports", "start") if k in more}
    ports = parts.pop("ports", ((),))
    return WantedVm(
        VM._replace(name=name, **more), ("lab",), (), (), ports, True, f"f: [{name}]"
    )._replace(**parts)


def known_vm(name: str = "web", *, up: bool = True, octet: int = 2, **more: Any) -> KnownVm:
    publish = more.pop("publish", ())
    own = Interface(
        0, "n1", "lab", f"02:00:00:00:01:0{octet}", f"10.77.0.{octet}", f"fd77::{octet}", publish
    )
    return KnownVm(VM._replace(id=name, name=name, interfaces=(own,), **more), up)


def known(*vms: KnownVm, networks: tuple[Network, ...] = (LAB,)) -> Known:
    return Known({n.name: n for n in networks}, {v.vm.name: v for v in vms})


def steps(
    networks: list[WantedNetwork], vms: list[WantedVm], there: Known, allowed: Allowed = NONE
) -> list[Step]:
    return plan(Described(networks, vms), there, allowed)


def short(some: list[Step]) -> list[tuple[str, str, str]]:
    return [(s.action.value, s.name, s.reason.value) for s in some if s.action != Action.SKIP]


def test_an_address_that_dhcp_would_never_give_is_refused_of_a_new_vm() -> None:
    wide = LAB._replace(subnets=("10.77.0.0/24", "fd77::/48"), dhcp=True)
    far = "fd77:0:0:5::9"
    with pytest.raises(UsageError, match="cannot be given by DHCPv6"):
        steps([], [vm(ips=(far,))], known(networks=(wide,)))
    steps([], [vm(ips=(far,))], known(networks=(wide._replace(dhcp=False),)))
    own = known_vm()
    there = own.vm.interfaces[0]._replace(ipv6=far)
    has_it = own._replace(vm=own.vm._replace(interfaces=(there,)))
    steps([], [vm(ips=(far,))], known(has_it, networks=(wide,)))


def container() -> KnownVm:
    pod = Attachment("podnet", "c0ffee", "eth0", "/run/netns/box")
    return known_vm("cni-a", octet=3, hypervisor="cni", attachment=pod)


def test_an_attachment_is_no_vm_of_a_set() -> None:
    """Its runtime alone makes and removes it: the plan does not say that a step would."""
    with pytest.raises(Conflict, match="only its runtime changes") as refused:
        steps([], [vm("cni-a")], known(container()), ALL)
    assert "[cni-a]" in refused.value.message


def test_who_is_up_in_a_network_is_ended_by_a_command_that_does_it() -> None:
    [found] = steps([net(isolate=True)], [], known(known_vm(), container()))
    assert found.action is Action.REFUSE
    assert found.hint is not None
    assert found.hint.endswith(": hvtx vm stop web; hvtx vm rm cni-a --force")


def test_as_described() -> None:
    there = known(known_vm())
    found = steps([net()], [vm()], there)
    assert [(s.action, s.name) for s in found] == [(Action.SKIP, "lab"), (Action.SKIP, "web")]
    assert acting(found) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory", 512), ("cpus", 2), ("kernel", "/k"), ("initrd", "/i"), ("append", "a"),
     ("disks", ("/d",)), ("command", ("cat",)), ("directory", "/"), ("autostart", True),
     ("queues", 2), ("user_data", "/u"), ("ssh_keys", ("k",)), ("user", "me"),
     ("limits", Limits(5000)), ("policy", Policy("none"))],
)  # fmt: skip
def test_each_field_of_a_vm_is_compared(field: str, value: Any) -> None:
    """What a VM hears of only at its start is changed while it is down, or where that is allowed."""
    wanted = vm(**{field: value})
    living = field in VM_CHANGES
    assert living is not (field in VM_AT_START)
    changed = [("change", "web", "differs")]
    refused = [("refuse", "web", "needs-restart")]
    assert short(steps([], [wanted], known(known_vm()))) == (changed if living else refused)
    again = [("stop", "web", "restart"), *changed, ("start", "web", "restart")]
    assert short(steps([], [wanted], known(known_vm()), ALL)) == (changed if living else again)
    down = known(known_vm(up=False))
    assert short(steps([], [wanted], down)) == [*changed, ("start", "web", "down")]
    back = known(KnownVm(known_vm().vm._replace(**{field: value}), up=False))
    assert short(steps([], [vm(start=False)], back)) == changed


def test_every_field_of_a_vm_has_its_place() -> None:
    """A new option is compared, or a set would never set it."""
    placed = {
        *VM_AT_START,
        *VM_CHANGES,
        "id",
        "name",
        "hypervisor",
        "interfaces",
        "number",
        "attachment",
    }
    assert placed == set(Vm._fields)


def test_every_field_of_a_network_has_its_place() -> None:
    fixed = {"subnets", "bridge", "mtu", "nat", "block_size"}
    assert {*NETWORK_CHANGES, *fixed, "name", "where"} == set(WantedNetwork._fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("isolate", True), ("uplink", "eth0"), ("sources", ("192.0.2.1",)), ("passage", False),
     ("dhcp", True), ("policy", Policy("none", (EgressRule("deny", "192.0.2.0/24"),)))],
)  # fmt: skip
def test_each_field_of_a_network_is_compared(field: str, value: Any) -> None:
    wanted = net(**{field: value})
    assert short(steps([wanted], [], known())) == [("change", "lab", "differs")]
    up = short(steps([wanted], [], known(known_vm())))
    assert up == [
        ("refuse", "lab", "in-use") if field == "isolate" else ("change", "lab", "differs")
    ]
    back = known(networks=(LAB._replace(**{field: value}),))
    expected = [] if field == "dhcp" else [("change", "lab", "differs")]  # None: any
    assert short(steps([net()], [], back)) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [("subnets", ("10.78.0.0/24",)), ("bridge", "mybr0"), ("mtu", 1400), ("nat", False)],
)
def test_a_network_that_cannot_be_changed(field: str, value: Any) -> None:
    wanted = net(**{field: value})
    assert short(steps([wanted], [], known())) == [("refuse", "lab", "needs-replace")]
    replaced = [("remove", "lab", "replace"), ("create", "lab", "replace")]
    assert short(steps([wanted], [], known(), ALL)) == replaced
    used = steps([wanted], [], known(known_vm(up=False)), ALL)
    assert short(used) == [("refuse", "lab", "in-use")]


def test_who_uses_a_network_is_removed_by_a_command_that_does_it() -> None:
    """What is up, or may be, is refused by `vm rm` alone; and a name is what `show` takes."""
    wanted = net(mtu=1400)
    for up, force in ((False, ""), (True, " --force")):
        used = known(known_vm("db", up=up), known_vm(up=False, octet=3))
        (refused,) = steps([wanted], [], used, ALL)
        assert (refused.hint or "").endswith(f": hvtx vm rm db web{force}")
    crashed = known_vm(up=False)._replace(left=True)
    (refused,) = steps([wanted], [], known(crashed), ALL)
    assert (refused.hint or "").endswith(": hvtx vm rm web --force")
    (refused,) = steps([wanted], [], known())
    assert (refused.hint or "").endswith("as it is: hvtx network show lab")


@pytest.mark.parametrize(
    "more",
    [{"hypervisor": "external"}, {"ips": ("10.77.0.9",)}, {"ips": ("fd77::9",)},
     {"ips": ("10.77.0.2", "10.77.0.9")}, {"macs": ("02:00:00:00:09:09",)},
     {"networks": ("lab", "two"), "ports": ((), ())}, {"networks": ("two",)}],
)  # fmt: skip
def test_a_vm_that_cannot_be_changed(more: dict[str, Any]) -> None:
    two = LAB._replace(id="n2", name="two", subnets=("10.78.0.0/24",), gateways=("10.78.0.1",))
    there = known(known_vm(), networks=(LAB, two))
    assert short(steps([], [vm(**more)], there)) == [("refuse", "web", "needs-replace")]
    restart = Allowed(restart=True)
    assert short(steps([], [vm(**more)], there, restart)) == [("refuse", "web", "needs-replace")]
    assert short(steps([], [vm(**more)], there, ALL)) == [
        ("stop", "web", "replace"), ("remove", "web", "replace"), ("create", "web", "replace"),
        ("start", "web", "replace"),
    ]  # fmt: skip


def test_what_it_has_may_be_asked_for() -> None:
    asked = vm(ips=("10.77.0.2", "fd77::2"), macs=("02:00:00:00:01:02",))
    assert short(steps([], [asked], known(known_vm()))) == []


def test_ports_are_a_set() -> None:
    other = Publish("udp", "192.0.2.1", 53, 53)
    there = known(known_vm(publish=(HTTP, other)))
    assert short(steps([], [vm(ports=((other, HTTP),))], there)) == []
    (step,) = acting(steps([], [vm(ports=((HTTP,),))], there))
    assert step.differences[0].option == "publish"
    assert step.differences[0].new == ["8080:80/tcp"]


def test_who_gives_up_a_port_goes_first() -> None:
    a = known_vm("a", octet=2, publish=(Publish("tcp", None, 1, 1),))
    b = known_vm("b", octet=3, publish=(Publish("tcp", None, 2, 1),))
    c = known_vm("c", octet=4, publish=(Publish("tcp", "192.0.2.1", 3, 1),))

    def to(name: str, port: int) -> WantedVm:
        return vm(name, ports=((Publish("tcp", None, port, 1),),))

    found = steps([], [to("a", 2), to("b", 3), to("c", 4)], known(a, b, c))
    assert [s.name for s in found] == ["c", "b", "a"]
    with pytest.raises(Conflict, match="a, b, c exchange"):
        steps([], [to("a", 2), to("b", 3), to("c", 1)], known(a, b, c))


def test_who_asks_for_an_address_is_made_first() -> None:
    found = steps([], [vm("a"), vm("b", ips=("10.77.0.2",))], known())
    assert [(s.action.value, s.name) for s in found] == [
        ("create", "b"), ("create", "a"), ("start", "a"), ("start", "b"),
    ]  # fmt: skip


def test_the_network_default() -> None:
    draft = LAB._replace(id="", name="default")
    there = Known({}, {}, draft)
    found = steps([], [vm(networks=("default",))], there)
    assert short(found)[0] == ("create", "default", "absent")
    own = net("default")
    assert [s.name for s in steps([own], [vm(networks=("default",))], Known({}, {}))] == [
        "default", "web", "web",
    ]  # fmt: skip


def in_few(name: str) -> KnownVm:
    own = Interface(0, "n2", "few", "02:00:00:00:02:02", "10.78.0.2", None, ())
    return KnownVm(known_vm(name).vm._replace(interfaces=(own,)), up=False)


def test_what_a_vm_that_is_removed_had_is_free() -> None:
    """And so is what it had in a network that is full."""
    there = known(known_vm(), in_few("b"), networks=(LAB, FEW))
    moved = [
        vm("b", networks=("few",), macs=("02:00:00:00:01:02",)),
        vm(networks=("lab",), macs=("02:00:00:00:02:02",), ips=("10.77.0.2", "fd77::2")),
    ]
    assert len([s for s in steps([], moved, there, ALL) if s.action is Action.REMOVE]) == 2


TWO = ("10.78.0.0/24",)
FEW = LAB._replace(
    id="n2", name="few", bridge="hvbry", mac="02:00:00:00:00:02", gateways=("10.78.0.1",),
    subnets=("10.78.0.0/30",),
)  # fmt: skip
REFUSED: dict[str, tuple[list[WantedNetwork], list[WantedVm], Known, type[HvtxError]]] = {
    "no network": ([], [vm(networks=("lob",))], known(), NotFound),
    "subnets overlap": ([net("one", subnets=TWO), net("two", subnets=("10.78.0.0/25",))], [], known(), UsageError),
    "overlaps one on record": ([net("one")], [], known(), Conflict),
    "one bridge": ([net("one", subnets=TWO, bridge="b"), net("two", subnets=("10.79.0.0/24",), bridge="b")], [], known(), UsageError),
    "a bridge on record": ([net("one", subnets=TWO, bridge="hvbrx")], [], known(), Conflict),
    "outside": ([], [vm(ips=("10.1.0.1",))], known(), UsageError),
    "the gateway's": ([net()], [vm(ips=("10.77.0.1",))], Known({}, {}), UsageError),
    "one address": ([], [vm("a", ips=("10.77.0.5",)), vm("b", ips=("10.77.0.5",))], known(), UsageError),
    "an address on record": ([], [vm("a", ips=("10.77.0.2",))], known(known_vm()), Conflict),
    "an address that a VM of the set has": ([], [vm(), vm("a", ips=("10.77.0.2",))], known(known_vm()), Conflict),
    "one MAC": ([], [vm("a", macs=("02:00:00:00:09:09",)), vm("b", macs=("02:00:00:00:09:09",))], known(), UsageError),
    "a MAC on record": ([], [vm("a", macs=("02:00:00:00:01:02",))], known(known_vm()), Conflict),
    "an address that a VM of the set keeps": ([], [vm(ips=("10.77.0.2",)), vm("a", ips=("fd77::2",))], known(known_vm()), Conflict),
    "a MAC that a VM of the set keeps": ([], [vm(networks=("lab",)), vm("a", macs=("02:00:00:00:01:02",))], known(known_vm()), Conflict),
    "a bridge's MAC": ([], [vm("a", macs=("02:00:00:00:00:01",))], known(), Conflict),
    "no room for one that would be removed": ([], [vm(networks=("lab", "few"), ports=((), ()))], known(known_vm(), in_few("a"), networks=(LAB, FEW)), Conflict),
    "no room for two": ([], [vm(networks=("lab", "few"), ports=((), ())), vm("b", networks=("few",))], known(known_vm(), networks=(LAB, FEW)), Conflict),
    "one port": ([], [vm("a", ports=((HTTP,),)), vm("b", ports=((HTTP._replace(host_ip="192.0.2.1"),),))], known(), UsageError),
    "nothing to run": ([], [vm(hypervisor="qemu", command=())], known(), NotFound),
    "nothing to run any more": ([], [vm(hypervisor="qemu", command=())], known(known_vm(hypervisor="qemu", kernel="/k")), NotFound),
    "nothing to run, and it is up": ([], [vm(hypervisor="qemu", command=(), start=False)], known(known_vm()), NotFound),
    "a port on record": ([], [vm("a", ports=((HTTP,),))], known(known_vm(publish=(HTTP,))), Conflict),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_could_never_be(case: str) -> None:
    """The place in the file is named."""
    networks, vms, there, error = REFUSED[case]
    with pytest.raises(error, match=r"^f: \[") as told:
        steps(networks, vms, there)
    assert told.value.hint


@pytest.mark.parametrize(
    "more",
    [
        {"start": False},
        {"kernel": "/boot/vmlinuz"},
        {"disks": ("/srv/web.img",)},
        {"hypervisor": "external"},
        {"hypervisor": "command", "command": ("sleep",)},
    ],
)
def test_what_is_not_started_or_runs_elsewhere_needs_nothing_to_run(more: dict[str, Any]) -> None:
    first, *_ = steps([], [vm(**{"hypervisor": "qemu", "command": (), **more})], known())
    assert (first.action, first.name) == ("create", "web")


NAMES = Policy("none", (EgressRule("allow", "example.org", 443, 443),))


@pytest.mark.parametrize(
    ("wanted", "there", "unserved", "refused"),
    [
        ([net()], (), (), False),
        ([net()], (), ("lab",), True),
        ([net(dhcp=True)], (), ("lab",), False),
        ([net(dhcp=False)], (), (), True),
        ([], (LAB,), (), True),
        ([net()], (LAB,), (), True),
        ([net(dhcp=True)], (LAB,), (), False),
        ([net()], (SERVED,), ("lab",), False),
        ([], (SERVED,), (), False),
        ([net(dhcp=False)], (SERVED,), (), True),
        ([net(mtu=1400)], (SERVED,), ("lab",), True),  # it is made anew
        ([net(mtu=1400)], (LAB,), (), False),
    ],
)
def test_names_need_a_network_that_looks_them_up(
    wanted: list[WantedNetwork],
    there: tuple[Network, ...],
    unserved: tuple[str, ...],
    refused: bool,
) -> None:
    """As a VM's policy has them, and as the network's own does; in the plan."""
    on_record = known(networks=there)._replace(unserved=frozenset(unserved))
    sets = [(wanted, [vm(policy=NAMES)], "[web]")]
    if wanted:
        sets.append(([each._replace(policy=NAMES) for each in wanted], [], "[lab]"))
    for networks, vms, where in sets:
        if not refused:
            assert short(steps(networks, vms, on_record, ALL))
            continue
        with pytest.raises(Conflict, match="needs the network's own DNS") as told:
            steps(networks, vms, on_record, ALL)
        assert where in told.value.message


def test_identities_are_of_what_is_described() -> None:
    """Where it stands is another matter; what it says is not."""
    one, other = ([vm(), vm("b", memory=m)] for m in (256, 257))
    ids = [[s.identity() for s in steps([], some, known())] for some in (one, other)]
    assert ids[0] != ids[1]
    moved = [each._replace(where="elsewhere") for each in one]
    assert [s.identity() for s in steps([], moved, known())] == ids[0]


def test_of_many_ports_those_are_told_that_come_and_go() -> None:
    """A list that is too long for a sentence would be cut before what is new."""
    many = tuple(Publish("udp", None, 5000 + n, 6000 + n) for n in range(9))
    there = known(known_vm(publish=(HTTP, *many)))
    other = Publish("tcp", None, 8081, 80)
    [step] = steps([], [vm(ports=((other, *many),))], there)
    assert step.message == "change VM web: publish … 8080:80/tcp → 8081:80/tcp"
    [step] = steps([], [vm(ports=(many,))], there)
    assert step.message == "change VM web: publish … 8080:80/tcp → none"


def test_secrets_are_not_in_sentences() -> None:
    wanted = vm(command=("run", "--token=abc"), append="pw=abc", ssh_keys=("abc",))
    (step,) = acting(steps([], [wanted], known(known_vm(up=False)))[:1])
    assert "abc" not in step.message
    assert "command" in step.message
