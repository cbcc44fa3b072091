"""What every measurement here needs: namespaces, builds, workers in them, and turns.

A *build* is a hvtx that is installed in an environment of its own. A *worker* is a process of such
a build (or of a peer) in namespaces of its own -- network, mounts, processes -- that measures what
it is told and goes with all that it made (bench/inside). Whatever is compared is measured in turns,
each round in the opposite order, and a first round that warms caches is not kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

TOP = Path(__file__).resolve().parent.parent
_INSIDE = "HVTX_BENCH_INSIDE"
_ISOLATE = (
    "unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
    "--mount-proc", "--",
)  # fmt: skip
# A shell reaps what is left to the first process of a namespace, a worker does not.
_FIRST = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- & wait $!', "sh")
_RUN = "import sys; sys.path.insert(0, {bench!r}); {import_}; {call}"
_PATIENCE = 1200  # seconds for one answer: 5,000 VMs on a machine that is busy
T = TypeVar("T")


def need_root() -> None:
    """End the program, with what to do, where it cannot make namespaces."""
    if os.geteuid() != 0:
        raise SystemExit(f"error: {sys.argv[0]} makes namespaces, which needs root\nhint: sudo")


def enter_namespace() -> None:
    """Run this program again, in a network namespace of its own, unless it is in one already."""
    need_root()
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "--", sys.executable, *sys.argv])


@contextmanager
def scratch(directory: str | None) -> Iterator[Path]:
    """A directory of this run, which goes again. ``directory``: on the disk that matters."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clean up then too
    found = tempfile.mkdtemp(prefix="hvtx-bench-", dir=directory)
    try:
        yield Path(found)
    finally:
        shutil.rmtree(found, ignore_errors=True)


def describe_machine(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What the figures depend on."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "file_system": kind,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


# -- builds ----------------------------------------------------------------------------------------


class Build(NamedTuple):
    """A hvtx to measure: how it is called in tables, its Python, where its files lie."""

    name: str
    python: str
    checkout: str
    compiled: bool = False  # whether its bytecode is there

    @property
    def command(self) -> str:
        """The installed command."""
        return str(Path(self.python).with_name("hvtx"))


def this_build(name: str = "hvtx") -> Build:
    """The one whose Python runs this program."""
    build = Build(name, sys.executable, str(TOP), compiled=True)
    compile_bytecode(build)
    return build


def compile_bytecode(build: Build) -> None:
    """What Python would otherwise write in a round that is measured, or in each, if it may not."""
    find = "import hvtx, os; print(os.path.dirname(hvtx.__file__))"
    done = subprocess.run(
        [build.python, "-c", find], capture_output=True, text=True, check=True, cwd="/"
    )
    where = done.stdout.strip()
    subprocess.run([build.python, "-m", "compileall", "-q", where], check=True, env=_environment())


def install(name: str, files: Path, directory: Path) -> Build:
    """Install the hvtx whose files are given into an environment of its own. Raises SystemExit."""
    environment = directory / "venv"
    say(f"{name}: installing into an environment of its own")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(files)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{name} cannot be installed: {done.stderr[-1000:]}")
    build = Build(name, str(python), str(files), compiled=True)
    compile_bytecode(build)
    return build


def export(revision: str, directory: Path) -> Path:
    """The files of a commit. Raises SystemExit if there is no such commit."""
    directory.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(TOP), "archive", revision], capture_output=True, check=False
    )
    if archive.returncode != 0:
        raise SystemExit(f"git archive {revision}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
    return directory


def export_checkout(directory: Path) -> Path:
    """The files of this checkout as they are now, committed or not."""
    listed = subprocess.run(
        ["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (TOP / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, directory / name)
    return directory


def commit_of(revision: str = "HEAD") -> str:
    """The short name of a commit, with + if the checkout has changes; empty outside git."""
    found = _git("rev-parse", "--short=7", revision)
    changed = revision == "HEAD" and _git("status", "--porcelain", "--untracked-files=no")
    return found + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(TOP), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


# -- workers ---------------------------------------------------------------------------------------


class Failed(Exception):
    """A worker could not do what it was told."""


def _environment() -> dict[str, str]:
    kept = dict(os.environ)
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", _INSIDE):
        kept.pop(name, None)
    kept["HVTX_CONFIG"] = os.devnull
    return kept


class Worker:
    """A process in namespaces of its own that answers requests (bench/inside/worker.py)."""

    def __init__(self, who: str, vms: int, python: str, serve: str, given: dict[str, Any]) -> None:
        """``serve``: ``module:Class`` of `bench/inside`, which gets ``given``. Raises Failed."""
        self.who, self.vms = who, vms
        module, _, name = serve.partition(":")
        bench = str(TOP / "bench")
        import_ = f"from inside import worker, {module}"
        call = f"import json; worker.serve({module}.{name}, json.loads(sys.argv[1]))"
        code = _RUN.format(bench=bench, import_=import_, call=call)
        self._process = subprocess.Popen(
            [*_ISOLATE, *_FIRST, python, "-c", code, json.dumps(given)], env=_environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        try:
            self._read()
        except Failed:
            self.close()
            raise

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """What came of it. Raises Failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.who}, {self.vms} VMs: the worker ended") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        if not ready:
            raise Failed(f"{self.who}, {self.vms} VMs: no answer for {_PATIENCE} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self.who}, {self.vms} VMs: the worker ended")
        found: dict[str, Any] = json.loads(line)
        if "failed" in found:
            raise Failed(f"{self.who}, {self.vms} VMs: {found['failed']}")
        return found

    def close(self) -> None:
        """End it; its namespaces, and all that is in them, go with it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def worker_of(build: Build, directory: Path, vms: int, firewall: str = "nftables") -> Worker:
    """A worker of a build, without VMs but with networks for ``vms``. Raises Failed."""
    given = {
        "checkout": build.checkout,
        "directory": str(directory),
        "room": vms,
        "firewall": firewall,
        "compiled": build.compiled,
    }
    return Worker(build.name, vms, build.python, "worker:Host", given)


@contextmanager
def workers() -> Iterator[list[Worker]]:
    """A list to put workers in; all of them are closed."""
    found: list[Worker] = []
    try:
        yield found
    finally:
        for worker in found:
            worker.close()


def in_turns(
    contestants: Sequence[T], rounds: int, measure: Callable[[T, int], None], *,
    seconds: float = 600.0, least: int = 3,
) -> int:  # fmt: skip
    """Call ``measure(contestant, round)`` in turns, round 0 being the one that is not kept.

    Each round has the opposite order. No round begins after ``seconds``, but for the ``least``.
    Returns how many rounds were kept.
    """
    deadline = time.monotonic() + seconds
    for number in range(rounds + 1):
        if number > least and time.monotonic() > deadline:
            return number - 1
        for contestant in contestants if number % 2 else list(reversed(contestants)):
            measure(contestant, number)
    return rounds
