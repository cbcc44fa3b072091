"""Checks before a start: the hypervisor, the files of a VM, KVM."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from hvtx.errors import NotFound, UsageError
from hvtx.host import named_files, paths
from hvtx.hypervisors.base import TRAITS, Probes, binary_names, disk_format, unfit
from hvtx.model.shell import word
from hvtx.model.user import User
from hvtx.model.vm import Vm, need_something_to_run

FIRMWARE = (
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",
    "/usr/share/AAVMF/AAVMF_CODE.fd",
)


def probe(vm: Vm, run_directory: str, user: User | None = None) -> Probes:
    """Look for everything that starting ``vm`` needs, as ``user`` (None: as hvtx's own).

    Of users who differ in their number only, any one will do. Raises NotFound for a missing
    hypervisor, kernel, initrd, disk or working directory (nothing has been made yet), UsageError
    for a disk whose format would be dangerous to guess.
    """
    machine = this_machine()
    if vm.hypervisor == "external":
        return Probes(None, False, machine)
    need_something_to_run(vm)
    binary = _binary(vm, machine)
    files = (("kernel", vm.kernel), ("initrd", vm.initrd), ("user-data", vm.user_data), *_disks(vm))
    looks = {path: _need_file(what, path, vm.name) for what, path in files if path is not None}
    formats, firmware = _fitting(vm, machine)
    kvm, why = False, None
    if vm.hypervisor == "qemu":
        from hvtx.host.kvm import choose

        answer = choose(binary, machine, run_directory, vm.kernel, user)
        kvm, why = answer.accelerator == "kvm", answer.reason
    found = Probes(binary, kvm, machine, formats, firmware, why, shut=_shut(vm, user))
    return _probe_qemu(vm, found, looks) if vm.hypervisor == "qemu" else found


def need_program(vm: Vm) -> None:
    """Raise NotFound where what would run ``vm`` is not on this host, UsageError as :func:`probe`.

    What keeps it from starting, as far as it is seen without a look at its user and at KVM.
    """
    if vm.hypervisor != "external":
        machine = this_machine()
        _binary(vm, machine)
        _fitting(vm, machine)


def _fitting(vm: Vm, machine: str) -> tuple[dict[str, str], str | None]:
    """The formats of disks that were looked into, and the firmware for guests that boot from them.

    Raises UsageError where the hypervisor can do nothing with what the VM has.
    """
    formats = looked_into(vm.disks)
    firmware = next((path for path in FIRMWARE if os.path.exists(path)), None)
    why = unfit(vm.hypervisor, vm.kernel, vm.disks, formats)
    if vm.hypervisor == "qemu" and machine == "aarch64" and not vm.kernel and firmware is None:
        words = "a guest without --kernel needs UEFI firmware on aarch64"
        why = words, "install it (apt install qemu-efi-aarch64), or give --kernel"
    if why is not None:
        raise UsageError(
            f"VM {vm.name} cannot be started: {why[0]}",
            hint=f"{why[1]}; what is on record is changed with `hvtx vm set {vm.name}`",
        )
    return formats, firmware


def looked_into(disks: Iterable[str]) -> dict[str, str]:
    """The formats of those whose name does not say it. Raises UsageError as :func:`look_into`."""
    return {path: looked for path in disks if (looked := look_into(path)) is not None}


def _shut(vm: Vm, user: User | None) -> frozenset[str]:
    """What the VM's user cannot read by its name; what root must not open by its name.

    (A disk that QEMU gets is never opened by it.)
    """
    from hvtx.host.vmuser import may_open

    files = {path for path in (vm.kernel, vm.initrd) if path is not None}
    if user is None:  # a qcow2 image finds what it names beside its own name
        files |= {path for path in vm.disks if not path.endswith(".qcow2")}
    return frozenset(path for path in files if not may_open(user, path, 4))


def _probe_qemu(vm: Vm, found: Probes, looks: Mapping[str, named_files.Look]) -> Probes:
    """What QEMU must be told of disks that it opens by descriptors; and of itself."""
    from hvtx.host import images, vhost
    from hvtx.host.seccomp import sandbox_of

    named = {}
    for path in vm.disks:
        if disk_format(path, found.formats) == "qcow2" and (options := images.relative(path)):
            named[path] = options
    return found._replace(
        # without KVM its interrupts would take the long way
        vhost=vhost.DEVICE if found.kvm and vhost.works() else None,
        sandbox=sandbox_of(found.binary or ""),
        read_only=frozenset(d for d in vm.disks if not looks[d].writable),
        blocks=frozenset(d for d in vm.disks if stat.S_ISBLK(looks[d].seen.st_mode)),
        named=named,
    )


def _need_file(what: str, path: str, name: str) -> named_files.Look:
    """Refuse what is not there, and what is no file: a pipe, say, would be waited for.

    A disk may be a block device. Raises NotFound, UsageError, NotPermitted for a link of somebody
    else's that is not followed.
    """
    fix = f"name another: hvtx vm set {name} --{what} FILE"
    try:
        look = named_files.look(path, disk=what == "disk")
    except paths.NotRegularError as problem:
        raise UsageError(
            f"the {what} {path} of VM {name} cannot be used: {problem.strerror}", hint=fix
        ) from problem
    except paths.UnsafeError as unsafe:
        raise named_files.refused(what, f"{path} of VM {name}", unsafe) from unsafe
    except OSError as problem:
        raise NotFound(
            f"the {what} {path} of VM {name} does not exist", hint=f"put it there, or {fix}"
        ) from problem
    why = paths.no_image(look.seen, disk=what == "disk")
    if why is not None:
        raise UsageError(f"the {what} {path} of VM {name} cannot be used: {why}", hint=fix)
    return look


def this_machine() -> str:
    """The host's processor as QEMU names it: ``x86_64``, ``aarch64``."""
    name = os.uname().machine
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)


