"""Options of a VM, and egress policies of VMs and networks, checked by themselves.

Before anything is looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.engine import notice
from hvtx.engine.guest_options import GuestOptions
from hvtx.errors import NotFound, UsageError, advised
from hvtx.model.limiting import parse_limit
from hvtx.model.policy import NO_LIMITS, NO_POLICY, Limits, Policy, names_in
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.vm import DEFAULT, Attachment, Network, Publish
from hvtx.planner import addressing, ports
from hvtx.planner.assigning import Asked

if TYPE_CHECKING:
    from hvtx.planner.egress_rules import PolicyChange

HYPERVISORS = ("qemu", "firecracker", "cloud-hypervisor", "command", "external")


class VmRequest(NamedTuple):
    """What a person asked for; checked, but not yet known to be free."""

    name: str
    hypervisor: str
    networks: tuple[str, ...]
    ips: tuple[str, ...]
    macs: tuple[str, ...]
    publish: tuple[Publish, ...]
    memory: int
    cpus: int
    kernel: str | None
    initrd: str | None
    append: str | None
    disks: tuple[str, ...]
    command: tuple[str, ...]
    directory: str
    autostart: bool
    leases: tuple[Asked, ...] = ()  # the addresses of each interface, where they are known whole
    guest: GuestOptions = GuestOptions()
    published: tuple[str | None, ...] = ()  # the network of each port; None or nothing: the first
    policy: Policy = NO_POLICY
    limits: Limits = NO_LIMITS
    attachment: Attachment | None = None  # of the hypervisor ``cni``
    asks: bool = True  # its guest asks for its addresses by DHCP

    def ports(self, position: int) -> tuple[Publish, ...]:
        """The ports of one interface."""
        names = self.published or (None,) * len(self.publish)
        where = [0 if name is None else self.networks.index(name) for name in names]
        return tuple(p for p, at in zip(self.publish, where, strict=True) if at == position)


def parse_request(  # noqa: PLR0913 - it mirrors the options of `vm create`
    name: str,
    *,
    hypervisor: str | None = None,
    networks: Sequence[str] = (),
    ips: Sequence[str] = (),
    macs: Sequence[str] = (),
    publish: Sequence[str] = (),
    memory: int = 256,
    cpus: int = 1,
    kernel: str | None = None,
    initrd: str | None = None,
    append: str | None = None,
    disks: Sequence[str] = (),
    command: Sequence[str] = (),
    autostart: bool = False,
    limit: str | None = None,
) -> VmRequest:
    """Check what was written; relative paths are of this directory. Raises UsageError."""
    _check_names(name, networks)
    directory = here()
    chosen = hypervisor or ("command" if command else "qemu")
    paths = tuple(os.path.abspath(disk) for disk in disks)
    check_combination(
        chosen, command=command, kernel=kernel, initrd=initrd, append=append, disks=paths
    )
    check_size(memory, cpus)
    asked = ports.parse_published(publish, networks or (DEFAULT,))
    count = max(len(networks), 1)
    addresses, parsed = _addresses(ips, macs, count)
    check_lines((append, kernel, initrd, *disks))
    return VmRequest(
        name=name,
        hypervisor=chosen,
        networks=tuple(networks),
        ips=addresses,
        macs=parsed,
        publish=tuple(port.port for port in asked),
        published=tuple(port.network if networks else None for port in asked),
        memory=memory,
        cpus=cpus,
        kernel=_absolute(kernel),
        initrd=_absolute(initrd),
        append=checked_append(append, count),
        disks=paths,
        command=checked_command(command, count),
        directory=directory,
        autostart=autostart,
        limits=NO_LIMITS if limit is None else parse_limit(limit),
    )


def here() -> str:
    """The directory that relative paths are of. Raises NotFound where somebody removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError as problem:
        raise NotFound(
            "the current directory does not exist any more", hint="go to one that does: cd /"
        ) from problem


def parse_policy(egress: str | None, allow: Sequence[str], deny: Sequence[str]) -> Policy:
    """An egress policy, of a VM or a network; raises UsageError."""
    if egress is None and not allow and not deny:
        return NO_POLICY
    from hvtx.planner import egress_rules

    policy = egress_rules.parse_policy(egress, allow, deny)
    _warn_of(egress_rules.mistakable(allow, deny))
    return policy


