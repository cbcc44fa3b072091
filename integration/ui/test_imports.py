"""What the commands load that scripts call a thousand times: a list for each, and no time.

``integration/ui/imports.txt`` has the modules of hvtx; ``HVTX_GOLDEN=write`` writes it anew. Each
costs a command a fifth of a millisecond and more, so who adds one says why it is not loaded later.
Python's own are not listed, since they differ between its versions: of them, and of other
packages, none may be loaded that costs much and is not needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.lab import example_host
from integration.lab.program import Forked

TOP = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("imports.txt")

# What would be felt, each some milliseconds; `ipaddress` is needed for addresses that are chosen.
# Of the last lines hvtx uses the C parts (docs/adr/0061).
HEAVY = {
    *("click", "pyroute2", "sqlite_utils", "rich", "tenacity", "prometheus_client", "pycdlib"),
    *("typing", "dataclasses", "inspect", "logging", "subprocess", "pathlib", "asyncio", "urllib"),
    *("argparse", "tempfile", "shutil", "hashlib", "random", "uuid", "platform", "tomllib", "string"),
    *("gettext", "locale", "traceback", "concurrent", "multiprocessing", "email", "http", "xml"),
    *("importlib.metadata", "importlib.util", "importlib.resources", "secrets", "textwrap", "decimal"),
    *("socket", "selectors", "signal", "sqlite3", "datetime", "json", "re", "enum", "importlib"),
    *("weakref", "threading", "ctypes", "encodings.ascii"),
}  # fmt: skip
_OF_OTHERS = ["enum", "json", "re"]  # to read what others left
ALLOWED = {
    "gc --plan": _OF_OTHERS,
    "gc --plan --json": sorted(["hashlib", *_OF_OTHERS]),  # its id
    "explain": ["ctypes", "encodings.ascii", "enum", "re"],  # who has a port
}
COMMANDS = {
    "vm start": ("vm", "start", "web"),
    "vm show": ("vm", "show", "web"),
    "vm ls": ("vm", "ls"),
    "gc --plan": ("gc", "--plan"),
    "gc --plan --json": ("gc", "--plan", "--json"),
    "vm stop": ("vm", "stop", "web"),
    "explain": ("explain", "8080"),
}
# Without site (-S) nothing of other packages can be found, nor does an editable installation load
# its finder; the migrations are beside the package there.
_SCRIPT = f"""
import sys
sys.path.insert(0, {str(TOP)!r})
import hvtx
hvtx.__path__.append({str(TOP)!r})
from hvtx import loader
loader.install()
from hvtx.cli.main import run
code = run(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def as_used() -> dict[str, str]:
    """The environment without what only tests ask for: that invariants are verified."""
    return {name: value for name, value in os.environ.items() if name != "HVTX_VERIFY"}


def _loaded(words: tuple[str, ...]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _SCRIPT, *words],
        capture_output=True, text=True, check=False, timeout=60, env=as_used(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.splitlines()[-1].split())


def _listed() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in LIST.read_text().splitlines():
        if line.startswith("# "):
            name = line[2:]
        elif line:
            found.setdefault(name, []).append(line)
    return found


def test_hot_commands_load_what_is_listed_and_no_more() -> None:
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    hvtx(
        "vm",
        "create",
        "web",
        "--network",
        "net",
        "--hypervisor",
        "external",
        "--publish",
        "8080:80",
    )
    hvtx("vm", "start", "web")  # the first makes what later ones find
    hvtx("vm", "stop", "web")
    loaded = {name: _loaded(words) for name, words in COMMANDS.items()}
    own = {
        name: sorted(module for module in modules if module.partition(".")[0] == "hvtx")
        for name, modules in loaded.items()
    }
    if os.environ.get("HVTX_GOLDEN") == "write":
        LIST.write_text("".join(f"# {name}\n" + "\n".join(own[name]) + "\n\n" for name in own))
    heavy = {name: sorted(HEAVY & modules) for name, modules in loaded.items()}
    assert heavy == {name: ALLOWED.get(name, []) for name in COMMANDS}
    listed = _listed()
    for name in COMMANDS:
        more, less = set(own[name]) - set(listed[name]), set(listed[name]) - set(own[name])
        assert not more, f"`hvtx {name}` loads more: import it where it is used, or list it"
        assert not less, f"`hvtx {name}` loads less: take it off the list (HVTX_GOLDEN=write)"


@pytest.mark.parametrize("words", [("--help",), ("vm", "start", "--help"), ("--version",)])
def test_the_rest_is_read_by_click(words: tuple[str, ...]) -> None:
    """A line that is not hot needs click, which cannot be found without site: so it is told."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _SCRIPT, *words],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "click" in done.stderr
