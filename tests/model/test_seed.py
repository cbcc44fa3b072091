"""Which VMs have a seed."""

from __future__ import annotations

from hvtx.model.seed import has_seed
from hvtx.model.vm import Vm

WEB = Vm("", "web", "qemu", 256, 1, None, None, None, (), (), "/", False, ())


def test_who_asks_for_it_has_a_seed() -> None:
    assert not has_seed(WEB)
    assert has_seed(WEB._replace(user_data="/d/init"))
    assert has_seed(WEB._replace(ssh_keys=("ssh-rsa AAAA",)))
