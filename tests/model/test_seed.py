"""Which VMs have a seed, and whose the directories beside are."""

from __future__ import annotations

from hvtx.model.seed import has_seed, is_of_network
from hvtx.model.vm import Vm

WEB = Vm("", "web", "qemu", 256, 1, None, None, None, (), (), "/", False, ())


def test_who_asks_for_it_has_a_seed() -> None:
    assert not has_seed(WEB)
    assert has_seed(WEB._replace(user_data="/d/init"))
    assert has_seed(WEB._replace(ssh_keys=("ssh-rsa AAAA",)))


def test_a_networks_directory_is_known_by_its_place() -> None:
    assert is_of_network("/run/hvtx/aaaaaaaaaa/networks/0a")
    assert not is_of_network("/run/hvtx/aaaaaaaaaa/vms/0a")
    assert not is_of_network("/run/hvtx/aaaaaaaaaa/vms/networks/seed.iso/x")
    assert not is_of_network("networks")
