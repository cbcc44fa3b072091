"""The pictures themselves; ``scripts/screens`` starts it as root in namespaces made for it.

    python screens.py DIRECTORY

Commands run on a real terminal of 80 columns; what they print there is drawn by rich. The page is
looked at by a browser.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from integration import lab
from integration.lab import browser, example_host
from integration.lab.program import Program

COLUMNS = 80
# rich's own drawing fetches a font from elsewhere; this one takes what the reader has.
FONT = '{char_height}px ui-monospace, "DejaVu Sans Mono", monospace'
SIZE = 'width="{terminal_width}" height="{terminal_height}"'
BOX = 'viewBox="0 0 {terminal_width} {terminal_height}"'
FORMAT = f"""<svg xmlns="http://www.w3.org/2000/svg" {BOX}>
<style>
.{{unique_id}}-matrix {{{{ font: {FONT}; line-height: {{line_height}}px; }}}}
{{styles}}
</style>
<defs><clipPath id="{{unique_id}}-clip-terminal"><rect x="0" y="0" {SIZE}/></clipPath>
{{lines}}</defs>
<rect fill="#292929" {SIZE} rx="8"/>
<g transform="translate(9 9)">{{backgrounds}}<g class="{{unique_id}}-matrix">{{matrix}}</g></g>
</svg>
"""


def typed(*argv: str) -> str:
    """What a command prints on a terminal, with its colours."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 200, COLUMNS, 0, 0))
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
    ):  # fmt: skip
        os.close(slave)
        pieces = []
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:  # the terminal's other end is closed
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(master)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def draw(to: Path, *commands: str) -> None:
    """Commands with what they print, as one drawing."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text(f"# {command}", style="bold"))
        console.print(Text.from_ansi(typed(*command.split())))
    to.write_text(console.export_svg(title="", code_format=FORMAT, unique_id=to.stem))


def main(directory: str) -> int:
    """Make the host, look at it, and write the pictures."""
    to = Path(directory)
    hvtx = Program()
    other = Program(HVTX_STATE_DIR="/run/lib/other", HVTX_RUN_DIR="/run/other")
    example_host.plant_strangers()
    example_host.furnish(hvtx, other=other)
    draw(to / "plan.svg", "hvtx gc --plan")
    draw(
        to / "explain.svg",
        f"hvtx explain {hvtx.device('db')}",
        "hvtx explain docker0",
        "hvtx explain 6379",
    )
    page = Path("/run/plan.html")
    hvtx("gc", "--plan", "--html", str(page))
    browser.screenshot(page, to / "page.png", width=1000, height=1150)
    browser.screenshot(page, to / "page-dark.png", width=1000, height=1150, scheme="dark")
    example_host.drop_forwarding()
    draw(to / "doctor.svg", "hvtx doctor")
    draw(to / "applied.svg", "hvtx gc --apply")
    lab.run("ip", "link", "show", "tap-foo")  # nothing of others' has gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