def policy_change(
    egress: str | None, allow: Sequence[str], deny: Sequence[str], *, clear: bool
) -> PolicyChange:
    """What becomes of the egress policy of a VM or a network; raises UsageError."""
    from hvtx.planner import egress_rules

    change = egress_rules.parse_change(egress, allow, deny, clear=clear)
    _warn_of(egress_rules.mistakable(allow, deny))
    return change


def _warn_of(found: Iterable[str]) -> None:
    for words in found:
        notice.warning(words)


def changed_policy(
    policy: Policy, change: PolicyChange | None, otherwise: str | None = None
) -> Policy:
    """A policy as a change leaves it; ``otherwise``: the mode without one of its own.

    Raises UsageError.
    """
    if change is None:
        return policy
    from hvtx.planner import egress_rules

    return egress_rules.changed(policy, change, otherwise)


def refuse_names(policy: Policy, networks: Iterable[Network], *, new: bool = False) -> None:
    """Refuse names in an egress policy where they cannot be looked up. Raises Conflict.

    That is in networks without a DNS of their own, and where dnsmasq fills no sets. ``new``: the
    networks are being made.
    """
    if not names_in(policy.rules):
        return
    from hvtx.host import dnsmasq
    from hvtx.planner import egress_rules

    if new:
        egress_rules.refuse_names(policy, networks, "make it with --dhcp")
    egress_rules.refuse_names(policy, networks)
    if (why := dnsmasq.fills_no_sets()) is not None:
        raise why


def warn_of_useless(policy: Policy, networks: Iterable[Network]) -> None:
    """Tell of rules of an egress policy that nothing in these networks can match."""
    if policy.rules:
        from hvtx.planner import egress_rules

        _warn_of(egress_rules.useless(policy, networks))


def _check_names(name: str, networks: Sequence[str]) -> None:
    addressing.parse_name(name, "VM")
    for network in networks:
        addressing.parse_name(network, "network")
    if len(set(networks)) != len(networks):
        raise UsageError(
            "a VM has at most one interface in a network", hint="name each --network once"
        )


