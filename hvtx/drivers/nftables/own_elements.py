"""The elements of our own tables as the kernel has them, compared with rows as bytes.

Nearly all elements of a host are of VMs that run, and just as their rows call for. Those are never
written out as :class:`hvtx.model.resource.Entry`; whatever is not so is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from hvtx.drivers.nftables.ruleset import BACKEND
from hvtx.host.nfbulk import Bulk
from hvtx.host.nfttext import renderer
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.mark import FAMILY as MARKED
from hvtx.model.place import nft_place
from hvtx.model.resource import Entry, Resource
from hvtx.rulesets.nftables_elements import unplaced

_Set = dict[bytes, tuple[bytes, bytes]]  # key -> data, comment
_NO_SET: _Set = {}
_SPECIAL = frozenset({"base", "passage", "pass", "imported"})  # rows that elements do not stand for


class OwnElements:
    """Elements by set and key; see :meth:`hvtx.drivers.base.CommonDriver.observe_bulk`."""

    def __init__(self, table: str) -> None:
        """Hold none yet, of the table of this name."""
        self._table = table
        self._sets: dict[tuple[str, str], _Set] = {}
        self._carried: Counter[bytes] = Counter()

    def add(self, family: str, name: str, found: Bulk) -> bool:
        """Keep the elements of a set; False if a key is there twice, so that others may lack."""
        there = dict(zip(found.keys, zip(found.data, found.comments, strict=True), strict=True))
        self._sets[family, name] = there
        self._carried.update(found.comments)
        return len(there) == len(found.keys)

    def marks(self) -> set[str]:
        """The marks that elements carry."""
        return {mark for comment in self._carried if (mark := _mark(comment)) is not None}

    def are_just(self, spec: FirewallSpec, mark: str) -> bool:
        """Whether a row's elements are all there, unchanged, and no other has its mark."""
        if spec["what"] in _SPECIAL:
            return False
        wanted, comment, sets = unplaced(spec), mark.encode(), self._sets
        if self._carried[comment] != len(wanted) or not wanted:
            return False
        for family, _, name, key, data, *_ in wanted:
            if sets.get((family, name), _NO_SET).get(key) != (data, comment):
                return False
        return True

    def holders(self, row: Resource) -> Iterator[str]:
        """The marks of what stands where a row's elements belong, its own included."""
        spec = firewall_spec(row)
        if spec["what"] in _SPECIAL:
            return
        for family, _, name, key, *_ in unplaced(spec):
            there = self._sets.get((family, name), _NO_SET).get(key)
            mark = there and _mark(there[1])
            if mark:
                yield mark

    def entries(
        self, *, but: Collection[str] = (), only: Iterable[str] | None = None
    ) -> list[Entry]:
        """The elements as entries: all but those with these marks, or those with these marks."""
        left_out = {mark.encode() for mark in but}
        wanted = None if only is None else {mark.encode() for mark in only}
        found = []
        for (family, name), there in self._sets.items():
            where, write = nft_place(family, self._table, name), renderer(family, name)
            for key, (data, comment) in there.items():
                if comment in left_out or (wanted is not None and comment not in wanted):
                    continue
                found.append(Entry(BACKEND, where, write(key, data), _mark(comment)))
        return found


def _mark(comment: bytes) -> str | None:
    text = comment.decode(errors="replace")
    return text if text.startswith(MARKED) else None
