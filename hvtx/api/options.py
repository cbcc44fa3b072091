"""What a VM and a network can be asked to be, by keyword: the options of the command line.

Texts are written as there: ``publish=["8080:80", "53:53/udp"]``, ``limit="in=100mbit"``. Where
there may be several, any sequence of texts will do; paths are those of the process's directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class VmOptions(TypedDict, total=False):
    """Of ``vm create`` and ``vm run``; what is left out is as there."""

    networks: Sequence[str]  # default: the network `default`, made if it is not there
    ips: Sequence[str]
    macs: Sequence[str]
    publish: Sequence[str]  # [NETWORK/][HOSTIP:]HOSTPORT[-LAST]:GUESTPORT[-LAST][/udp]
    memory: int  # MiB
    cpus: int
    kernel: str | None
    initrd: str | None
    append: str | None
    disks: Sequence[str]
    hypervisor: str | None  # qemu, firecracker, cloud-hypervisor, command or external
    command: Sequence[str]  # what runs as the VM: hypervisor `command`
    autostart: bool
    limit: str | None
    queues: int | None
    user_data: str | None  # a file
    ssh_keys: Sequence[str]  # files
    user: str | None
    egress: str | None  # open, internet or none
    allow: Sequence[str]
    deny: Sequence[str]


class VmChanges(TypedDict, total=False):
    """Of ``vm set``: what is left out or None stays, an empty text or sequence takes away."""

    publish: Sequence[str]  # further ports
    unpublish: Sequence[str]
    memory: int | None
    cpus: int | None
    kernel: str | None
    initrd: str | None
    append: str | None
    disks: Sequence[str] | None
    command: Sequence[str] | None
    autostart: bool | None
    limit: str | None  # all limits anew; `none` without any
    queues: int | None
    user_data: str | None
    ssh_keys: Sequence[str] | None
    user: str | None
    egress: str | None  # a mode; an empty text: none of its own
    allow: Sequence[str]  # further rules
    deny: Sequence[str]
    no_rules: bool  # without the rules that it has, before those are added
    networks: Sequence[str]  # given once, with what follows: others than it has are refused
    ips: Sequence[str]
    macs: Sequence[str]


class NetworkOptions(TypedDict, total=False):
    """Of ``network create``; what is left out is as there."""

    bridge: str | None
    mtu: int
    nat: bool
    isolate: bool
    uplink: str | None
    sources: Sequence[str]
    passage: bool
    dhcp: bool | None
    block_size: str | None  # prefix length of the cluster's blocks that guests lease from: "26"
    egress: str | None
    allow: Sequence[str]
    deny: Sequence[str]


class NetworkChanges(TypedDict, total=False):
    """Of ``network set``: what is left out or None stays as it is."""

    isolate: bool | None
    dhcp: bool | None
    uplink: str | None
    no_uplink: bool
    sources: Sequence[str]  # in the place of all that it has
    no_source: bool
    passage: bool | None
    egress: str | None  # a mode; an empty text: none of its own
    allow: Sequence[str]
    deny: Sequence[str]
    no_rules: bool
    subnets: Sequence[str]  # given once, with what follows: others than it has are refused
    bridge: str | None
    mtu: int | None
    nat: bool | None
