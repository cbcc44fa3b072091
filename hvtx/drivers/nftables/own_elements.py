"""The elements of our own tables as the kernel has them, compared with rows as bytes.

Nearly all elements of a host are of VMs that run, and just as their rows call for. Those are never
written out as :class:`hvtx.model.resource.Entry`; whatever is not so is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from operator import add

from hvtx.host.nfbulk import Bulk, comment_in
from hvtx.host.nfttext import rendered
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.mark import FAMILY as MARKED
from hvtx.model.place import nft_place
from hvtx.model.resource import Entry, Resource
from hvtx.rulesets.nftables_elements import unplaced
from hvtx.rulesets.nftables_layout import BACKEND
from hvtx.rulesets.nftables_numbered import number_of, numbered

_SPECIAL = frozenset({"base", "passage", "pass", "imported"})  # rows that elements do not stand for
_NO_KEYS: dict[bytes, bytes] = {}


class OwnElements:
    """Elements by set and key; see :meth:`hvtx.drivers.base.CommonDriver.observe_bulk`.

    All are in one dictionary: the number of its set, key and data of an element, to its tail, which
    is the comment as the kernel writes it.
    """

    def __init__(self, table: str) -> None:
        """Hold none yet, of the table of this name."""
        self._table = table
        self._sets: dict[tuple[str, str], Bulk] = {}
        self._tails: dict[bytes, bytes] = {}
        self._by_key: dict[tuple[str, str], dict[bytes, bytes]] = {}
        self._carried: Counter[bytes] = Counter()

    def add(self, family: str, name: str, found: Bulk) -> bool:
        """Keep the elements of a set; False if one is there twice, so that others may lack."""
        if not found.keys:
            return True
        self._sets[family, name] = found
        before = len(self._tails)
        whole: Iterable[bytes] = map(number_of(family, name).__add__, found.keys)
        if any(found.data):
            whole = map(add, whole, found.data)
        self._tails.update(zip(whole, found.tails, strict=True))
        self._carried.update(found.tails)
        return len(self._tails) - before == len(found.keys)

    def marks(self) -> Collection[str]:
        """The marks that elements carry."""
        return self._marks.keys()

    @cached_property
    def _marks(self) -> dict[str, bytes]:
        """The tails by the marks in them."""
        return {mark: tail for tail, mark in self._marked.items()}

    @cached_property
    def _marked(self) -> dict[bytes, str]:
        """The marks by the tails that they are in."""
        return {tail: mark for tail in self._carried if (mark := _mark(tail)) is not None}

    def differing(self, rows: Iterable[tuple[FirewallSpec, str]]) -> Iterator[str]:
        """The marks of those rows, by spec and mark, whose elements are not all there, unchanged.

        And of those whose mark others carry as well.
        """
        tails, there, carried = self._marks, self._tails.get, self._carried
        for spec, mark in rows:
            tail = tails.get(mark)
            if tail is None or spec["what"] in _SPECIAL:
                yield mark
                continue
            wanted = numbered(spec)
            if carried[tail] != len(wanted) or set(map(there, wanted)) != {tail}:
                yield mark

    def holders(self, row: Resource) -> Iterator[str]:
        """The marks of what stands where a row's elements belong, its own included."""
        spec = firewall_spec(row)
        if spec["what"] in _SPECIAL:
            return
        for piece in unplaced(spec):
            tail = self._keys(piece.family, piece.set).get(piece.key)
            mark = self._marked.get(tail) if tail is not None else None
            if mark is not None:
                yield mark

    def _keys(self, family: str, name: str) -> dict[bytes, bytes]:
        """The tails of a set's elements by their keys."""
        if (family, name) not in self._by_key:
            found = self._sets.get((family, name))
            own = dict(zip(found.keys, found.tails, strict=True)) if found else _NO_KEYS
            self._by_key[family, name] = own
        return self._by_key[family, name]

    def entries(
        self, *, but: Collection[str] = (), only: Iterable[str] | None = None
    ) -> list[Entry]:
        """The elements as entries: all but those with these marks, or those with these marks."""
        tails = self._marks
        left_out = {tails[mark] for mark in but if mark in tails}
        wanted = None if only is None else {tails[mark] for mark in only if mark in tails}
        found, marked = [], self._marked.get
        for (family, name), columns in self._sets.items():
            elements = [
                element
                for element in zip(*columns, strict=True)
                if (element[2] not in left_out if wanted is None else element[2] in wanted)
            ]
            where, texts = nft_place(family, self._table, name), rendered(family, name, elements)
            found += [
                Entry(BACKEND, where, text, marked(tail))
                for text, (_, _, tail) in zip(texts, elements, strict=True)
            ]
        return found


def _mark(tail: bytes) -> str | None:
    text = comment_in(tail)
    return text if text and text.startswith(MARKED) else None
