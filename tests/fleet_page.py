"""The configurations of docs/fleet.md, by the file that the page says they stand in."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[1] / "docs/fleet.md").read_text()
FILES = {
    name: (language, text)
    for name, language, text in re.findall(r"(?ms)^`([^`\n]+)`:\n\n```(\w+)\n(.*?)^```$", PAGE)
}


def text(name: str) -> str:
    """What stands in a file."""
    return FILES[name][1]


def template(name: str, blocks: list[str]) -> str:
    """A template of containerd's, for a node with these blocks: what of Go's templates it uses."""
    each = r"{{range \$i, \$cidr := \.PodCIDRRanges}}{{if \$i}}(?P<between>.*?){{end}}(?P<one>.*?){{end}}"
    return re.sub(
        each,
        lambda found: found["between"].join(
            found["one"].replace("{{$cidr}}", block) for block in blocks
        ),
        text(name),
    )


def lines(title: str, word: str) -> list[str]:
    """The commands of a section that begin with a word, in its blocks and in its sentences."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(rf"(?m)^{word} .*$|(?<=`){word} [^`\n]*(?=`)", section)
