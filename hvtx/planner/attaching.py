"""An attachment's name, and what it has in the place of a VM's TAP. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.address import family_of
from hvtx.model.attachment import AttachmentKey, AttachmentRequest, TapRequest
from hvtx.model.digest import sha256
from hvtx.model.mark import base32
from hvtx.model.resource import Kind
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Attachment, Interface, Network, Vm
from hvtx.planner.provision import ResourceSpec

_LETTERS = 16
_ID_SPAN = 1 << 31  # an id of a namespace is a number from 0 up


class Container(NamedTuple):
    """The network namespace that an attachment goes to."""

    netns: str  # its path, opened once
    nsid: int  # the id by which it is known from here
    ifname: str
    tap: TapRequest | None = None  # for a VM that is to be in there


def name_of(key: AttachmentKey) -> str:
    """The name of the VM that stands for an attachment: no name of a VM fits a container's id."""
    digest = bytes.fromhex(sha256("\0".join(key).encode()))
    return "cni-" + base32(digest, _LETTERS)


def namespace_id(random: bytes) -> int:
    """An id for a namespace that has none, of 31 random bits."""
    return int.from_bytes(random[:4], "big") % _ID_SPAN


def recorded(request: AttachmentRequest) -> Attachment:
    """What of a request stays on record."""
    return Attachment(*request.key, request.netns, *request.pod)


def in_container(
    wants: Iterable[tuple[ResourceSpec, str | None]],
    vm: Vm,
    networks: Mapping[str, Network],
    container: Container,
) -> list[tuple[ResourceSpec, str | None]]:
    """A VM's resources with a veth pair for its TAP, and its namespace's evidence before it."""
    interface = vm.interfaces[0]
    found: list[tuple[ResourceSpec, str | None]] = []
    for want, network in wants:
        if want.kind != Kind.TAP:
            found.append((want, network))
            continue
        evidence = {"nsid": container.nsid, "path": container.netns}
        key = f"{vm.name} namespace {container.nsid}"
        found.append((ResourceSpec(Kind.NETNS, key, evidence), network))
        spec = want.spec | {
            "peer": container.ifname,
            "peer_mac": interface.mac,
            "peer_addresses": addresses(interface, networks[interface.network]),
            "netns": container.netns,
            "nsid": container.nsid,
        }
        if container.tap is not None:
            tap = container.tap
            spec["tap"] = tap._asdict() | {"name": tap.name or want.key}
        found.append((want._replace(kind=Kind.VETH, spec=spec), network))
    return found


def addresses(interface: Interface, network: Network) -> list[Sequence[str]]:
    """Each address of an interface with its prefix length, and its gateway."""
    found: list[Sequence[str]] = []
    for address in interface.addresses:
        subnet = network.range(family_of(address))
        if subnet is not None:
            found.append([f"{address}/{subnet[0].partition('/')[2]}", subnet[1]])
    return found
