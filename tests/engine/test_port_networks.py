"""By which of its networks a VM publishes a port."""

from __future__ import annotations

import pytest

from hvtx.commands.vm_set import _differences
from hvtx.engine.vm_options import parse_request
from hvtx.errors import UsageError
from hvtx.model.vm import Interface, Publish, Vm

PORT = Publish("tcp", None, 8080, 80)


def vm(*ports: tuple[Publish, ...]) -> Vm:
    """A VM in networks ``n0``, ``n1`` …, with these ports in each."""
    interfaces = tuple(
        Interface(n, f"id{n}", f"n{n}", f"02:00:00:00:00:0{n}", f"10.77.{n}.2", None, own)
        for n, own in enumerate(ports)
    )
    return Vm("v", "web", "qemu", 1, 1, None, None, None, (), (), "", False, interfaces)


def test_a_port_that_leads_by_another_network_is_another() -> None:
    """Though it is the same one of the host and of the guest."""
    found = _differences(vm((PORT,), ()), vm((), (PORT,)))
    assert found == {"publish": {"from": ["8080:80/tcp"], "to": ["n1/8080:80/tcp"]}}
    assert _differences(vm((PORT,), ()), vm((PORT,), ())) == {}


def test_the_network_that_a_vm_gets_unless_told_has_a_name() -> None:
    asked = parse_request("web", publish=["default/8080:80", "8081:81"])
    assert [port.host_port for port in asked.ports(0)] == [8080, 8081]
    with pytest.raises(UsageError, match="'lan', which the VM is not in"):
        parse_request("web", publish=["lan/8080:80"])
