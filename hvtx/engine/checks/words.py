"""What each check of `doctor` looks at, and what its levels mean: docs/reference.md is made of it.

No command imports this. ``tests/engine/checks/test_words.py`` compares it with the checks.
"""

from __future__ import annotations

from hvtx.model.typed import NamedTuple


class Explained(NamedTuple):
    """A check in words; an empty text: it has no such finding."""

    looks_at: str
    error: str
    warning: str


CHECKS = {
    "permissions": Explained(
        "the capabilities that hvtx has here",
        "CAP_NET_ADMIN is missing; or legacy tables cannot be read, and networks live in them",
        "others' rules in legacy tables, or who holds a device open, cannot be read",
    ),
    "store": Explained(
        "the state store: its pages, its modes, its file system, the room on its disk",
        "it is damaged, refused, or on a network file system",
        "others can read it; a boot would lose it; its disk is full or nearly; files of VMs are not"
        " on record",
    ),
    "directories": Explained(
        "who could replace what is in the state and the run directory, and their mounts",
        "somebody else could, or the mount is read-only: every change is refused",
        "",
    ),
    "operations": Explained("operations that were interrupted", "", "some wait: `hvtx recover`"),
    "processes": Explained(
        "whether processes can be looked at in /proc",
        "they cannot: every VM counts as `unknown`",
        "",
    ),
    "tun": Explained("/dev/net/tun", "it is missing, or does not open: no VM gets a network", ""),
    "libraries": Explained("libnftables", "it cannot be loaded: no network can be made", ""),
    "netfilter": Explained("nf_tables of the kernel", "it does not answer: no network works", ""),
    "iptables": Explained(
        "what networks with `--firewall iptables` need",
        "it is missing, and a network has that backend, or the next one would",
        "",
    ),
    "hypervisors": Explained(
        "the programs of hypervisors on PATH",
        "one is missing that VMs on record need, or QEMU where there is no VM yet",
        "QEMU is missing, and no VM on record needs it",
    ),
    "users": Explained(
        "whom VM processes run as, and what else they are shut in by",
        "`vm_user` cannot be: no VM can start",
        "they run as root; QEMU has no sandbox or no network namespace of its own; other"
        " hypervisors cannot open /dev/net/tun; devices' MAC addresses cannot be kept",
    ),
    "kvm": Explained(
        "whether guests have KVM",
        "QEMU does not run; or `HVTX_QEMU_ACCEL=kvm`, and KVM does not run guests",
        "KVM is there, and cannot be used or does not run guests: they have emulation (TCG)",
    ),
    "forwarding": Explained(
        "the kernel's forwarding, for each family that networks have",
        "it is off, or there is no IPv6: guests do not leave their network",
        "a device ignores router advertisements, since the host forwards",
    ),
    "loopback": Explained("published ports on [::1]", "", "some are not reached by [::1]"),
    "uplinks": Explained(
        "uplinks and source addresses of networks", "one is gone: guests do not get out", ""
    ),
    "conntrack": Explained(
        "how full connection tracking is",
        "",
        "nine tenths: a full table drops new connections of guests and of the host",
    ),
    "checksums": Explained(
        "the checksum filter of TAP devices",
        "",
        "it cannot be loaded: guests can have checked bytes rewritten (security.md)",
    ),
    "forward": Explained(
        "whether what guests are promised passes, tried in a copy of the host's forwarding",
        "a rule or a setting stops it, and which",
        "it would stop the next network, or stops some guests; or it is not known: the copy cannot"
        " be made, or is not whole",
    ),
    "egress": Explained("what guests of each network may reach", "", ""),
    "company": Explained(
        "managers of networks that have taken up devices of hvtx",
        "",
        "one has, or it cannot be asked",
    ),
    "routes": Explained(
        "whether the kernel routes guests' packets to them",
        "a rule or a route takes them elsewhere",
        "a route takes a part of a network's addresses",
    ),
    "addresses": Explained(
        "whether the host has a guest's address, or looks for it elsewhere",
        "so it is, of a VM that was started",
        "so it is, of a VM that was not",
    ),
    "ports": Explained(
        "whether others' rules translate published ports",
        "one comes first: packets do not reach the VM",
        "hvtx's comes first: packets do not reach the other's target; or it is not known",
    ),
    "dhcp": Explained(
        "the dnsmasq of each network that is to have one",
        "it is missing, stopped or in another's way; or it cannot look up names of policies",
        "new networks would get none; an address is not given by DHCPv6",
    ),
    "cluster": Explained(
        "whether the cluster answers, and agrees with the record on this host's blocks",
        "it refuses this host, or a block with guests is another host's; or `[cluster]` is missing",
        "no etcd answers; a claim was interrupted; a block is not on record or is of no network",
    ),
    "damage": Explained(
        "what is on record for networks and running VMs, in the host",
        "something is gone or changed, and VMs feel it: `hvtx repair`",
        "something is, and they do not; or it could not be looked at",
    ),
    "units": Explained(
        "copies of the systemd units in /etc",
        "their sandbox keeps them from etcd",
        "they hide those of the package",
    ),
}
