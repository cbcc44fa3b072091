"""Whose policy holds for a guest, and what its rows say."""

from __future__ import annotations

from hvtx.model.firewall import addresses_in
from hvtx.model.policy import NO_POLICY, EgressRule, Policy
from hvtx.model.vm import Interface, Network, Vm
from hvtx.planner import egress

ALLOW = EgressRule("allow", "192.0.2.0/24", 443, 443, "tcp")
DENY = EgressRule("deny", "10.0.0.0/8")


def network(policy: Policy = NO_POLICY, firewall: str = "nftables") -> Network:
    return Network(
        "n", "lan", "hvbr0", "02:00:00:00:00:09", 1500, True, False, firewall,
        ("10.77.0.0/24",), ("10.77.0.1",), None, policy=policy,
    )  # fmt: skip


PORT = Interface(0, "n", "lan", "02:00:00:00:00:01", "10.77.0.2", None, ())


def vm(policy: Policy = NO_POLICY) -> Vm:
    return Vm("v", "web", "qemu", 1, 1, None, None, None, (), (), "", False, (PORT,), policy=policy)


def test_a_guest_without_any_policy_has_no_row() -> None:
    assert egress.vm_spec(vm(), PORT, network()) is None
    assert egress.network_spec(network()) is None
    assert egress.network_spec(network(Policy("open"))) is None


def test_a_guest_whose_network_is_limited_is_counted_only() -> None:
    spec = egress.vm_spec(vm(), PORT, network(Policy("internet")))
    assert spec is not None
    assert "egress" not in spec
    assert spec["mac"] == PORT.mac


def test_a_vm_has_the_last_word_about_the_mode_and_the_first_about_rules() -> None:
    shared = Policy("internet", (ALLOW, DENY))
    assert egress.effective(vm=Policy("none"), network=shared) == ("none", (), "vm")
    more = egress.effective(vm=Policy(None, (ALLOW,)), network=shared)
    assert more == ("internet", (ALLOW, DENY, ALLOW), "network")
    assert egress.effective(vm=NO_POLICY, network=NO_POLICY) == ("open", (), "default")


def test_denials_are_told_first() -> None:
    found = egress.effective(vm=Policy("open", (ALLOW, DENY)), network=NO_POLICY)
    assert found.rules == (DENY, ALLOW)


def test_the_other_backend_stands_alone() -> None:
    spec = egress.network_spec(network(Policy("none"), "iptables"))
    assert spec is not None
    assert spec["alone"]


def test_a_policy_is_about_every_address_of_its_guest() -> None:
    """Flows from a further address end, too, when what it may reach becomes less."""
    port = PORT._replace(more=("10.77.0.9", "fd77::9"))
    spec = egress.vm_spec(vm(Policy("none")), port, network())
    assert spec is not None
    assert addresses_in(spec) == ["10.77.0.2", "10.77.0.9", "fd77::9"]
    plain = egress.vm_spec(vm(Policy("none")), PORT, network())
    assert plain is not None
    assert "more" not in plain
