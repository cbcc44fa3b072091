"""The program under test as a black box: the installed command in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import pytest

import hvtx
from hvtx.engine.autostart import program_path
from hvtx.engine.ownership import problem_of_program
from hvtx.host import failpoint
from hvtx.model import typed
from tests.machine.attachment_verbs import command_line


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Its standard output as one object."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    def insist(self, arguments: Sequence[str], code: int | None) -> None:
        """Refuse another exit code than this one, and one of failures without an error."""
        words, told = " ".join(arguments), f"\n{self.out}{self.err}"
        if code is not None and self.code != code:
            raise AssertionError(f"hvtx {words}: exit {self.code}, not {code}{told}")
        if self.code in (9, 75) and "error" not in self.err:
            raise AssertionError(f"hvtx {words}: exit {self.code} without an error{told}")


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
            timeout=600,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment, **environment},
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        ran.insist(arguments, code)
        return ran

    def plan(
        self, *arguments: str, code: int | None = 0
    ) -> dict[tuple[str, str], list[dict[str, Any]]]:
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
        """Whether no operation is interrupted and a plan has nothing to do."""
        under_way = self("intents", "--json").json()["operations"]
        plan = self("gc", "--plan", "--json", "--detailed-exitcode", code=None)
        return not under_way and plan.code == 0


class Forked(Program):
    """The same command line in a forked child: no interpreter to start, no module to load.

    Ten times as quick, for tests with many runs; the child sees the same files and namespaces.
    """

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run it; ``code`` is the exit code to insist on (None: any)."""
        out, err = os.memfd_create("out"), os.memfd_create("err")
        pid = os.fork()
        if pid == 0:
            child(arguments, {**self.environment, **environment}, *self.enter(out, err))
        _, status = os.waitpid(pid, 0)
        ran = Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))
        ran.insist(arguments, code)
        return ran

    def enter(self, out: int, err: int) -> tuple[int, int]:
        """In the child, before anything else: where it is to run; where its output goes."""
        return out, err


def installer(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Program:
    """A program whose `systemd install` works in a checkout that is not root's, too.

    It refuses what others than root could change, and whoever owns the checkout could.
    """
    if problem_of_program(program_path("")) is None:
        return Program(**environment)
    monkeypatch.setattr("hvtx.commands.systemd.refuse_changeable", lambda _: None)
    return Forked(**environment)


def child(arguments: Sequence[str], environment: Mapping[str, str], out: int, err: int) -> NoReturn:
    """What a forked child does: run the command line, and leave with its exit code."""
    code = 70
    gc.set_threshold(1 << 18)  # as `python -m hvtx` does
    warnings.filterwarnings("ignore", category=ResourceWarning)  # as Python does without pytest
    try:
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = ["hvtx", *arguments]
        failpoint.arm(
            environment.get("HVTX_FAILPOINT", ""), environment.get("HVTX_FAILPOINT_LOG", "")
        )
        code = command_line(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def text_of(descriptor: int) -> str:
    """All that was written to a memory file, which is closed."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode()


@cache
def preload() -> None:
    """Load in the parent what children would load each for themselves."""
    for module in pkgutil.walk_packages(hvtx.__path__, "hvtx."):
        if module.name != "hvtx.__main__":
            import_module(module.name)
    for name in (
        "encodings.ascii", "prometheus_client", "pyroute2", "sqlite_utils", "tenacity", "tomllib",
        "urllib.request",
    ):  # fmt: skip
        import_module(name)
    _make_tuples()


def _make_tuples() -> None:
    """Give each class of named tuples its function now: each child would make those it uses anew."""
    first = vars(typed)["_first"]
    modules = [module for name, module in sys.modules.items() if name.startswith("hvtx.")]
    for value in [value for module in modules for value in vars(module).values()]:
        if isinstance(value, type) and value.__new__ is first:
            value(**dict.fromkeys(vars(value)["_fields"]))
