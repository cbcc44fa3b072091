"""The claims of blocks, searched: nothing goes wrong, and each rule that is left out is missed."""

from __future__ import annotations

import pytest

from tests.protocol.claims import RULES, World, not_own, search, two_owners
from tests.protocol.searching import Found

WORLDS = {
    "two claims, lost words, a crash": World(claims=2, lost=1, crashes=1, late=1),
    "claims and blocks that go back": World(claims=2, lost=1, late=1, releases=2),
    "three claims of two blocks": World(claims=3, late=1, releases=1),
    "a copy of a host": World(claims=2, copies=1, lost=1, late=1),
    "a copy that gives back": World(claims=2, copies=1, releases=2),
    "a copy that is registered": World(claims=2, copies=1, registers=1, late=1),
    "another etcd": World(claims=3, etcds=1, releases=1),
    "an older store": World(claims=2, rollbacks=1, releases=2),
    "a host that is given up": World(claims=3, forgets=1, late=1),
    "time passes": World(claims=2, pauses=1),
}
TWO_OWNERS = "guests of two hosts have addresses of one block"
NOT_OURS = "a host leases from a block that is not its own"
UNKNOWN = "is a host's that does not know of it"

# What is left out, the world that shows it, what happens, and the last step of the shortest way.
NEEDED = [
    ("row-after-asking", "two claims, lost words, a crash", UNKNOWN, "A's claim of p arrives late"),
    (
        "guess-not-granted",
        "two claims, lost words, a crash",
        UNKNOWN,
        "A's claim of p arrives late",
    ),
    ("guess-granted", "two claims, lost words, a crash", NOT_OURS, "A gives up waiting"),
    ("another-token", "two claims, lost words, a crash", UNKNOWN, "A's claim of p arrives late"),
    ("put-without-compare", "two claims, lost words, a crash", NOT_OURS, "B's claim of p arrives"),
    ("release-before-row", "claims and blocks that go back", NOT_OURS, "A's release of p arrives"),
    (
        "release-by-block",
        "claims and blocks that go back",
        NOT_OURS,
        "A's release of p arrives late",
    ),
    ("no-numbers", "claims and blocks that go back", UNKNOWN, "A's claim of p arrives late"),
    ("no-closing", "three claims of two blocks", UNKNOWN, "B's claim of p arrives late"),
    ("no-registration", "a copy of a host", TWO_OWNERS, "A' leases from p"),
    ("release-by-copy", "a copy that gives back", NOT_OURS, "A''s release of p arrives"),
    ("trust-old-store", "an older store", TWO_OWNERS, "B leases from p"),
    ("give-back-after-rollback", "an older store", TWO_OWNERS, "B leases from p"),
    ("no-machine-in-store", "a copy of a host", TWO_OWNERS, "A' starts its guest in p"),
    ("start-what-is-lost", "an older store", TWO_OWNERS, "A starts its guest in p"),
    (
        "register-unfenced",
        "a copy that is registered",
        TWO_OWNERS,
        "A' starts its guest in p",
    ),
    ("claim-before-all-registered", "another etcd", TWO_OWNERS, "B leases from p"),
    ("forget-unfenced", "a host that is given up", NOT_OURS, "a person says that A is gone"),
]


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_goes_wrong(name: str) -> None:
    found = search(WORLDS[name])
    assert found.violation is None, found.way


@pytest.mark.parametrize(("rule", "world", "wrong", "last"), NEEDED, ids=[n[0] for n in NEEDED])
def test_each_rule_is_needed(rule: str, world: str, wrong: str, last: str) -> None:
    found: Found = search(WORLDS[world], frozenset({rule}))
    assert found.violation is not None
    assert found.violation.endswith(wrong)
    assert found.way[-1] == last


def test_with_a_ttl_two_hosts_have_one_block() -> None:
    """The host that was cut off knows nothing of it, and its guest runs on."""
    found = search(WORLDS["time passes"], frozenset({"ttl"}), two_owners)
    assert found.violation == TWO_OWNERS
    assert [step for step in found.way if "time" in step or "leases" in step] == [
        "A leases from p",
        "time frees p",
        "B leases from p",
    ]


def test_a_person_who_says_so_of_a_host_that_runs_gives_its_blocks_to_two() -> None:
    """Nothing in the cluster can see it: that is what `--yes` is for."""
    found = search(WORLDS["a host that is given up"], frozenset({"forget-unfenced"}), two_owners)
    assert found.violation == TWO_OWNERS


def test_who_is_registered_with_another_etcd_too_late_is_refused() -> None:
    """A block has been claimed there: its first host leases no more from it. Its guests run on."""
    late = "claim-before-all-registered"
    assert search(WORLDS["another etcd"], frozenset({late}), not_own).violation is None
    found = search(WORLDS["another etcd"], frozenset({late, "register-without-compare"}), not_own)
    assert found.violation == NOT_OURS
    assert any(step.endswith("is registered") for step in found.way)


def test_every_rule_is_left_out_once() -> None:
    others = {"ttl", "register-without-compare"}
    assert {rule for rule, *_ in NEEDED} | others == RULES
