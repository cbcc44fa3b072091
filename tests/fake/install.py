"""The one place where the fake kernel takes the real one's: a table of names, and its undoing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hvtx.engine.passages import Chains
from hvtx.planner.forwarding import Others
from hvtx.store.database import Store
from tests.fake.host import doors
from tests.fake.kernel import Kernel


def _others(kernel: Kernel) -> dict[str, Any]:
    """What is neither kernel nor driver: where a run of hvtx decides by looking around."""
    transaction = Store.transaction

    def alive_only(store: Store) -> Any:
        kernel.alive()  # the dead commit nothing, whatever their cleanups try
        return transaction(store)

    return {
        "hvtx.store.database.Store.transaction": alive_only,
        "hvtx.engine.privileges.tun_problem": lambda: None,
        "hvtx.engine.privileges.legacy_problem": lambda: None,
        "hvtx.engine.seen_host.legacy_tables": lambda: False,
        "hvtx.host.xtnames.legacy_tables": lambda: False,
        "hvtx.engine.others_filters.there_may_be": lambda _: False,
        "hvtx.engine.passages.chains_now": lambda: Chains({}),
        "hvtx.engine.forwarding.look": lambda: Others((), (), (), (), ()),
        "hvtx.host.flows._MOST": "/nonexistent",
        "os.urandom": kernel.random.randbytes,
    }


@contextmanager
def installed(kernel: Kernel) -> Iterator[None]:
    """Let the program of this process see ``kernel`` instead of the host's own."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for name, new in {**doors(kernel), **_others(kernel)}.items():
            holder, attribute = _holder(name)
            before.append((holder, attribute, getattr(holder, attribute)))
            setattr(holder, attribute, new)
        yield
    finally:
        for holder, attribute, old in reversed(before):
            setattr(holder, attribute, old)


def _holder(name: str) -> tuple[Any, str]:
    """The module or class that a dotted name's last part belongs to."""
    path, _, attribute = name.rpartition(".")
    try:
        return import_module(path), attribute
    except ModuleNotFoundError:
        outer, _, inner = path.rpartition(".")
        return getattr(import_module(outer), inner), attribute
