"""The static part of egress policies: where its chains lead, and what they are given."""

from __future__ import annotations

import re

from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_egress import CHAINS, NAMED, SETS
from hvtx.rulesets.nftables_elements import unplaced

NAMES = {chain.name for chain in SKELETONS["inet"].chains}


def test_every_jump_leads_to_a_chain_that_stands_before_or_after() -> None:
    for chain in CHAINS:
        for rule in chain.rules:
            assert set(re.findall(r"(?:goto|jump) (\w+)", rule)) <= NAMES, rule
            assert set(re.findall(r"@(\w+)", rule)) <= SKELETONS["inet"].sets.keys(), rule


def test_a_known_flow_is_let_through_before_any_policy_is_asked() -> None:
    for name in ("egress", "input"):
        rules = next(chain.rules for chain in CHAINS if chain.name == name)
        known = rules.index("ct state established,related accept")
        assert not any("vmap" in rule for rule in rules[:known])


def test_bits_of_names_are_taken_off_before_any_table_of_names_sets_them() -> None:
    """Those that others set would open the world to who has a rule about a name."""
    unnamed = next(chain for chain in CHAINS if chain.name == "unnamed")
    assert "hook forward priority -162" in unnamed.hook
    bits = [int(bit, 16) for bit in NAMED.values()]
    assert bits[0] & bits[1] == 0
    for owner, rule in zip(NAMED, unnamed.rules[1:], strict=True):
        assert f"@{owner}_named meta mark set meta mark & {0xFFFFFFFF & ~sum(bits):#x}" in rule
        [heeded] = [r for c in CHAINS for r in c.rules if f"@{owner}_named oifname" in r]
        assert f"meta mark & {NAMED[owner]} == {NAMED[owner]}" in heeded


def test_every_policy_leads_to_chains_that_are_there() -> None:
    for mac in ({}, {"mac": "02:00:00:00:00:01"}):
        for mode in (None, "open", "internet", "none"):
            for rules in ([], [["allow", "192.0.2.1/32", None, None, None]]):
                spec = {"what": "egress", "bridge": "br0", "alone": False, "egress": mode, **mac}
                if mode is None and not mac:
                    continue
                for piece in unplaced({**spec, "rules": rules}):  # type: ignore[typeddict-item]
                    assert piece.set in SETS
                    led = re.search(rb"\x02\x00([a-z_]+)\x00", piece.data)
                    assert not piece.data or (led and led[1].decode() in NAMES)
