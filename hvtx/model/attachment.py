"""Attachments: interfaces of containers that a runtime asks for by CNI, as the engine knows them.

The words are those of the CNI specification 1.1.0 (container id, interface name, prevResult). A VM
row of the hypervisor ``cni`` stands for each attachment; its life is that of a network namespace.
"""

from __future__ import annotations

from hvtx.model.policy import NO_LIMITS, Limits
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish


class AttachmentKey(NamedTuple):
    """What an attachment is told by: a runtime gives the same three with each of its requests."""

    network: str  # the name of the network configuration, CNI's "name"
    container: str  # CNI_CONTAINERID
    ifname: str  # CNI_IFNAME


class PodLabels(NamedTuple):
    """What a runtime says of whom an attachment is for; empty where it does not say."""

    name: str = ""  # K8S_POD_NAME; podman's container name; a Nomad job's
    namespace: str = ""
    uid: str = ""


class TapRequest(NamedTuple):
    """A TAP device beside the veth in the container's namespace, for a VM (``"vm": true``)."""

    name: str = ""  # TC_REDIRECT_TAP_NAME; empty: hvtx chooses one
    owner: int | None = None  # TC_REDIRECT_TAP_UID
    group: int | None = None  # TC_REDIRECT_TAP_GID


class AttachmentRequest(NamedTuple):
    """What ADD asks for."""

    key: AttachmentKey
    bridge_network: str  # the name of hvtx's network that it is to be in
    netns: str  # path of the network namespace, CNI_NETNS
    subnets: tuple[str, ...] = ()  # of the network, where the configuration declares it; else ()
    mtu: int | None = None  # as the next two: of the network, None where nothing is declared
    nat: bool | None = None
    isolate: bool | None = None
    mac: str | None = None  # asked for by capability, argument or CNI_ARGS
    addresses: tuple[str, ...] = ()  # asked for, without prefix lengths; each once
    publish: tuple[Publish, ...] = ()
    limits: Limits = NO_LIMITS
    pod: PodLabels = PodLabels()
    tap: TapRequest | None = None


class AttachedAddress(NamedTuple):
    """An address of the interface in the container."""

    address: str  # with prefix length: "10.77.0.2/24"
    gateway: str
    default: bool = True  # the default route is by it; False: one by another interface stayed


class Attached(NamedTuple):
    """A committed attachment, as ADD tells it."""

    key: AttachmentKey
    vm: str  # the name of its VM row: "cni-" and 16 letters
    netns: str  # as it was asked for: only words for people, never evidence
    bridge: str
    bridge_mac: str
    host_device: str
    host_mac: str
    mac: str  # of the interface in the container
    mtu: int
    addresses: tuple[AttachedAddress, ...]
    tap: str | None = None  # the name of the TAP device in the namespace
    tap_mac: str | None = None  # as the kernel gave it to the TAP device; older records have none


class Missing(NamedTuple):
    """One thing that CHECK found missing or changed, and the command that puts it back."""

    what: str
    mend: str


class Kept(NamedTuple):
    """An attachment that GC left alone, or could not remove, and why."""

    key: AttachmentKey
    vm: str
    reason: str  # a reason of the interface: vm-alive, liveness-unknown, in-use …
    message: str
    failed: bool = False  # it could not be looked at, or not be released: GC is to come again


class Collected(NamedTuple):
    """What GC did in one network."""

    removed: tuple[AttachmentKey, ...]
    kept: tuple[Kept, ...]  # not in the list, and not proven dead, or refused by the host
