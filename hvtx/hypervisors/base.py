"""Common parts of hypervisors: input, rendered output, placeholders.

Everything in this room is pure: the host is looked at by others, and what they saw comes in as
arguments (:class:`Probes`), so that a command line can be tested by comparing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.model import shell
from hvtx.model.typed import TYPE_CHECKING, Literal, NamedTuple
from hvtx.model.vm import Vm

if TYPE_CHECKING:
    from hvtx.model.passed_fds import PassedDescriptors


Ready = Literal["exec", "qmp", "firecracker api", "cloud-hypervisor api", "none"]
PowerDown = Literal["qmp", "ctrl-alt-del api", "power-button api", "none"]

QMP_SOCKET = "qmp.sock"  # for people and their tools: QEMU speaks with one client at a time
MONITOR_SOCKET = "monitor.sock"  # the same protocol, for hvtx alone
API_SOCKET = "api.sock"
CONSOLE_SOCKET = "console.sock"

REGISTRY: Mapping[str, str] = {
    "qemu": "hvtx.hypervisors.qemu",
    "firecracker": "hvtx.hypervisors.firecracker",
    "cloud-hypervisor": "hvtx.hypervisors.cloud_hypervisor",
    "command": "hvtx.hypervisors.command",
    "external": "hvtx.hypervisors.external",
    "cni": "hvtx.hypervisors.external",  # a container, of whose processes nothing is known
}
"""Each module has ``render(vm, ports, probes, directory) -> Launch``; load only the one needed."""

SOCKETS: Mapping[str, tuple[str, ...]] = {
    "qmp": (MONITOR_SOCKET, QMP_SOCKET),
    "firecracker api": (API_SOCKET,),
    "cloud-hypervisor api": (API_SOCKET,),
}
"""Where a hypervisor is asked about its guest, by ``ready``; the first that is there is taken.

(VMs that an earlier hvtx started have no monitor of ours.)"""


class Nic(NamedTuple):
    """One network interface of a VM as its hypervisor sees it; addresses are leases."""

    device: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    prefix4: int | None
    gateway4: str | None
    gateway6: str | None
    netmask: str | None  # "255.255.255.0"
    mtu: int = 1500  # of its network


class Probes(NamedTuple):
    """What was found in the host before rendering."""

    binary: str | None  # path of the hypervisor; None where nothing is to be looked up
    kvm: bool  # QEMU is to use KVM
    machine: str  # "x86_64" or "aarch64"
    formats: Mapping[str, str] = {}  # disk path -> "raw" or "qcow2", where it was looked into
    firmware: str | None = None  # UEFI image for guests that boot from disk on aarch64
    why: str | None = None  # why KVM or not, in words; None where QEMU is not to be started
    sandbox: str | None = None  # value of QEMU's -sandbox; None: it has no filter of system calls
    shut: frozenset[str] = frozenset()  # files that the VM's user cannot open by their names
    read_only: frozenset[str] = frozenset()  # disks that cannot be written
    blocks: frozenset[str] = frozenset()  # disks that are block devices
    named: Mapping[str, tuple[tuple[str, str], ...]] = {}  # disk -> options with what it names
    vhost: str | None = None  # the device by which the host's kernel moves QEMU's frames


def descriptor(number: int) -> str:
    """The name by which a process opens what it was handed under a number (proc_pid_fd(5))."""
    return f"/proc/self/fd/{number}"


class Launch(NamedTuple):
    """How to start a VM process, and how to speak with it afterwards."""

    argv: tuple[str, ...]  # empty: there is nothing to start
    environment: Mapping[str, str]  # added to the caller's
    directory: str  # working directory
    files: Mapping[str, bytes]  # name in the run-time directory -> content, written before
    ready: Ready  # what is waited for at the start; also how the guest is asked afterwards
    power_down: PowerDown
    console: str | None  # name of its socket in the run-time directory
    sockets: tuple[str, ...] = ()  # names it will bind there; leftovers are removed before
    handed: tuple[
        PassedDescriptors, ...
    ] = ()  # descriptors that it gets beside the standard streams
    own_network: bool = False  # it needs nothing of the host's network namespace

    def names(self) -> dict[str, str]:
        """The names under which it opens what it is handed, and what that is (pure)."""
        from hvtx.model.passed_fds import FIRST_HANDED

        found = {}
        for number, (_, path) in enumerate(self.handed, FIRST_HANDED):
            found[descriptor(number)] = path
            for words in self.argv:
                if words.startswith(f"fd={number},set="):
                    found[f"/dev/fdset/{words.rpartition('=')[2]}"] = path
        return dict(sorted(found.items(), reverse=True))  # 10 before 1


class Handing:
    """Collects what is handed over while a command line is rendered."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._all: list[PassedDescriptors] = []

    def number(self, what: str, path: str) -> int:
        """The number under which ``path`` will be open."""
        from hvtx.model.passed_fds import FIRST_HANDED, PassedDescriptors

        self._all.append(PassedDescriptors(what, path))
        return FIRST_HANDED + len(self._all) - 1

    def file(self, what: str, path: str, probes: Probes) -> str:
        """The name by which a file to be read is opened: its own, if that can be."""
        return descriptor(self.number(what, path)) if path in probes.shut else path

    def all(self) -> tuple[PassedDescriptors, ...]:
        """What a :class:`Launch` has as ``handed``."""
        return tuple(self._all)


