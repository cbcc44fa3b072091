"""Rows of attachments: a veth pair, and the network namespace by which one lives."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.resource import DeviceObserved, Kind, Resource, TapSpec
from hvtx.model.typed import NotRequired, TypedDict, cast

NO_NAMESPACE = "no-namespace"  # of an error: what is named as a container's namespace is none


class InnerTap(TypedDict):
    """A TAP device beside the peer, whose frames are the peer's; it goes with the namespace."""

    name: str
    owner: int | None  # user and group that may open it without CAP_NET_ADMIN; None: any, or none
    group: int | None


class VethSpec(TapSpec):
    """A veth pair: ``device`` is the host's end, a port of ``bridge``, and the rest of it is so.

    The peer stands in the namespace at ``netns`` (opened once, and never looked at again), whose id
    is ``nsid``. Until the alias is set, index, MAC and BRIDGE_GROUP are its mark (ADR 0004).
    """

    peer: str  # its name there
    peer_mac: str
    peer_addresses: list[tuple[str, str]]  # each with prefix length, and its gateway
    netns: str
    nsid: int
    tap: NotRequired[InnerTap]


class VethObserved(DeviceObserved, total=False):
    """What was read back of a veth pair."""

    others_default: list[int]  # families of which the namespace had a default route by another
    cookie: int  # of the namespace that the peer was put into, from Linux 5.14
    tap_mac: str  # of the TAP device beside the peer, where there is one


class NetnsSpec(TypedDict):
    """A network namespace of somebody else's, by whose id an attachment lives; nothing is removed.

    ``nsid`` (of RTM_GETNSID, in the namespace of the row's life) is the one that it is to have;
    that it has it stands in ``observed``.
    """

    nsid: int
    path: str  # only words for people


def veth_spec(row: Resource) -> VethSpec:
    """The spec of a row of kind ``veth``."""
    assert row.kind == Kind.VETH, row.kind
    return cast("VethSpec", row.spec)


def has_default(row: Resource, family: int) -> bool:
    """Whether the default route of a family was made with a veth pair; else another's stayed."""
    return family not in cast("VethObserved", row.observed).get("others_default", ())


def inner_tap(rows: Iterable[Resource]) -> str | None:
    """The TAP device in the namespace of an attachment whose rows these are; None without one."""
    pair = next((row for row in rows if row.kind == Kind.VETH), None)
    tap = veth_spec(pair).get("tap") if pair is not None else None
    return None if tap is None else tap["name"]


def tap_mac(row: Resource) -> str | None:
    """The MAC address of the TAP device beside a pair's peer; None without one, or unrecorded."""
    assert row.kind == Kind.VETH, row.kind
    return cast("VethObserved", row.observed).get("tap_mac")


def netns_spec(row: Resource) -> NetnsSpec:
    """The spec of a row of kind ``netns``."""
    assert row.kind == Kind.NETNS, row.kind
    return cast("NetnsSpec", row.spec)


def namespace_id(row: Resource) -> int | None:
    """The id by which the namespace of a row of kind ``netns`` is known; None before it has it."""
    assert row.kind == Kind.NETNS, row.kind
    return cast("int | None", row.observed.get("nsid"))


def peer_cookie(row: Resource) -> int | None:
    """The cookie of the namespace that a pair's peer was put into; None in older records.

    By it the namespace is told from a later one that has its id.
    """
    assert row.kind == Kind.VETH, row.kind
    return cast("int | None", row.observed.get("cookie"))
