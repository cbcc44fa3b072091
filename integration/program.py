"""The program under test as a black box: the installed command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Its standard output as one object."""
        document: dict[str, Any] = json.loads(self.out)
        return document


class Program:
    """``hvtx`` with a state directory, a run directory and an environment."""

    def __init__(self, **environment: str) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run it; ``code`` is the exit code to insist on (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "hvtx", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment, **environment},
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        if code is not None and ran.code != code:
            words = " ".join(arguments)
            raise AssertionError(f"hvtx {words}: exit {ran.code}, not {code}\n{ran.out}{ran.err}")
        return ran

    def plan(self, *arguments: str, code: int | None = 0) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """The items of ``gc --plan`` by (action, reason)."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for item in self("gc", "--plan", "--json", *arguments, code=code).json()["items"]:
            found.setdefault((item["action"], item["reason"]), []).append(item)
        return found

    def reasons(self, kind: str, key: str | None = None) -> set[tuple[str, str]]:
        """What the plan says of the items of a kind (and key)."""
        return {
            (item["action"], item["reason"])
            for items in self.plan().values()
            for item in items
            if item["kind"] == kind and (key is None or item["key"] == key)
        }

    def vm(self, name: str) -> dict[str, Any]:
        """``vm show``."""
        return self("vm", "show", name, "--json").json()

    def device(self, name: str) -> str:
        """The name of a VM's first TAP device."""
        device: str = self.vm(name)["interfaces"][0]["device"]
        return device

    def is_clean(self) -> bool:
        """Whether nothing is interrupted and a plan has nothing to do."""
        under_way = self("intents", "--json").json()["operations"]
        plan = self("gc", "--plan", "--json", "--detailed-exitcode", code=None)
        return not under_way and plan.code == 0
