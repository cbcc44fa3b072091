"""`store backup` and `store restore`: what a path is that can be neither, before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.commands import store_backup
from hvtx.errors import Conflict, HvtxError, NotFound, UsageError

# A path below a file, a name that is too long, a loop of links, a directory, a file of the store.
ODD = [
    ("file/x", NotFound, "name a file in a directory that is there", NotFound),
    ("n" * 300, UsageError, "name another file", UsageError),
    ("loop", UsageError, "name another file", UsageError),
    ("state", UsageError, "name a new file", UsageError),
    ("state/hvtx.db-wal", UsageError, "name another file", None),
    ("state/queue.lock", UsageError, "name another file", None),
    ("state/hvtx.db", UsageError, "name another file", UsageError),
    ("file", Conflict, "name another file, or overwrite it", None),
]


@pytest.mark.parametrize(("name", "kind", "hint", "read"), ODD)
def test_an_odd_path_has_words_of_its_own(
    tmp_path: Path, name: str, kind: type[HvtxError], hint: str, read: type[HvtxError] | None
) -> None:
    """A user of root's is not told to become root, and no other program is blamed."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "state").mkdir()
    for own in ("hvtx.db", "hvtx.db-wal", "queue.lock"):
        (tmp_path / "state" / own).write_text("its own")
    store, path = str(tmp_path / "state" / "hvtx.db"), str(tmp_path / name)
    with pytest.raises(kind) as caught:
        store_backup._target(path, store, force=False)
    assert (caught.value.hint or "").startswith(hint)
    if kind is UsageError:
        with pytest.raises(UsageError):
            store_backup._target(path, store, force=True)
    if read is not None:
        with pytest.raises(read) as caught:
            store_backup._need_backup(path, store)
        assert "backup" in (caught.value.hint or "")
