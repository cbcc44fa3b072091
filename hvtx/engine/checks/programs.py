"""Checks of what VMs need: hypervisors, the user of their processes, KVM."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_user import need_user
from hvtx.errors import HvtxError
from hvtx.host import program, tun
from hvtx.hypervisors import base as hypervisors
from hvtx.model.user import User
from hvtx.store import records


def check_hypervisors(runtime: Runtime) -> Iterator[Finding]:
    """QEMU, which VMs run in unless told otherwise; others where a VM on record needs them.

    That it is missing keeps VMs from working also where there is none yet; where all on record
    run in others, it is a warning.
    """
    recorded = _by_hypervisor(runtime)
    machine, needed = os.uname().machine, {"qemu": [], **recorded}
    missing = False
    for hypervisor, vms in needed.items():
        names = hypervisors.binary_names(hypervisor, machine)
        if not names or program.find(names) is not None:
            continue
        missing = True
        who = f"VMs of {hypervisor} cannot start"
        if vms:
            who = f"VMs that need it cannot start: {', '.join(vms)}"
        where, hint = "is not on PATH", hypervisors.TRAITS[hypervisor].hint
        if (over := program.passed_over(names)) is not None:
            where = "is in a place where others could replace it"
            hint = program.believed_hint(over)
        level = "error" if vms or not recorded else "warning"
        yield Finding("hypervisors", level, f"{names[0]} {where}; {who}", (), hint)
    if not missing:
        yield Finding("hypervisors", "ok", "the hypervisors that VMs need are installed")


def _vm_user(runtime: Runtime) -> User | None:
    settings = runtime.settings
    return need_user(settings.vm_user, runtime.installation, settings.state_directory)


def check_users(runtime: Runtime) -> Iterator[Finding]:
    """Whether VM processes run as another user than the store's, and what else shuts them in."""
    from hvtx.host import ioctl_filter, seccomp, vmuser

    wanted = runtime.settings.vm_user
    try:
        user = _vm_user(runtime)
    except HvtxError as problem:
        yield Finding("users", "error", f"no VM can start: {problem.message}", (), problem.hint)
        return
    if user is None:
        words = "VM processes run as root: a guest that breaks out controls this host"
        hint = f'leave vm_user = "{wanted}" out of the configuration'
        yield Finding("users", "warning", words, (f"vm_user is {wanted!r}",), hint)
        return
    binary = program.find(hypervisors.binary_names("qemu", os.uname().machine))
    lacks = []
    if not vmuser.may_make_namespaces():
        lacks.append("no network namespace of its own: that takes CAP_SYS_ADMIN, and unshare")
    if binary is not None and seccomp.sandbox_of(binary) is None:
        lacks.append(
            f"no filter of system calls: {binary} is not known to be built with libseccomp"
        )
    mode = tun.mode()
    if mode is not None and mode & 0o006 != 0o006:
        yield Finding(
            "users", "warning",
            f"only QEMU gets a network: other hypervisors cannot open {tun.DEVICE} as "
            "their VM's user",
            (f"mode {mode:04o}",), f"chmod 666 {tun.DEVICE}; QEMU is handed its devices open",
        )  # fmt: skip
    if lacks:
        words = "QEMU is sandboxed less than possible"
        yield Finding("users", "warning", words, tuple(lacks), "see docs/privileges.md")
    refused = ioctl_filter.problem()
    if refused is not None:
        yield Finding(
            "users", "warning",
            "no VM process can be kept from giving its device another VM's MAC address: who breaks"
            " out of a guest cuts another off until `hvtx repair`",
            (f"the filter of system calls: {refused}",),
            "use a kernel with CONFIG_SECCOMP_FILTER; in a container, let its seccomp policy allow"
            " seccomp(2) (docs/privileges.md)",
        )  # fmt: skip
    whom = "a user id of its own" if user.name is None else f"user {user.name}"
    yield Finding("users", "ok", f"each VM process runs as {whom}, without capabilities")


def _by_hypervisor(runtime: Runtime) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for vm in runtime.read(records.vms):
        found.setdefault(vm.hypervisor, []).append(vm.name)
    return found


def check_kvm(runtime: Runtime) -> Iterator[Finding]:
    """Whether guests have KVM, and if not, why."""
    from hvtx.engine.accelerators import judge

    try:
        user = _vm_user(runtime)
    except HvtxError:
        user = None  # another check tells
    yield Finding("kvm", *judge(runtime.store.run_directory, user))
