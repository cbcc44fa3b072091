"""The static part of egress policies: where its chains lead, and what they are given."""

from __future__ import annotations

import re

from hvtx.rulesets.iptables_rules import GUARDS
from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_egress import ALLOWED, CHAINS, NAMED, SETS, UNDECIDED
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
    for owner, rule in zip(NAMED, unnamed.rules[3:], strict=True):
        assert f"@{owner}_named meta mark set meta mark & {0xFFFFFFFF & ~sum(bits):#x}" in rule
        [heeded] = [r for c in CHAINS for r in c.rules if f"@{owner}_named oifname" in r]
        assert f"meta mark & {NAMED[owner]} == {NAMED[owner]}" in heeded


def test_what_is_undecided_is_so_from_the_policies_to_right_behind_the_drops_of_iptables() -> None:
    """Nobody else's bit opens or shuts anything of guests', who all come and are met by a bridge."""
    bit = int(UNDECIDED, 16)
    assert bit & (sum(int(each, 16) for each in NAMED.values()) | 0x30000000) == 0
    assert UNDECIDED not in ALLOWED
    chains = {chain.name: chain for chain in CHAINS}
    inet = {chain.name: chain for chain in SKELETONS["inet"].chains}
    order = [
        int(inet[name].hook.split()[5].strip(";")) for name in ("unnamed", "egress", "forward")
    ]
    assert ("mangle", "FORWARD") in GUARDS
    assert order[0] < order[1] < -150 < order[2]
    known, asked, *_ = inet["forward"].rules
    assert known == "ct state established,related accept"  # whose bits are none of ours
    assert asked.endswith('meta iifkind "bridge" jump decided')
    two = bit | 0x20000000
    any_of_these = two | sum(int(each, 16) for each in NAMED.values())
    first, came, left, *_ = chains["unnamed"].rules
    assert first == f"meta mark & {any_of_these:#x} == 0 accept"
    off = f"meta mark set meta mark & {0xFFFFFFFF & ~two:#x}"
    assert came == f'ct state new,invalid,untracked meta iifkind "bridge" {off}'
    assert left == f'ct state new,invalid,untracked meta oifkind "bridge" {off}'
    off = f"meta mark set meta mark & {0xFFFFFFFF & ~bit:#x}"
    assert chains["decided"].rules == ("ct status dnat goto refuse", off)
    for name in ("internet", "none"):  # each way through ends at what is decided later
        assert chains[name].rules[-1] in ("goto world", "goto elsewhere")


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
