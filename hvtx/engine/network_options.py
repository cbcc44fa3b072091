"""What can be asked of a new network, read from what was written."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine.new_network import NetworkRequest
from hvtx.errors import UsageError, advised
from hvtx.model.address import family_of
from hvtx.model.policy import NO_POLICY, Policy
from hvtx.planner.exits import parse_exits


def parse_network(  # noqa: PLR0913 - it mirrors the options of `network create`
    name: str,
    subnets: Sequence[str],
    bridge: str | None,
    mtu: int,
    *,
    nat: bool,
    isolate: bool,
    uplink: str | None = None,
    sources: Sequence[str] = (),
    passage: bool = True,
    policy: Policy = NO_POLICY,
    dhcp: bool | None = None,
    block_size: str | None = None,
) -> NetworkRequest:
    """Check what was written; raises UsageError."""
    from hvtx.planner import addressing

    addressing.parse_name(name, "network")
    with advised("take a private one with room for guests, for instance 10.77.0.0/24 or fd77::/64"):
        parsed = tuple(addressing.parse_subnet(subnet) for subnet in subnets)
    if not parsed:
        raise UsageError(
            "a network needs a --subnet", hint=f"hvtx network create {name} --subnet 10.77.0.0/24"
        )
    families = [family_of(subnet) for subnet in parsed]
    if len(parsed) > 2 or len(set(families)) != len(families):
        raise UsageError(
            "a network has at most one IPv4 and one IPv6 subnet",
            hint="make another network; a VM may have several: --network N --network M",
        )
    if bridge is not None:
        addressing.parse_device(bridge)
    least = 1280 if 6 in families else 576
    most = 65521  # of a TAP device: 65535 less an Ethernet header (tun_net_initialize)
    if not least <= mtu <= most:
        raise UsageError(
            f"--mtu {mtu} is not between {least} and {most}",
            hint="1500 is Ethernet's; IPv6 needs 1280 at least",
        )
    if uplink is not None and uplink == bridge:
        raise UsageError(
            f"--uplink and --bridge are both {bridge}", hint="the bridge is made by hvtx"
        )
    exits = parse_exits(uplink, sources, families=families, nat=nat)
    ordered = tuple(sorted(parsed, key=family_of))
    size = _block_size(block_size, ordered)
    return NetworkRequest(
        name, ordered, bridge, mtu, nat, isolate, passage, policy, dhcp, exits, size
    )


def _block_size(text: str | None, subnets: Sequence[str]) -> int | None:
    """What was written after ``--block-size``. Raises UsageError."""
    if text is None:
        return None
    from hvtx.planner.blocks import parse_block_size

    return parse_block_size(text, subnets)
