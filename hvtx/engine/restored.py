"""Detection of a restored ruleset: rules that an earlier life of the host had made.

No row of now tells of it, and it stands in the way of what is to be built. Asked is only the
firewall, of the marks that it holds; what is to be done about it is decided from a snapshot of the
whole host (:mod:`hvtx.engine.resolve`).
"""

from __future__ import annotations

from hvtx.engine.runtime import Runtime
from hvtx.engine.seen_host import firewall_entries
from hvtx.store import records


def is_restored(runtime: Runtime) -> bool:
    """Whether anything in a firewall carries the mark of a row of another life than this one.

    What a firewall that cannot be read holds is told by whoever needs it. Raises Refused.
    """
    # first the firewall, then the record: a row stands there before what carries its mark
    entries, _ = firewall_entries(runtime, {})
    marks = {entry.mark for entry in entries if entry.mark is not None}
    return runtime.read(records.are_of_earlier_lives, sorted(marks), runtime.life.id)
