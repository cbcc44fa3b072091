"""What is said of the tables beside them is what they are."""

from __future__ import annotations

from hvtx.rulesets import nftables_layout
from hvtx.rulesets.nftables_base import SKELETONS, hook_of, layout


def test_what_is_said_of_the_tables_is_what_they_are() -> None:
    """Where the tables change, this says what has to stand in nftables_layout.py."""
    wanted = {
        "FAMILIES": tuple(SKELETONS),
        "LAYOUTS": {family: layout(family) for family in SKELETONS},
        "SETS": {family: tuple(each.sets) for family, each in SKELETONS.items()},
        "HOOKS": {
            (family, chain.name): hook_of(chain.hook)
            for family, each in SKELETONS.items()
            for chain in each.chains
        },
    }
    for name, value in wanted.items():
        assert getattr(nftables_layout, name) == value, f"{name} = {value!r}"
    passing = {name for _, name in nftables_layout.PASSING}
    assert passing <= {name for names in nftables_layout.SETS.values() for name in names}
