"""Whether a chain of others drops what nobody decided, and where an accept of ours belongs. Pure.

Only the end of a built-in chain is answered: its policy, or a rule without a condition that drops
or rejects, which is a policy in other words (ufw and the filters of Red Hat have it so). What
stands before that end are explicit drops of somebody, and they hold (docs/adr/0029, 0047).

ufw drops some packets earlier, so that it need not log them: DHCP and broadcasts go from
`ufw-after-input` to a chain `ufw-skip-to-policy-input`, which does what its default does. That is
the policy too, so an accept of ours belongs before it, unless somebody drops something there.
"""

from __future__ import annotations

from hvtx.model.filter_chain import ChainRule, Does, FilterChain
from hvtx.model.mark import FAMILY


def end_of(chain: FilterChain) -> tuple[int, bool]:
    """Where a chain ends (an index into its rules), and whether what comes there is dropped."""
    end, drops = _last_of(chain)
    return (_first_policy(chain, end) if drops else end), drops


def _last_of(chain: FilterChain) -> tuple[int, bool]:
    for number, rule in enumerate(chain.rules):
        if rule.does is Does.DROP or (rule.does is Does.JUMP and _only_drops(chain, rule.leads)):
            return number, True
        if rule.does is Does.ACCEPT:
            return number, False
        if rule.does is Does.RETURN:
            return number, chain.drops
    return len(chain.rules), chain.drops


def _first_policy(chain: FilterChain, end: int) -> int:
    """The first rule that drops by the policy alone, where nobody drops otherwise behind it."""
    for number in reversed(range(end)):
        rule = chain.rules[number]
        if (rule.mark or "").startswith(FAMILY):
            continue
        within = chain.others.get(rule.leads, ()) if rule.does is Does.JUMP else (rule,)
        if not all(_drops_nothing_more(chain, one) for one in within):
            break
        if any(one.does is Does.POLICY for one in within):
            end = number
    return end


def _drops_nothing_more(chain: FilterChain, rule: ChainRule) -> bool:
    """Whether a rule with a condition drops nothing, or what the policy drops as well."""
    if rule.does is Does.POLICY:
        return _only_drops(chain, rule.leads)
    return rule.does in (Does.NOTHING, Does.MAY_ACCEPT)


def _only_drops(chain: FilterChain, name: str) -> bool:
    """Whether a chain of users drops all, and decides nothing before (it may log)."""
    for rule in chain.others.get(name, ()):
        if rule.does is not Does.NOTHING:
            return rule.does is Does.DROP
    return False


def stands_behind(chain: FilterChain, mark: str) -> bool:
    """Whether a rule with a mark comes after the chain's end, so that it accepts too little."""
    end, _ = end_of(chain)
    return any(rule.mark == mark for rule in chain.rules[end:])


def in_place(chain: FilterChain, mark: str) -> bool:
    """Whether the rules with a mark come after all that others decide before the chain's end.

    What another network's or installation's passage accepts is no matter.
    """
    end, _ = end_of(chain)
    places = [n for n, rule in enumerate(chain.rules) if rule.mark == mark]
    if not places or max(places) > end:
        return False
    return all(
        (rule.mark or "").startswith(FAMILY) or rule.does is Does.NOTHING or _is_idle(chain, rule)
        for rule in chain.rules[min(places) : end]
    )


def _is_idle(chain: FilterChain, rule: ChainRule) -> bool:
    """Whether a rule jumps to a chain without any rule of its own that decides."""
    return rule.does is Does.JUMP and all(
        one.does is Does.NOTHING for one in chain.others.get(rule.leads, ())
    )
