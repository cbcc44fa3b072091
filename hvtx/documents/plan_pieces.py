"""``hvtx/gc/1`` as text, piece by piece: a plan of 5,000 VMs has 13 MB of it.

To the letter what :func:`hvtx.documents.encoding.to_json` makes of :func:`hvtx.documents.plan.
document`. The items of VMs that are left alone all have one form, in which the words are put.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hvtx.documents.encoding import quoted, to_json
from hvtx.documents.plan import head, item_of
from hvtx.model.plan import Items, LeftAlone
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx.engine.gc_plan import Report
    from hvtx.model.plan import Item

_AT_ONCE = 500  # items, or VMs, in a piece
_NOTHING = '"items": []'
_LINE, _DEEPER = "\n    ", "\n        "


def pieces(report: Report) -> Iterator[str]:
    """What ``gc --plan --json`` prints (`hvtx.cli.verbs`), with an indentation of two."""
    before, nothing, after = to_json(head(report), indent=2).partition(_NOTHING)
    if not report.plan.items:
        yield before + nothing + after
        return
    yield before + '"items": ['
    lead = _LINE
    for piece in _in_pieces(_items(report)):
        yield lead + piece
        lead = "," + _LINE
    yield "\n  ]" + after


def _in_pieces(texts: Iterable[str]) -> Iterator[str]:
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == _AT_ONCE:
            yield f",{_LINE}".join(some)
            some.clear()
    if some:
        yield f",{_LINE}".join(some)


def _items(report: Report) -> Iterator[str]:
    """The text of each item, or of all items of a VM."""
    items = report.plan.items
    if not isinstance(items, Items):
        for item in items:
            yield _text(item, report)
        return
    for part in items.parts():
        if isinstance(part, LeftAlone):
            yield f",{_LINE}".join(_alone(part, items, report))
        else:
            yield _text(part, report)


def _text(item: Item, report: Report) -> str:
    return to_json(item_of(item, report), indent=2).replace("\n", _LINE)


def _alone(vm: LeftAlone, items: Items, report: Report) -> Iterator[str]:
    """The items of a VM that is left alone: of its first one as of any, of the others in form."""
    form: tuple[str, ...] | None = None
    for item in items.of(vm):
        if not item.evidence:
            yield _text(item, report)
            continue
        if form is None:
            form = _form(item, report)
        kind, evidence = quoted(item.kind), f",{_DEEPER}".join(map(quoted, item.evidence))
        mark, row = quoted(item.mark or ""), str(item.row)
        a, b, c, d, e = form
        yield f"{a}{kind}{b}{quoted(item.key)}{c}{row}{d}{evidence}{e}{mark}{_LINE}}}"


def _form(item: Item, report: Report) -> tuple[str, ...]:
    """What stands between the words in which items of a VM that is left alone differ."""
    sample = {**item_of(item, report), "kind": 1, "key": 2, "evidence": [3], "mark": 5}
    sample["record"] = {**sample["record"], "id": 4}
    text = to_json(sample, indent=2).replace("\n", _LINE)
    found = []
    for start, end in (("kind", 1), ("key", 2), ("id", 4)):
        before, _, text = text.partition(f'"{start}": {end},')
        found.append(f'{before}"{start}": ')
        text = "," + text
    before, _, text = text.partition(f"[{_DEEPER}3{_LINE}  ]")
    found.append(f"{before}[{_DEEPER}")
    before, _, _ = text.partition('"mark": 5')
    found.append(f'{_LINE}  ]{before}"mark": ')
    return tuple(found)
