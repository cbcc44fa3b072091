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
