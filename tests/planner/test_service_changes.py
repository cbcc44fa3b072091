"""What a change exchanges of a network's service: of which VM and network each row is."""

from __future__ import annotations

from hvtx.model.resource import Kind
from hvtx.model.vm import Attachment, Vm
from hvtx.planner import service_changes
from hvtx.planner.egress_rules import parse_policy
from tests.planner.scene import Scene

from .test_service import GUEST, PLAIN, SERVED

RUN = "/run/hvtx/i"
OTHER = SERVED._replace(id="n2", name="dmz")
VM = Vm(
    "v1", "web", "command", 1, 1, None, None, None, (), (), "/", False,
    (GUEST, GUEST._replace(position=2, network="n2", network_name="dmz")),
    policy=parse_policy("none", ["example.org:443"], []),
)  # fmt: skip


def test_a_service_is_wanted_with_what_it_is_told_of_guests_in_its_network() -> None:
    wanted = service_changes.want_service_and_told(SERVED, [(VM, False)], RUN)
    assert [(each.want.key, each.vm, each.network) for each in wanted] == [
        (f"{RUN}/networks/n1", None, "n1"),
        ("dnsmasq lan", None, "n1"),
        (f"{RUN}/networks/n1/hosts/v1-1", "v1", "n1"),
        (f"{RUN}/networks/n1/egress/v1-1", "v1", "n1"),
    ]
    assert service_changes.want_service_and_told(PLAIN, [(VM, False)], RUN) == []


def test_a_container_has_no_reservation_but_a_vm_behind_its_tap_has() -> None:
    container = VM._replace(attachment=Attachment("pods", "c0ffee", "eth0", "/run/netns/n0"))
    bare, behind = (
        [each.want.key for each in service_changes.want_service_and_told(SERVED, guests, RUN)]
        for guests in ([(container, False)], [(container, True)])
    )
    assert bare[2:] == [f"{RUN}/networks/n1/egress/v1-1"]
    assert behind[2:] == [f"{RUN}/networks/n1/hosts/v1-1", *bare[2:]]


def test_who_asks_for_addresses_is_told_by_the_rows_of_containers() -> None:
    """A VM does, and one behind a TAP in a container's namespace; no container does."""
    scene = Scene()
    vms = []
    for name, tap in (("bare", {}), ("behind", {"tap": {"name": "tap0"}})):
        attachment = Attachment("pods", name, "eth0", "/run/netns/n0")
        vms.append(VM._replace(id=scene.vm(name), name=name, attachment=attachment))
        scene.row(Kind.VETH, vm=vms[-1].id, **tap)
    found = service_changes.asking([VM, *vms], scene.rows)
    assert [vm.name for vm in found] == ["web", "behind"]
    assert service_changes.asking(vms, []) == [], "and one of which there is no port has no TAP"


def test_names_that_a_policy_allows_are_told_in_each_network_that_has_a_service() -> None:
    def told(vm: Vm, second: bool) -> list[tuple[str, str | None, str | None]]:
        networks = {"n1": SERVED, "n2": OTHER._replace(dhcp=second)}
        wanted = service_changes.want_policy_names(vm, networks, RUN)
        return [(each.want.key, each.vm, each.network) for each in wanted]

    first = (f"{RUN}/networks/n1/egress/v1-1", "v1", "n1")
    assert told(VM, second=True) == [first, (f"{RUN}/networks/n2/egress/v1-2", "v1", "n2")]
    assert told(VM, second=False) == [first]
    assert told(VM._replace(policy=parse_policy("none", ["192.0.2.1"], [])), second=True) == []
