"""What can be asked of a new network is judged before anything is looked at or made."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hvtx.engine import attachment_network
from hvtx.engine.network_options import parse_network
from hvtx.errors import UsageError
from hvtx.model.attachment import AttachmentKey, AttachmentRequest


def test_subnets_stand_in_the_order_of_their_families() -> None:
    wanted = parse_network(
        "lab", ["fd77::/64", "10.77.0.0/24"], None, 1500, nat=True, isolate=False
    )
    assert wanted.subnets == ("10.77.0.0/24", "fd77::/64")
    assert (wanted.name, wanted.bridge, wanted.mtu, wanted.block_size) == ("lab", None, 1500, None)


WRONG = [
    ({"bridge_network": "Not A Name"}, "Not A Name"),
    ({"mtu": 10}, "10 is not between 576"),
    ({"subnets": ("fd77::/64",), "mtu": 1279}, "1279 is not between 1280"),
    ({"subnets": ("10.77.0.0/24", "10.78.0.0/24")}, "at most one IPv4"),
    ({"subnets": ("10.77.0.1/24",)}, "10.77.0.0/24"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_a_conflist_declares_is_judged_alike(changes: dict[str, Any], words: str) -> None:
    """Also of who calls the library and not the plugin; the runtime is not even looked at."""
    key = AttachmentKey("net", "c1", "eth0")
    asked = AttachmentRequest(key, "lab", "/run/netns/c1", ("10.77.0.0/24",))._replace(**changes)
    with pytest.raises(UsageError) as caught:
        attachment_network.take(cast("Any", None), asked)
    assert words in f"{caught.value.message} {caught.value.hint}"