def by_descriptor(launch: Launch) -> Launch:
    """The same launch, with its program executed by a descriptor (pure)."""
    from hvtx.model.passed_fds import FIRST_HANDED, PassedDescriptors

    number = FIRST_HANDED + len(launch.handed)
    return launch._replace(
        argv=(descriptor(number), *launch.argv[1:]),
        handed=(*launch.handed, PassedDescriptors("program", launch.argv[0])),
    )


class HypervisorTraits(NamedTuple):
    """What can be said of a hypervisor without rendering anything."""

    ready: Ready
    power_down: PowerDown
    console: str | None
    hint: str  # where to get it


TRAITS: Mapping[str, HypervisorTraits] = {
    "qemu": HypervisorTraits(
        "qmp", "qmp", CONSOLE_SOCKET, "install it: apt install qemu-system-x86 (qemu-system-arm)"
    ),
    "firecracker": HypervisorTraits(
        "firecracker api",
        "ctrl-alt-del api",
        None,
        "put the binary of a release of github.com/firecracker-microvm/firecracker on PATH",
    ),
    "cloud-hypervisor": HypervisorTraits(
        "cloud-hypervisor api",
        "power-button api",
        None,
        "put the binary of a release of github.com/cloud-hypervisor/cloud-hypervisor on PATH",
    ),
    "command": HypervisorTraits("exec", "none", None, "give a program that exists after --"),
    "external": HypervisorTraits("none", "none", None, ""),
    "cni": HypervisorTraits("none", "none", None, ""),
}


def binary_names(hypervisor: str, machine: str = "x86_64") -> tuple[str, ...]:
    """Programs to look for on PATH, best first; empty where the VM names its own or has none."""
    if hypervisor == "qemu":
        return (f"qemu-system-{machine}", "qemu-kvm", "/usr/libexec/qemu-kvm")
    if hypervisor in ("firecracker", "cloud-hypervisor"):
        return (hypervisor,)
    return ()


_KERNELS = {
    "firecracker": "an uncompressed kernel (vmlinux)",
    "cloud-hypervisor": "a kernel, or its firmware for guests that boot from disk",
}
"""What those are to be given that boot no disk by themselves."""


def unfit(
    hypervisor: str, kernel: str | None, disks: Iterable[str], formats: Mapping[str, str] = {}
) -> tuple[str, str] | None:
    """Why a hypervisor can start no guest of these, and what to do; None if it can (pure).

    ``formats`` are those of the disks that were looked into; of others the name is believed.
    """
    if hypervisor not in _KERNELS:
        return None
    named, other = f"--hypervisor {hypervisor}", "choose --hypervisor qemu"
    if not kernel:
        return f"{named} needs --kernel", f"give {_KERNELS[hypervisor]}, or {other}"
    for path in disks:
        if hypervisor == "firecracker" and disk_format(path, formats) != "raw":
            convert = f"qemu-img convert -O raw {shell.word(path)} FILE"
            return (
                f"{named} reads raw disks only, and {path} is qcow2",
                f"make a raw one of it ({convert}), or {other}",
            )
        if hypervisor == "cloud-hypervisor" and "," in path:
            return (
                f"{named} takes no --disk with a comma in its path: {path}",
                f"rename it, or name it by a link without one; or {other}",
            )
    return None


def need_fit(hypervisor: str, vm: Vm, formats: Mapping[str, str]) -> None:
    """Raise ValueError where a hypervisor cannot start ``vm``, whatever the host has."""
    why = unfit(hypervisor, vm.kernel, vm.disks, formats)
    if why is not None:
        raise ValueError(why[0])


PLACEHOLDERS: Mapping[str, str] = {
    "vm": "its name",
    "tap": "the TAP device of its first interface",
    "mac": "that interface's MAC address",
    "ip": "its IPv4 address",
    "gateway": "the gateway of its IPv4 subnet",
    "netmask": "the netmask of that subnet",
    "ip6": "its IPv6 address",
    "gateway6": "the gateway of its IPv6 subnet",
    "mtu": "the MTU of its network",
    "queues": "how many queues each TAP device has",
}
"""What may stand in braces in --append and a command; those of an interface also as ``tap_2`` …"""

