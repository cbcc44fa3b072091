"""A real browser without a screen: Debian's chromium, offline, with a profile that is thrown away."""

from __future__ import annotations

import html
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars", "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
_SCHEMES = {"dark": "0", "light": "1"}


def program() -> str:
    """The browser; skips the test where there is none, which CI may be on Ubuntu only (it has a snap)."""
    found = shutil.which("chromium")
    if found is None:
        assert _is_ubuntu() or not os.environ.get("CI"), "chromium is missing, and CI skips nothing"
        pytest.skip("no chromium (apt-get install chromium)")
    return found


def _is_ubuntu() -> bool:
    return platform.freedesktop_os_release().get("ID") == "ubuntu"


def _run(page: Path, *more: str, width: int, height: int, scheme: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [
                program(), *_QUIET, f"--user-data-dir={home}/profile", f"--window-size={width},{height}",
                f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}", *more, page.as_uri(),
            ],
            capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": home, "XDG_RUNTIME_DIR": home},
        )  # fmt: skip
    return done.stdout


def dom(page: Path, *, width: int = 1200, height: int = 900, scheme: str = "light") -> str:
    """The document as the browser has it once the page is loaded."""
    return _run(page, "--dump-dom", width=width, height=height, scheme=scheme)


def screenshot(
    page: Path, to: Path, *, width: int = 1200, height: int = 900, scheme: str = "light"
) -> bytes:
    """The page as a picture (PNG)."""
    _run(page, f"--screenshot={to}", width=width, height=height, scheme=scheme)
    return to.read_bytes()


def ask(page: Path, script: str, **how: Any) -> Any:
    """What an expression of JavaScript says in the page, without the policy that forbids scripts."""
    text = page.read_text(encoding="utf-8")
    bare, found = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert found == 1
    probe = f"""<pre id="answer"></pre><script>
        document.getElementById("answer").textContent = JSON.stringify((() => {{ {script} }})());
    </script></body>"""
    copy = page.with_name(f"probed-{page.name}")
    copy.write_text(bare.replace("</body>", probe), encoding="utf-8")
    said = re.search(r'<pre id="answer">(.*?)</pre>', dom(copy, **how), re.DOTALL)
    assert said, "the page did not answer"
    return json.loads(html.unescape(said[1]))