def _addresses(
    ips: Sequence[str], macs: Sequence[str], interfaces: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """IP addresses and MACs, each once, and of these at most one for each interface."""
    with advised("write it as 10.77.0.5 or fd77::5; without --ip a free one is chosen"):
        addresses = tuple(addressing.parse_address(ip, of="--ip") for ip in ips)
    with advised("write it as 02:11:22:33:44:55; without --mac one is generated"):
        parsed = tuple(addressing.parse_mac(mac, of="--mac") for mac in macs)
    if len(parsed) > interfaces:
        raise UsageError(
            "more --mac than networks", hint="each network takes one MAC; add a --network"
        )
    for number, address in enumerate(addresses):
        if address in addresses[:number]:
            raise UsageError(f"--ip {address} is given twice", hint="give each address once")
    for number, mac in enumerate(parsed):
        if mac in parsed[:number]:
            raise UsageError(
                f"--mac {mac} is given twice",
                hint="give each network's interface its own; without --mac one is generated",
            )
    return addresses, parsed


def check_size(memory: int, cpus: int) -> None:
    """Refuse what no VM can have; raises UsageError."""
    if not 1 <= memory <= 1 << 24:
        raise UsageError(
            f"--memory {memory} is not between 1 and {1 << 24} MiB",
            hint="the unit is MiB: 2048 is 2 GiB",
        )
    if not 1 <= cpus <= 4096:
        raise UsageError(
            f"--cpus {cpus} is not between 1 and 4096", hint="nproc tells how many this host has"
        )


def check_lines(texts: Iterable[str | None]) -> None:
    """Refuse a line break in what becomes one argument; raises UsageError."""
    if any(text and "\n" in text for text in texts):
        raise UsageError(
            "an argument of the hypervisor holds a line break",
            hint="put --append on one line; rename a file whose name is broken",
        )


_MISTAKEN = {"ipv4": "ip", "ip4": "ip", "ipv6": "ip6", "gateway4": "gateway"}
_HYPERVISORS_ELSEWHERE = {
    **dict.fromkeys(("kvm", "qemu-kvm", "qemu-system-x86_64", "tcg"), "qemu"),
    "fc": "firecracker", "ch": "cloud-hypervisor", "chv": "cloud-hypervisor", "none": "external",
}  # fmt: skip

_OTHER_NAMES = {
    **_MISTAKEN, "name": "vm", "address": "ip", "address6": "ip6", "device": "tap",
    "ifname": "tap", "gw": "gateway", "mask": "netmask",
}  # fmt: skip
_SLIP = 0.85  # of difflib's ratio: one letter in a word


def checked_append(text: str | None, interfaces: int) -> str | None:
    """A kernel's command line as it is kept; raises UsageError for a ``{word}`` of no meaning."""
    known = _placeholders(interfaces)

    def wrong(word: str) -> bool:
        plain = _plain(word)
        blanks = word != word.strip()  # with them, a text of its own unless it is one of ours
        return word not in known and (not blanks or plain in known or plain in _MISTAKEN)

    return None if text is None else _without(text, "--append", known, wrong)


def checked_command(command: Iterable[str], interfaces: int) -> tuple[str, ...]:
    """A command as it is kept; raises UsageError for what is nearly a placeholder.

    Any other braces are the program's own: a script of a shell, of awk or of Python has many.
    """
    known = _placeholders(interfaces)

    def slip(word: str) -> bool:
        from hvtx.model.nearest import nearest

        if word in known or word != word.strip():  # braces and blanks are a language's own
            return False
        plain = _plain(word)
        base, _, number = plain.rpartition("_")
        beyond = base in known and number.isdigit()  # an interface that the VM does not have
        mistaken = plain in known or plain in _MISTAKEN
        return beyond or mistaken or nearest(word, known, _SLIP, any_case=False) is not None

    return tuple(_without(word, "the command", known, slip) for word in command)


def _placeholders(interfaces: int) -> tuple[str, ...]:
    from hvtx.hypervisors.base import placeholders

    return placeholders(interfaces)


def _plain(word: str) -> str:
    """A word as a placeholder would be written: ``tap_2`` of ``TAP-2`` and of ``HVTX_TAP_2``."""
    return word.strip().casefold().replace("-", "_").removeprefix("hvtx_")


def _without(text: str, where: str, known: Sequence[str], wrong: Callable[[str], bool]) -> str:
    if "{" not in text:
        return text
    from hvtx.hypervisors.base import literal
    from hvtx.model.nearest import nearest

    kept, unknown = literal(text, wrong)
    if unknown is None:
        return kept
    plain = _plain(unknown)
    likely = plain if plain in known else _OTHER_NAMES.get(plain) or nearest(plain, known)
    ask = f"did you mean {{{likely}}}? " if likely else ""
    raise UsageError(
        f"{where} has {{{unknown}}}, which is not a placeholder",
        hint=f"{ask}known: {' '.join(f'{{{word}}}' for word in known)}; {{{{{unknown}}}}} is a "
        f"literal {{{unknown}}}",
    )


def check_combination(
    hypervisor: str,
    *,
    command: Sequence[str],
    kernel: str | None,
    initrd: str | None,
    append: str | None,
    disks: Sequence[str],
) -> None:
    """Refuse what does not go together in a VM; raises UsageError."""
    if hypervisor not in HYPERVISORS:
        from hvtx.model.nearest import meant

        raise UsageError(
            f"{hypervisor!r} is not a hypervisor",
            hint=meant(
                _HYPERVISORS_ELSEWHERE.get(hypervisor.lower(), hypervisor),
                HYPERVISORS,
                f"one of {', '.join(HYPERVISORS)}",
            ),
        )
    if command and hypervisor != "command":
        raise UsageError(
            f"-- COMMAND and --hypervisor {hypervisor} cannot be combined",
            hint="leave one of them out: a command is the VM process itself",
        )
    if hypervisor == "command" and not (command and command[0]):
        raise UsageError(
            "--hypervisor command needs -- COMMAND…", hint="for instance: -- qemu-system-x86_64 …"
        )
    if hypervisor in ("command", "external") and (kernel or initrd or append or disks):
        raise UsageError(
            f"--kernel, --initrd, --append and --disk have no effect on {hypervisor}",
            hint="leave them out, or choose --hypervisor qemu",
        )
    if (initrd or append) and not kernel:
        raise UsageError(
            "--initrd and --append need --kernel",
            hint="a guest that boots from its --disk brings its own",
        )
    check_fit(hypervisor, kernel, disks)


def check_fit(
    hypervisor: str, kernel: str | None, disks: Iterable[str], formats: Mapping[str, str] = {}
) -> None:
    """Refuse what a hypervisor can never start; raises UsageError.

    ``disks`` are absolute paths, ``formats`` those of the disks that were looked into.
    """
    from hvtx.hypervisors.base import unfit

    why = unfit(hypervisor, kernel, disks, formats)
    if why is not None:
        raise UsageError(why[0], hint=why[1])


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)
