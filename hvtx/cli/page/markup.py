"""Elements of a page. All text passes through here and is escaped when the tree is written.

The standard library's ElementTree does it: there is no way to put text into it as markup, which is
why the page needs neither a template engine nor an ``escape()`` that one could forget.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def tag(kind: str, /, *children: Child | Iterable[Child], **attributes: str | float) -> Element:
    """An element; ``class_`` is ``class``, ``stroke_width`` ``stroke-width``. None is left out."""
    element = Element(
        kind, {key.rstrip("_").replace("_", "-"): visible(v) for key, v in attributes.items()}
    )
    for child in children:
        add(element, child)
    return element


def add(element: Element, child: Child | Iterable[Child]) -> None:
    """Put a child, or several, at the end of an element."""
    if child is None:
        return
    if isinstance(child, str):
        text = visible(child)
        if len(element):
            element[-1].tail = (element[-1].tail or "") + text
        else:
            element.text = (element.text or "") + text
    elif isinstance(child, Element):
        element.append(child)
    else:
        for inner in child:
            add(element, inner)


def visible(value: object) -> str:
    """Text as a person can read it.

    Control characters, turned writing and halves of surrogate pairs are shown as Python escapes,
    so that no name looks like another or hides a part of itself.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )


def name(text: str, **attributes: str) -> Element:
    """A name that somebody chose: its writing direction stays its own."""
    return tag("bdi", text, **attributes)


def write(root: Element, style: str) -> str:
    """The page as text; ``style`` is the style sheet, the only text that is not escaped."""
    sheet = Element("style")
    sheet.text = style
    head = root.find("head")
    assert head is not None
    head.append(sheet)
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
