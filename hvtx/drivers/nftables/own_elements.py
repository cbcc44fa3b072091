"""The elements of our own tables as the kernel has them, compared with rows as bytes.

Nearly all elements of a host are of VMs that run, and just as their rows call for. Those are never
written out as :class:`hvtx.model.resource.Entry`; whatever is not so is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from operator import add

from hvtx.drivers.nftables.ruleset import BACKEND
from hvtx.host.nfbulk import Bulk
from hvtx.host.nfttext import renderer
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.mark import FAMILY as MARKED
from hvtx.model.place import nft_place
from hvtx.model.resource import Entry, Resource
from hvtx.rulesets.nftables_elements import raw_pieces

_SPECIAL = frozenset({"base", "passage", "pass", "imported"})  # rows that elements do not stand for
_NO_KEYS: dict[bytes, bytes] = {}


class OwnElements:
    """Elements by set and key; see :meth:`hvtx.drivers.base.CommonDriver.observe_bulk`.

    All are in one dictionary: the number of its set, key and data of an element, to its comment.
    """

    def __init__(self, table: str) -> None:
        """Hold none yet, of the table of this name."""
        self._table = table
        self._sets: dict[tuple[str, str], Bulk] = {}
        self._numbers: dict[tuple[str, str], bytes] = {}
        self._comments: dict[bytes, bytes] = {}
        self._by_key: dict[tuple[str, str], dict[bytes, bytes]] = {}
        self._carried: Counter[bytes] = Counter()

    def add(self, family: str, name: str, found: Bulk) -> bool:
        """Keep the elements of a set; False if a key is there twice, so that others may lack."""
        number = len(self._sets).to_bytes(2, "big")
        self._sets[family, name] = found
        self._numbers[family, name] = number
        whole = map(number.__add__, map(add, found.keys, found.data))
        self._comments.update(zip(whole, found.comments, strict=True))
        self._carried.update(found.comments)
        return len(set(found.keys)) == len(found.keys)

    def marks(self) -> set[str]:
        """The marks that elements carry."""
        return {mark for comment in self._carried if (mark := _mark(comment)) is not None}

    def are_just(self, spec: FirewallSpec, mark: str) -> bool:
        """Whether a row's elements are all there, unchanged, and no other has its mark."""
        if spec["what"] in _SPECIAL:
            return False
        comment, numbers, there = mark.encode(), self._numbers, self._comments.get
        wanted = raw_pieces(spec)
        carried = {
            there(numbers.get((family, name), b"") + key + data)
            for family, _, name, key, data, _, _, _ in wanted
        }
        return carried == {comment} and self._carried[comment] == len(wanted)

    def holders(self, row: Resource) -> Iterator[str]:
        """The marks of what stands where a row's elements belong, its own included."""
        spec = firewall_spec(row)
        if spec["what"] in _SPECIAL:
            return
        for family, _, name, key, *_ in raw_pieces(spec):
            comment = self._keys(family, name).get(key)
            mark = _mark(comment) if comment is not None else None
            if mark is not None:
                yield mark

    def _keys(self, family: str, name: str) -> dict[bytes, bytes]:
        """The comments of a set's elements by their keys."""
        if (family, name) not in self._by_key:
            found = self._sets.get((family, name))
            own = dict(zip(found.keys, found.comments, strict=True)) if found else _NO_KEYS
            self._by_key[family, name] = own
        return self._by_key[family, name]

    def entries(
        self, *, but: Collection[str] = (), only: Iterable[str] | None = None
    ) -> list[Entry]:
        """The elements as entries: all but those with these marks, or those with these marks."""
        left_out = {mark.encode() for mark in but}
        wanted = None if only is None else {mark.encode() for mark in only}
        found = []
        for (family, name), columns in self._sets.items():
            where, write = nft_place(family, self._table, name), renderer(family, name)
            for key, data, comment in zip(*columns, strict=True):
                if comment in left_out or (wanted is not None and comment not in wanted):
                    continue
                found.append(Entry(BACKEND, where, write(key, data), _mark(comment)))
        return found


def _mark(comment: bytes) -> str | None:
    text = comment.decode(errors="replace")
    return text if text.startswith(MARKED) else None
