"""Which addresses a network's DHCP gives."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.model.vm import Attachment, Interface, Network, Vm
from hvtx.planner.dhcp_range import is_given, never_given, of_network, refuse_never_given

FAR = "fd77:0:0:5::9"


def network(*subnets: str, dhcp: bool = True) -> Network:
    return Network(
        "n", "lan", "br0", "02:00:00:00:00:01", 1500, True, False, "nftables", subnets, (), None, dhcp
    )  # fmt: skip


def vm(ipv6: str | None, *more: str, on: str = "n") -> Vm:
    own = Interface(0, on, "lan", "02:00:00:00:00:02", "10.77.0.2", ipv6, (), more)
    return Vm("v", "web", "qemu", 1, 1, None, None, None, (), (), "", False, (own,))


@pytest.mark.parametrize(
    ("subnet", "part"),
    [("fd77::/48", "fd77::/64"), ("fd77:0:0:8::/62", "fd77:0:0:8::/64"), ("fd77::/64", None),
     ("fd77::/112", None), ("10.0.0.0/8", None)],
)  # fmt: skip
def test_of_a_wide_subnet_the_first_64_is_given(subnet: str, part: str | None) -> None:
    assert of_network(network("10.77.0.0/24", subnet)) == part
    assert of_network(network("10.77.0.0/24", subnet, dhcp=False)) is None


def test_an_address_beyond_it_is_refused_where_a_guest_would_ask_for_it() -> None:
    wide = network("10.77.0.0/24", "fd77::/48")
    for address in ("fd77::2", "fd77::ffff:ffff:ffff:ffff", None):
        assert is_given(address, wide)
        refuse_never_given(address, wide)
    assert not is_given(FAR, wide)
    with pytest.raises(UsageError) as refused:
        refuse_never_given(FAR, wide)
    assert refused.value.message == (
        f"{FAR} cannot be given by DHCPv6: network 'lan' gives what is in fd77::/64"
    )
    assert "choose an address in fd77::/64" in (refused.value.hint or "")
    refuse_never_given(FAR, network("fd77::/48", dhcp=False))


def test_which_vms_would_ask_in_vain() -> None:
    wide = network("fd77::/48")
    assert never_given(vm(FAR), wide) == [FAR]
    assert never_given(vm("fd77::2", FAR), wide) == [], "a further address is no matter of DHCP"
    assert never_given(vm(None), wide) == []
    assert never_given(vm(FAR, on="other"), wide) == []
    container = vm(FAR)._replace(attachment=Attachment("pods", "c0ffee", "eth0", "/run/netns/n0"))
    assert never_given(container, wide) == []
