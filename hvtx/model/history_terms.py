"""Terms of the history: verbs of operations, events, kinds and reasons.

A test holds each list against what the code writes (tests/model/test_history_terms.py).
"""

from __future__ import annotations

from hvtx.model.reason import Reason
from hvtx.model.resource import Kind

VERBS = (
    *("create", "run", "start", "stop", "set", "rm", "attach"),
    *("network-create", "network-rm", "rebuild"),
    *("cni-add", "cni-del", "cni-gc"),
    *("gc", "heuristic", "recover", "resolve", "repair", "import", "adopt", "restore"),
    *("claim", "release", "cluster-forget", "cluster-register"),  # of blocks of a cluster
)
EVENTS = (
    *(
        "began",
        "intended",
        "made",
        "changed",
        "removed",
        "kept",
        "skipped",
        "forgotten",
        "completed",
    ),
    *("repaired", "attached", "imported", "restored", "registered", "failed"),
)
KINDS = (*(kind.value for kind in Kind), "device", "rule")
REASONS = (
    *(reason.value for reason in Reason),
    *("stop", "rm", "cni-del", "network-rm", "undone"),  # why a command itself removed something
    *("failed", "not-permitted", "host-refused", "busy", "store"),  # why something stayed
)
WORDS = {"verb": VERBS, "event": EVENTS, "kind": KINDS, "reason": REASONS}
