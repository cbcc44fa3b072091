"""What is printed as a fix: never more than is done."""

from __future__ import annotations

import pytest

from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Link, Resource, State
from hvtx.planner.presence import Presence
from hvtx.planner.remedy import gone, remedy

MARK = "hvtx:1:abcdefghij:1.aaaaaaaaaaaaaaaa"


def row(kind: Kind, key: str, **spec: object) -> Resource:
    return Resource(1, kind, key, State.COMMITTED, MARK, spec, {}, 1, 1, "vm", None)


def link(index: int, name: str) -> Link:
    return Link(index, name, "tun", None, "", 1500, 0, 0, 0, True, 2, 0, True)


TAP = row(Kind.TAP, "hvtap", ifindex=7)
BRIDGE = row(Kind.BRIDGE, "hvbr", ifindex=8)
ADDRESS = row(Kind.ADDRESS, "10.77.0.1/24", device="hvbr", owner=MARK)
RULE = row(Kind.FILTER, "hvtap", what="port")
DIRECTORY = row(Kind.FILE, "/run/hvtx/a/vms/b", path="/run/hvtx/a/vms/b")
RESERVATION = row(Kind.FILE, "/run/hvtx/a/networks/n/hosts/b-0", reservation={})._replace(
    network="n"
)
GONE = Presence(False, ())
OTHERS = Reason.MARK_MISMATCH


@pytest.mark.parametrize(
    ("thing", "seen", "promised"),
    [
        (TAP, GONE, "hvtx vm restart web"),
        (TAP, Presence(True, (), None, link(7, "hvtap")), "hvtx repair"),
        (TAP, Presence(None, (), OTHERS, link(7, "other")), f"ip link set dev other alias {MARK}"),
        (
            TAP,
            Presence(None, (), OTHERS, link(9, "hvtap")),
            "hvtx explain hvtap shows its owner; once it is gone: hvtx vm restart web",
        ),
        (DIRECTORY, GONE, "hvtx vm restart web"),
        (RESERVATION, GONE, "hvtx repair"),
        (BRIDGE, GONE, "hvtx repair"),
        (
            BRIDGE,
            Presence(None, (), OTHERS, link(9, "hvbr")),
            "hvtx explain hvbr shows its owner; once it is gone: hvtx repair",
        ),
        (ADDRESS, GONE, "hvtx repair"),
        (ADDRESS, Presence(None, (), OTHERS), f"ip link set dev hvbr alias {MARK}"),
        (RULE, GONE, "hvtx repair"),
        (
            RULE,
            Presence(None, ("nft ip x y: z has no mark",), Reason.MARK_STRIPPED),
            "remove the rule in its place (nft ip x y: z has no mark), then: hvtx repair",
        ),
    ],
)
def test_what_is_promised(thing: Resource, seen: Presence, promised: str) -> None:
    assert remedy(thing, seen, "web") == promised


def test_of_a_vm_that_hvtx_does_not_start() -> None:
    """`restart` refuses it while its process lives, which hvtx does not end."""
    assert remedy(TAP, GONE, "web", external=True) == (
        "end its process, then: hvtx vm stop web; hvtx vm start web"
    )


def test_what_gc_says_of_what_is_lost() -> None:
    assert "hvtx vm restart web" in gone(TAP, "web")
    assert "hvtx repair" not in gone(TAP, "web")
    assert "hvtx repair" in gone(RULE, "web")
