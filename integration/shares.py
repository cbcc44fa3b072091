"""How the tests are shared out among processes: by files, as tests of a file may follow upon each other.

Files of many long tests that know nothing of each other are handed out test by test, at the end.
"""

from __future__ import annotations

from typing import Any

# Begun first, the longest at the head: begun last, one process would be busy with it alone.
LONG = (
    "test_boot", "test_demo", "test_neighbourhood", "test_snapshots", "test_guests_network", "test_concurrency",
    "test_vm_states", "test_policy_routing", "test_flows", "test_guest_state", "test_preemption", "test_model_replay",
    "test_vm_apply",
)  # fmt: skip
SINGLE = frozenset(("test_failpoints", "test_errnos", "test_syscalls"))


def turn(name: str, place: dict[str, int]) -> tuple[bool, int]:
    """When the tests of a file come; ``place`` is that of each in :data:`LONG`."""
    return name in SINGLE, place.get(name, len(place))


def share(nodeid: str) -> str:
    """What goes to one process together: a file, or a test of one that is handed out singly."""
    file = nodeid.partition("::")[0]
    name = file.rpartition("/")[2].removesuffix(".py")
    return nodeid if name in SINGLE else file


def scheduler(config: Any, log: Any) -> Any:
    """pytest-xdist's own by scopes, with :func:`share` for the scope, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByShares(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return share(nodeid)

    config.option.loadscopereorder = False
    return ByShares(config, log)