def look_into(path: str) -> str | None:
    """The format of a disk whose name does not say it: ``qcow2``, ``raw``; None if it does.

    A guest can write any header to its own raw disk, so a header is believed only while it leads
    nowhere else: one that names a backing file or an external data file (docs/interop/qcow2 of
    QEMU: offset 8, and bit 2 at offset 72) would open files of the host to the guest, and raises
    UsageError.
    """
    if path.endswith((".qcow2", ".raw")):
        return None
    try:
        header = named_files.head(path, 80)
    except OSError:
        return None  # the hypervisor will say what it makes of it
    if not header.startswith(b"QFI\xfb"):
        return "raw"
    version = int.from_bytes(header[4:8], "big")
    external = version > 2 and header[79:80] and header[79] & 4
    if any(header[8:16]) or external:
        raise UsageError(
            f"the disk {path} is a qcow2 image that refers to another file, but its name says raw",
            hint="if you made it so, rename it to end in .qcow2; if a guest wrote it, do not",
        )
    return "qcow2"


def _binary(vm: Vm, machine: str) -> str:
    from hvtx.host import program

    names = binary_names(vm.hypervisor, machine)
    if vm.hypervisor == "command":
        if vm.directory and not os.path.isdir(vm.directory):
            raise NotFound(
                f"the working directory {vm.directory} of VM {vm.name} does not exist",
                hint="make it again, or make the VM again from another directory",
            )
        first = vm.command[0] if vm.command else ""
        names = (os.path.join(vm.directory, first) if "/" in first else first,)
        if "{" in first:  # a placeholder: known only once it is rendered
            return first
    found = program.find(names)
    if found is None:
        over = program.passed_over(names)
        if over is not None:
            by_path = ", or name it by its path" if vm.hypervisor == "command" else ""
            raise NotFound(
                f"the hypervisor of VM {vm.name}, {names[0]}, is in a place where others could "
                "replace it",
                hint=f"{program.believed_hint(over)}{by_path}",
            )
        raise _no_program(vm, names[0])
    return found


def _no_program(vm: Vm, name: str) -> NotFound:
    """What is there in the place of a VM's program, if anything is, and what to do."""
    words, hint = "is not on this host", TRAITS[vm.hypervisor].hint
    if vm.hypervisor == "command" and " " in name:
        hint = f"after -- stands each word by itself: -- {name}"
    elif "/" in name and os.path.isdir(name):
        words = "is a directory"
    elif "/" in name and os.path.exists(name):
        words = "cannot be executed"
        hint = f"chmod +x {word(name)}, if it is a program; else give one after --"
    return NotFound(f"the hypervisor of VM {vm.name}, {name}, {words}", hint=hint)


def _disks(vm: Vm) -> tuple[tuple[str, str], ...]:
    return tuple(("disk", path) for path in vm.disks)
