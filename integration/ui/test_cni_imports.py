"""What the CNI plugin loads for each command: a list, and no time (as `test_imports.py` has it).

``integration/ui/cni_imports.txt`` has the modules of hvtx; ``HVTX_GOLDEN=write`` writes it anew. A
runtime waits for each call, so who adds a module says why it is not loaded later.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from integration import lab
from integration.lab.program import Forked
from integration.ui.test_imports import HEAVY, TOP, as_used
from tests.cni import recorded
from tests.cni.recorded import Recorded

LIST = Path(__file__).with_name("cni_imports.txt")
_SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(TOP)!r})
import hvtx
hvtx.__path__.append({str(TOP)!r})
from hvtx import loader
loader.install()
from hvtx.cni.main import run
code, said = run(os.environ)
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(said.decode() if code else 0)
"""
NEVER = HEAVY | {"hvtx.cli", "hvtx.documents.view"}


def _loaded(one: Recorded) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _SCRIPT], input=one.data, capture_output=True, check=False,
        timeout=60, env={**as_used(), **one.environment},
    )  # fmt: skip
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0, lines
    return set(lines[-1].split())


def test_each_command_loads_what_is_listed_and_no_more(netns: None) -> None:
    inside = lab.Namespace()
    try:
        netns_path = f"/proc/{inside.pid}/ns/net"
        environment = {**recorded.CRI_ADD.environment, "CNI_NETNS": netns_path}
        add = Recorded(environment, recorded.CRI_ADD.stdin)
        delete = recorded.CRI_DEL_AGAIN
        Forked()("network", "create", "lan", "--subnet", "10.77.0.0/24")
        _loaded(add)  # the first makes what later ones find
        _loaded(delete)
        loaded = {
            "STATUS": _loaded(recorded.LIBCNI_STATUS),
            "ADD": _loaded(add),
            "GC": _loaded(recorded.LIBCNI_GC),
            "DEL": _loaded(delete),
        }
    finally:
        inside.close()
    own = {
        name: sorted(module for module in modules if module.partition(".")[0] == "hvtx")
        for name, modules in loaded.items()
    }
    if os.environ.get("HVTX_GOLDEN") == "write":
        LIST.write_text("".join(f"# {name}\n" + "\n".join(own[name]) + "\n\n" for name in own))
    heavy = {name: sorted(NEVER & modules) for name, modules in loaded.items()}
    assert heavy == {"STATUS": [], "ADD": [], "GC": ["enum", "re"], "DEL": []}  # as `gc --plan`
    listed = {
        part.partition("\n")[0]: part.split("\n")[1:]
        for part in LIST.read_text().strip("\n").removeprefix("# ").split("\n\n# ")
    }
    assert own == listed, "import it where it is used, or list it (HVTX_GOLDEN=write)"
