"""Taking over what others made: from my-hypervisor's ``state.json``, or on a person's word. Pure.

That tool writes one ``state.json`` per VM. Newer ones hold ``network_ownership`` with the TAP, its
bridge, the guest's address and the firewall rules in delete form; older ones say nothing of the
network, so nothing of theirs can be proven. The names of the fields differed between its versions;
the ones that are known: listed here, and what was found under which name is reported.

Nothing is believed for being written there: a device counts if it is just as described, carries no
alias and is held by that VM's process or by none; a rule if it is there exactly once, word for
word, and speaks of that VM. The pid counts as the VM's process only if it holds the VM's device.

`hvtx adopt` makes a claim for a single thing, for which an operator vouches: then it need not be as
somebody described it, nor speak of the VM. All else holds: it must be one thing that can be told
from all others, nobody's by its mark, and in nobody's use but the VM's.
"""

from hvtx.planner.adoption.claims import (
    OPERATOR,
    TOOL,
    AdoptFacts,
    Claim,
    Finding,
    Verdict,
    Why,
    by_own_names,
)
from hvtx.planner.adoption.deletion import Deletion, parse_deletion
from hvtx.planner.adoption.state_json import NotAState, parse_state
from hvtx.planner.adoption.verdicts import bare_text, judge, kind_of, operator_claim, vm_id, vm_name

__all__ = [
    "OPERATOR",
    "TOOL",
    "AdoptFacts",
    "Claim",
    "Deletion",
    "Finding",
    "NotAState",
    "Verdict",
    "Why",
    "bare_text",
    "by_own_names",
    "judge",
    "kind_of",
    "operator_claim",
    "parse_deletion",
    "parse_state",
    "vm_id",
    "vm_name",
]