_OF_VM = ("vm", "queues")


def variables(vm: Vm, ports: Sequence[Nic]) -> dict[str, str]:
    """The words of :data:`PLACEHOLDERS` with a VM's values.

    A value that the VM does not have (an IPv4 address in an IPv6 network) is empty.
    """
    words = {"vm": vm.name, "queues": str(vm.queues)}
    for number, port in enumerate(ports, 1):
        suffix = "" if number == 1 else f"_{number}"
        for word, value in (
            ("tap", port.device),
            ("mac", port.mac),
            ("ip", port.ipv4),
            ("gateway", port.gateway4),
            ("netmask", port.netmask),
            ("ip6", port.ipv6),
            ("gateway6", port.gateway6),
            ("mtu", str(port.mtu)),
        ):
            words[word + suffix] = value or ""
    return words


def environment(vm: Vm, ports: Sequence[Nic], directory: str) -> dict[str, str]:
    """The same as environment variables: ``HVTX_VM``, ``HVTX_TAP``, … ``HVTX_TAP_2`` and so on.

    ``HVTX_SEED`` is the path of the image that cloud-init reads, for a VM that has one in its
    run-time ``directory``.
    """
    from hvtx.model.seed import SEED, has_seed

    words = variables(vm, ports)
    found = {f"HVTX_{word.upper()}": value for word, value in words.items()}
    return {**found, "HVTX_SEED": f"{directory}/{SEED}"} if has_seed(vm) else found


_BRACED = r"(?P<lead>[${]?)\{(?P<word> *[A-Za-z][A-Za-z0-9_.-]* *)\}(?P<trail>\}?)"


def placeholders(interfaces: int) -> tuple[str, ...]:
    """The words that are replaced for a VM with so many interfaces."""
    own = [word for word in PLACEHOLDERS if word not in _OF_VM]
    more = [f"{word}_{number}" for number in range(2, interfaces + 1) for word in own]
    return (*PLACEHOLDERS, *more)


def literal(text: str, wrong: Callable[[str], bool]) -> tuple[str, str | None]:
    """``text`` as it is kept, and the first ``{word}`` in it that is ``wrong`` (pure).

    ``{{word}}`` stands for such a ``{word}`` that is meant literally; ``${word}`` is the shell's.
    """
    import re

    unknown: list[str] = []

    def kept(found: re.Match[str]) -> str:
        lead, word, trail = found["lead"], found["word"], found["trail"]
        if lead == "$" or not wrong(word):
            return found[0]
        if lead == "{" and trail == "}":
            return f"{{{word}}}"
        unknown.append(word)
        return found[0]

    return re.sub(_BRACED, kept, text), unknown[0] if unknown else None


def replace(text: str, words: Mapping[str, str]) -> str:
    """``text`` with ``{word}`` replaced; braces around anything else stay as they are.

    So does ``${word}``, of every word: it is the shell's.
    """
    if "{" not in text:
        return text
    import re

    return re.sub(r"(?<!\$)\{([a-z0-9_]+)\}", lambda found: words.get(found[1], found[0]), text)


def kernel_arguments(vm: Vm, ports: Sequence[Nic], defaults: Sequence[str]) -> str:
    """The kernel's command line: the VM's own, then each default that it has none of.

    ``defaults`` are words like ``console=ttyS0``; one with the same key (what is before ``=``) in
    the VM's own text suppresses it. The first interface's ``ip=`` is always among them:
    Documentation/admin-guide/nfs/nfsroot.rst has its form.
    """
    own = replace(vm.append or "", variables(vm, ports)).strip()
    keys = {word.partition("=")[0] for word in own.split()}
    words = [*defaults, *address_argument(vm, ports)]
    added = [word for word in words if word.partition("=")[0] not in keys]
    return " ".join([*([own] if own else []), *added])


def address_argument(vm: Vm, ports: Sequence[Nic]) -> tuple[str, ...]:
    """``ip=<ip>::<gateway>:<netmask>:<name>::off`` for the first interface, if it has IPv4."""
    if not ports or ports[0].ipv4 is None:
        return ()
    port = ports[0]
    return (f"ip={port.ipv4}::{port.gateway4 or ''}:{port.netmask or ''}:{vm.name}::off",)


def serial_console(machine: str) -> str:
    """The guest kernel's name of the first serial port."""
    return "ttyAMA0" if machine == "aarch64" else "ttyS0"


def disk_format(path: str, formats: Mapping[str, str]) -> str:
    """``qcow2`` or ``raw``: what was found by looking, else what the name says."""
    return formats.get(path) or ("qcow2" if path.endswith(".qcow2") else "raw")
