"""By which device a network's guests leave the host, and with which address: what can be. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hvtx.errors import UsageError, advised
from hvtx.model.address import family_of
from hvtx.model.typed import NamedTuple


class Exits(NamedTuple):
    """``--uplink`` and ``--source`` of a network."""

    uplink: str | None = None
    sources: tuple[str, ...] = ()  # at most one a family, that of IPv4 first


NO_EXITS = Exits()


def parse_exits(
    uplink: str | None, sources: Sequence[str], *, families: Collection[int], nat: bool
) -> Exits:
    """What a person wrote for a network with subnets of ``families``. Raises UsageError."""
    from hvtx.planner import addressing

    if uplink is not None:
        addressing.parse_uplink(uplink)
    if sources and not nat:
        raise UsageError(
            "--source and --no-nat cannot be combined",
            hint="without NAT guests leave the host with their own addresses",
        )
    parsed = sorted((_source(text) for text in sources), key=family_of)
    for address in parsed:
        family = family_of(address)
        if sum(family_of(other) == family for other in parsed) > 1:
            raise UsageError(
                f"--source is given more than once for IPv{family}", hint="one of each family"
            )
        if family not in families:
            raise UsageError(
                f"--source {address}: the network has no IPv{family} subnet",
                hint=f"add a --subnet of IPv{family}, or leave it out",
            )
    return Exits(uplink, tuple(parsed))


def _source(text: str) -> str:
    import ipaddress

    from hvtx.planner import addressing

    hint = "give an address of the device where the world is: ip addr"
    with advised(hint):
        address = addressing.parse_address(text, of="--source")
    parsed = ipaddress.ip_address(address)
    if (
        parsed.is_unspecified
        or parsed.is_loopback
        or parsed.is_multicast
        or parsed.is_link_local
        or (parsed.version == 4 and parsed.is_reserved)
    ):
        raise UsageError(
            f"--source {address} is no address that packets can leave the host with",
            hint=hint,
        )
    return address


def source_of(sources: Sequence[str], family: int) -> str | None:
    """The one of a family."""
    return next((address for address in sources if family_of(address) == family), None)
