"""Whom a VM's process runs as: its own ``--user``, else the setting ``vm_user``."""

from __future__ import annotations

from hvtx.model.user import OPTION, SETTING, User
from hvtx.model.vm import LAUNCHED_BY_OTHERS, Vm


def check_user(wanted: str | None, hypervisor: str, installation: str, state: str) -> None:
    """Refuse a ``--user`` that no VM with that hypervisor can run as, whatever hvtx may do.

    ``state`` is the state directory. Raises UsageError, NotFound, NotPermitted.
    """
    if wanted is None:
        return
    from hvtx.host import vmuser

    if hypervisor == "external":
        vmuser.owner_id(wanted, installation, 0)
    else:
        _one_of(wanted, OPTION, installation, state)


def need_user(wanted: str, installation: str, state: str, key: str = SETTING) -> User | None:
    """Whom VM processes run as by ``wanted``, as the first of them; None: as hvtx.

    ``key`` is the setting or option that says so, ``state`` the state directory. Raises UsageError,
    NotFound, NotPermitted or HostRefused if none can be started so, which nothing has been made
    for yet.
    """
    from hvtx.host import vmuser

    user = _one_of(wanted, key, installation, state)
    if user is not None and (problem := vmuser.lack(user)) is not None:
        raise problem
    return user


def need_user_of(vm: Vm, setting: str, installation: str, state: str) -> User | None:
    """The same for one VM, where the setting is ``setting``."""
    if vm.user is None:
        return need_user(setting, installation, state)
    return need_user(vm.user, installation, state, OPTION)


def user_of(vm: Vm, setting: str, installation: str, *, kvm: bool) -> User | None:
    """The VM's user, in the group of KVM where it may use that; None: hvtx's own.

    Of a VM that hvtx does not start: whose its TAP devices are, None: as the settings say.
    """
    if vm.hypervisor in LAUNCHED_BY_OTHERS:
        if vm.user is None:
            return None
        from hvtx.host import vmuser

        owner = vmuser.owner_id(vm.user, installation, vm.number)
        return User(owner, owner, name=vm.user)
    from hvtx.host import vmuser

    key = SETTING if vm.user is None else OPTION
    user = vmuser.choose(vm.user or setting, installation, vm.number, key)
    if user is not None and (kvm or vm.hypervisor != "qemu"):
        return vmuser.with_kvm(user)
    return user


def _one_of(wanted: str, key: str, installation: str, state: str) -> User | None:
    from hvtx.host import vmuser

    user = vmuser.choose(wanted, installation, 0, key)
    if user is not None:
        vmuser.refuse_writer(user, wanted, state, key)
    return user
