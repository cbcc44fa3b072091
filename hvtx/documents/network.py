"""``hvtx/network/1``: `network show --json`, `network create --json`."""

from __future__ import annotations

from hvtx.documents import parts
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.commands.show_networks import ShownNetwork


def document(shown: ShownNetwork, view: AsOf | None = None) -> dict[str, Any]:
    """A network's object."""
    return {
        "schema": "hvtx/network/1",
        "name": shown.name,
        "id": shown.id,
        "bridge": shown.bridge,
        "subnets": list(shown.subnets),
        "gateway": list(shown.gateways),
        "nat": shown.nat,
        "isolate": shown.isolate,
        "uplink": shown.uplink,
        "source": list(shown.sources),
        "dhcp": shown.dhcp,
        "block_size": shown.block_size,
        "mtu": shown.mtu,
        "firewall": shown.firewall,
        "passage": shown.passage,
        "egress": parts.egress(shown.egress),
        "vms": list(shown.vms),
        "resources": parts.resources(shown.resources),
        **parts.seen_in(view),
    }
