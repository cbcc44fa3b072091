"""Whether anything new could be put on record: what a change would be refused for at once.

Reading commands meet none of it, and nothing is written here.
"""

from __future__ import annotations

from hvtx.engine.checks.directories import check_directories
from hvtx.engine.runtime import Settings
from hvtx.errors import StoreError
from hvtx.store import reserve
from hvtx.store.errors import too_full


def refuse_unwritable(settings: Settings, *, exists: bool) -> None:
    """Raise StoreError where nothing new can be put on record; ``exists``: the store does."""
    for found in check_directories(settings):
        if found.level == "error":
            raise StoreError(found.message, hint=found.hint)
    if not reserve.may_begin(settings.state_directory, exists=exists):
        raise too_full(settings.state_directory)
