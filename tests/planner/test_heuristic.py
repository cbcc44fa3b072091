"""The emergency mode's guesses: what is proposed, and everything that keeps a thing from it."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import parse_place
from hvtx.model.plan import Action, Ground, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import Address, Kind
from hvtx.model.vm import Liveness
from hvtx.planner.heuristic import HeuristicFacts, guess, named_like_a_tap, tap_restore
from tests.planner.scene import Scene, link, mark

DEAD, LEASED = "10.77.0.9", "10.77.0.2"


def rule(text: str, place: str = "iptables nat POSTROUTING", **more: Any) -> ForeignRule:
    return ForeignRule(
        "iptables", parse_place(place), text, more.get("mark"), f"put back: {text}", 1
    )


def guesses(scene: Scene, *rules: ForeignRule, **more: Any) -> tuple[Item, ...]:
    values: dict[str, Any] = {
        "leases": {},
        "gateways": frozenset({"10.77.0.1", "fd00::1"}),
        "neighbours": frozenset(),
        "owners": {},
        **more,
    }
    return guess(HeuristicFacts(snapshot=scene.snapshot(), rules=rules, **values))


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.network("net", "10.77.0.0/24", "fd00::/64")
    return made


def verdict(found: tuple[Item, ...]) -> tuple[Action, Any]:
    assert len(found) == 1, found
    return found[0].action, found[0].reason


# -- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tap-aaaa1111", "tapdeadbeef", "vmtap0", "vm-7-tap0", "fc-tap3", "chtap1", "hvold1"]
)
def test_names_of_vm_tools(name: str, scene: Scene) -> None:
    assert named_like_a_tap(name)
    scene.links.append(link(5, name))
    assert verdict(guesses(scene)) == (Action.DELETE, Ground.NAME)


@pytest.mark.parametrize(
    "name", ["tap0", "tap12", "vnet0", "tap1a2b3c4d-5e", "tun0", "wg0", "eth0", "tapdeadbee"]
)
def test_names_of_others(name: str, scene: Scene) -> None:
    scene.links.append(link(5, name))
    assert verdict(guesses(scene)) == (Action.SKIP, Reason.FOREIGN)


def test_only_taps_are_looked_at(scene: Scene) -> None:
    scene.links += [link(5, "tap-veth", "veth"), link(6, "tap-tun", tun_flags=0x1001)]
    assert guesses(scene) == ()


@pytest.mark.parametrize("alias", [mark(3), mark(3, installation="bbbbbbbbbb"), "hvtx:9:new"])
def test_marked_devices_are_never_named(alias: str, scene: Scene) -> None:
    scene.links.append(link(5, "tap-marked", alias=alias))
    assert guesses(scene) == ()


def test_a_device_on_record_is_judged_by_gc_alone(scene: Scene) -> None:
    row = scene.row(Kind.TAP, vm=scene.vm("web", Liveness.DEAD))
    scene.links.append(link(row.spec["ifindex"], row.key))
    found = guesses(scene)
    assert verdict(found) == (Action.SKIP, Reason.FOREIGN) or found[0].reason is Reason.RESERVED
    scene.links[-1] = link(row.spec["ifindex"], "tap-renamed")
    assert verdict(guesses(scene)) == (Action.SKIP, Reason.RESERVED)


def test_a_held_device(scene: Scene) -> None:
    scene.links.append(link(5, "tap-held"))
    scene.holders["tap-held"] = ("qemu (pid 42)",)
    assert verdict(guesses(scene)) == (Action.SKIP, Reason.IN_USE)


def test_a_device_that_does_not_persist_is_held(scene: Scene) -> None:
    scene.links.append(link(5, "tap-held", persistent=False))
    assert verdict(guesses(scene)) == (Action.SKIP, Reason.IN_USE)


@pytest.mark.parametrize(
    ("bridge", "kind", "spared"),
    [
        ("mybr0", "bridge", False),
        ("docker0", "bridge", True),
        ("br-0123456789ab", "bridge", True),
        ("virbr0", "bridge", True),
        ("lxdbr0", "bridge", True),
        ("bond0", "bond", True),
    ],
)
def test_the_bridge_that_it_is_a_port_of(
    bridge: str, kind: str, spared: bool, scene: Scene
) -> None:
    scene.links += [link(4, bridge, kind), link(5, "tap-port", master=4)]
    wanted = (Action.SKIP, Reason.FOREIGN) if spared else (Action.DELETE, Ground.NAME)
    assert verdict(guesses(scene)) == wanted


def test_what_others_put_on_it(scene: Scene) -> None:
    scene.links += [link(5, "tap-vlan"), link(6, "v.5", "vlan", lower=5)]
    scene.links.append(link(7, "tap-addr"))
    scene.addresses.append(Address(7, "192.0.2.1/24"))
    scene.links.append(link(8, "tap-tc"))
    scene.filtered.add(8)
    scene.links.append(link(9, "tap-xdp", xdp=True))
    found = guesses(scene)
    assert {item.reason for item in found} == {Reason.FOREIGN_DEPENDENTS}
    assert len(found) == 4


def test_the_way_back_of_a_device() -> None:
    bridge = link(4, "mybr0", "bridge")
    seen = link(5, "tap-a", alias="it's mine", master=4, tun_flags=0x5102, mac="02:00:00:00:00:01")
    assert tap_restore(seen, bridge, (1000, None)) == (
        "ip tuntap add dev tap-a mode tap user 1000 vnet_hdr multi_queue"
        " && ip link set dev tap-a address 02:00:00:00:00:01 mtu 1500"
        " alias 'it'\"'\"'s mine' master mybr0 up"
    )


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"-s {DEAD}/32 -j MASQUERADE",
        f"-p tcp -m tcp --dport 8080 -j DNAT --to-destination {DEAD}:80",
        f"-d {DEAD}/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        f'ip saddr {DEAD} oifname "eth0" counter packets 3 bytes 9 masquerade',
        "-s fd00::9/128 -j MASQUERADE",
        "tcp dport 80 dnat ip6 to [fd00::9]:80",
        f'-s {DEAD}/32 -m comment --comment "not ! {LEASED} {{x}}" -j ACCEPT',
        f'ip saddr {DEAD} accept comment "10.77.0.2-10.77.0.9"',
    ],
)  # fmt: skip
def test_a_rule_about_an_address_that_nobody_has(text: str, scene: Scene) -> None:
    found = guesses(scene, rule(text), leases={LEASED: "id-web"})
    assert verdict(found) == (Action.DELETE, Ground.SUBNET)
    assert found[0].restore == f"put back: {text}"


@pytest.mark.parametrize(
    "text",
    [
        "-s 192.168.5.9/32 -j MASQUERADE",
        "-p tcp -j ACCEPT",
        '-m comment --comment "10.77.0.9" -j ACCEPT',
        "-s 110.77.0.9/32 -j ACCEPT",
        "-i wg0 -j ACCEPT",
        "-s 0.0.0.0/0 -j ACCEPT",
        "ether saddr 02:00:0a:4d:00:09 accept",
    ],
)
def test_rules_about_other_things_are_not_even_named(text: str, scene: Scene) -> None:
    assert guesses(scene, rule(text)) == ()


def test_a_marked_rule_is_never_named(scene: Scene) -> None:
    assert guesses(scene, rule(f"-s {DEAD}/32 -j ACCEPT", mark=mark(4))) == ()


@pytest.mark.parametrize(
    ("liveness", "reason"),
    [
        (Liveness.ALIVE, Reason.VM_ALIVE),
        (Liveness.UNKNOWN, Reason.LIVENESS_UNKNOWN),
        (Liveness.DEAD, Reason.RESERVED),
    ],
)
def test_an_address_of_a_vm_on_record(liveness: Liveness, reason: Reason, scene: Scene) -> None:
    leases = {LEASED: scene.vm("web", liveness)}
    both = rule(f"-s {DEAD}/32 -d {LEASED}/32 -j ACCEPT")
    assert verdict(guesses(scene, both, leases=leases)) == (Action.SKIP, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-s 10.77.0.0/24 -j MASQUERADE", Reason.RESERVED),
        ("-s 10.77.0.8/29 -j MASQUERADE", Reason.RESERVED),
        ("-s 10.0.0.0/8 -j MASQUERADE", Reason.RESERVED),
        (f"-s {DEAD}/32 -d 10.77.0.0/24 -j ACCEPT", Reason.RESERVED),
        ("-d 10.77.0.1/32 -j ACCEPT", Reason.RESERVED),
        ("-d 10.77.0.255/32 -j DROP", Reason.RESERVED),
        ("-d 10.77.0.0/32 -j DROP", Reason.RESERVED),
        (f"! -s {DEAD}/32 -j DROP", Reason.FOREIGN),
        (f"ip saddr != {DEAD} drop", Reason.FOREIGN),
        (f"ip saddr {{ {DEAD}, 192.0.2.1 }} accept", Reason.FOREIGN),
        (f"-m iprange --src-range {DEAD}-10.77.0.20 -j ACCEPT", Reason.FOREIGN),
        (f"-s {DEAD}/32 -o tap+ -j ACCEPT", Reason.FOREIGN),
        (f"-s {DEAD}/32 -m set --match-set x dst -j ACCEPT", Reason.FOREIGN),
    ],
)
def test_rules_about_more_than_one_vm(text: str, reason: Reason, scene: Scene) -> None:
    assert verdict(guesses(scene, rule(text))) == (Action.SKIP, reason)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("iptables nat DOCKER", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter DOCKER-USER", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter LIBVIRT_FWI", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter ufw-user-forward", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter FWDO_public", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter HVTX-aaaaaaaaaa-FWD", f"-s {DEAD}/32 -j ACCEPT"),
        ("iptables filter FORWARD", f"-s {DEAD}/32 -j DOCKER"),
        ("iptables filter FORWARD", f"-s {DEAD}/32 -o docker0 -j ACCEPT"),
        ("iptables mangle FORWARD", f"-s {DEAD}/32 -j ACCEPT"),
        ("nft inet firewalld filter_FWD_public", f"ip saddr {DEAD} accept"),
        ("nft ip libvirt_network guest_nat", f"ip saddr {DEAD} masquerade"),
        ("nft inet hvtx-aaaaaaaaaa forward", f"ip saddr {DEAD} accept"),
    ],
)
def test_rules_that_another_program_keeps(place: str, text: str, scene: Scene) -> None:
    assert verdict(guesses(scene, rule(text, place))) == (Action.SKIP, Reason.FOREIGN)


def test_something_answers_at_the_address(scene: Scene) -> None:
    found = guesses(scene, rule(f"-s {DEAD}/32 -j ACCEPT"), neighbours=frozenset({DEAD}))
    assert verdict(found) == (Action.SKIP, Reason.IN_USE)


def test_the_hosts_own_address(scene: Scene) -> None:
    scene.addresses.append(Address(2, f"{DEAD}/24"))
    found = guesses(scene, rule(f"-s {DEAD}/32 -j ACCEPT"))
    assert verdict(found) == (Action.SKIP, Reason.RESERVED)


@pytest.mark.parametrize(
    "text",
    ["-i tap-gone -j ACCEPT", 'iifname "tap-gone" accept', "-m physdev --physdev-in tap-gone -j ACCEPT"],
)  # fmt: skip
def test_a_rule_about_a_device_that_is_gone(text: str, scene: Scene) -> None:
    assert verdict(guesses(scene, rule(text))) == (Action.DELETE, Ground.DEVICE)


def test_a_rule_about_a_device_of_another_sort_that_is_gone(scene: Scene) -> None:
    """wg0 may be down for a minute; its rules are nobody's garbage."""
    assert guesses(scene, rule("-i wg0 -j ACCEPT"), rule('oifname "ppp0" accept')) == ()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"alias": mark(9)}, Reason.RESERVED),
        ({"persistent": False}, Reason.IN_USE),
    ],
)
def test_a_rule_about_a_device_that_lives(
    more: dict[str, Any], reason: Reason, scene: Scene
) -> None:
    scene.links.append(link(5, "tap-here", **more))
    found = guesses(scene, rule(f"-s {DEAD}/32 -i tap-here -j ACCEPT"))
    assert verdict(found[-1:]) == (Action.SKIP, reason)


def test_a_rule_about_a_held_device(scene: Scene) -> None:
    scene.links.append(link(5, "tap-here"))
    scene.holders["tap-here"] = ("qemu (pid 42)",)
    found = guesses(scene, rule(f"-s {DEAD}/32 -i tap-here -j ACCEPT"))
    assert [item.reason for item in found] == [Reason.IN_USE, Reason.IN_USE]


def test_a_rule_about_a_gone_device_of_a_vm_on_record(scene: Scene) -> None:
    row = scene.row(Kind.TAP, vm=scene.vm("web", Liveness.ALIVE), device="hvtap10")
    found = guesses(scene, rule(f"-i {row.key} -j ACCEPT"))
    assert verdict(found) == (Action.SKIP, Reason.RESERVED)


def test_nothing_is_guessed_without_networks() -> None:
    assert guesses(Scene(), rule(f"-s {DEAD}/32 -j ACCEPT")) == ()
