"""Lists of pages and headings: the decisions, the contents of the how-to, the site, the index.

``HVTX_GOLDEN=write`` makes the first two.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DOCS = TOP / "docs"
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_ENTRIES = re.compile(r"(?:^- \[.*\]\(.*\)\n)+", re.MULTILINE)


def headings(page: Path) -> list[tuple[int, str]]:
    """Depth and words of each heading outside of fenced blocks."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(len(marks), words) for marks, words in _HEADING.findall(prose)]


def anchor(words: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it of plain words."""
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def holds(page: Path, entries: list[str]) -> None:
    """The first list of links of a page is this one; HVTX_GOLDEN=write puts it there."""
    text = page.read_text()
    wanted = "".join(f"- {entry}\n" for entry in entries)
    found = _ENTRIES.search(text)
    assert found, page
    if os.environ.get("HVTX_GOLDEN") == "write":
        page.write_text(text[: found.start()] + wanted + text[found.end() :])
        return
    assert found[0] == wanted, "run: HVTX_GOLDEN=write pytest tests/test_docs_lists.py"


def test_the_list_of_decisions_has_each() -> None:
    """docs/adr/README.md: number, title and file of each decision; the number is the file's."""
    entries = []
    for file in sorted((DOCS / "adr").glob("[0-9]*.md")):
        _, title = headings(file)[0]
        assert int(title.partition(". ")[0]) == int(file.name[:4]), file.name
        entries.append(f"[{title}]({file.name})")
    holds(DOCS / "adr/README.md", entries)


def test_the_contents_of_the_how_to_are_its_headings() -> None:
    titles = [words for depth, words in headings(DOCS / "howto.md") if depth == 2]
    holds(DOCS / "howto.md", [f"[{title}](#{anchor(title)})" for title in titles])


def test_every_page_is_in_the_site() -> None:
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    nav = (TOP / "scripts/site/mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert sorted(re.findall(r"\S+\.md$", nav, re.MULTILINE)) == sorted(there)


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)\)", (DOCS / "README.md").read_text()))
    there = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert there | {"adr/README.md"} <= linked


def test_links_to_headings_lead_to_one() -> None:
    """A heading whose anchor GitHub and MkDocs make differently is linked by nobody."""
    dead = []
    for page in [TOP / "README.md", TOP / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        for target, name in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
            where = (page.parent / target).resolve() if target else page
            if "://" not in target and name not in {anchor(w) for _, w in headings(where)}:
                dead.append(f"{page.relative_to(TOP)} -> {target}#{name}")
    assert not dead
