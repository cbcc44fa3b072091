"""A namespace full of VMs of one build of hvtx, which measures what it is told.

Run by the Python of that build (harness.py starts it); reads a JSON object a line, answers one a
line. The build brings its own `bench/population.py` and `bench/floor.py`, since what they call has
changed its name more than once; what this module calls by itself it seeks under the names it had.
"""

from __future__ import annotations

import gc as cyclic
import importlib
import json
import os
import shutil
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import namespaces, traffic
from .spawner import Spawner

BATCH = 100  # VMs in one operation
Answer = dict[str, Any]


def build_package(checkout: str) -> None:
    """Let ``bench`` be that of the build."""
    package = types.ModuleType("bench")
    package.__path__ = [str(Path(checkout, "bench"))]
    sys.modules["bench"] = package


def first(*places: str) -> Any:
    """The first of ``module:name`` that this build has."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise RuntimeError(f"this build has none of {', '.join(places)}")


class Verbs:
    """Calls of a build, whatever they are named there."""

    def __init__(self) -> None:
        self.runtime = first("hvtx.engine.runtime:Runtime")
        self.start = first("hvtx.commands.vm_start:start_vm", "hvtx.engine.launch:start_vm")
        self.stop = first("hvtx.commands.vm_stop:stop_vm", "hvtx.engine.launch:stop_vm")
        self.plan = first("hvtx.engine.gc_plan:make_plan", "hvtx.engine.collect:make_plan")
        self.collect = first("hvtx.commands.gc:collect", "hvtx.engine.collect:collect")
        self.create = first("hvtx.commands.vm_create:create_vm", "hvtx.engine.define:create_vm")
        self.parse = first("hvtx.engine.vm_options:parse_request", "hvtx.engine.define:parse_wish")


class Host:
    """A world of one build. Each public method measures, or does, what a request names."""

    def __init__(self, given: dict[str, Any]) -> None:
        build_package(given["checkout"])
        self.population = importlib.import_module("bench.population")
        self.verbs = Verbs()
        self.one = self.population.ONE
        firewall = given.get("firewall", "nftables")
        directory = Path(given["directory"])
        os.environ["HVTX_FIREWALL"] = firewall
        room = given["room"]  # for how many VMs there have to be networks
        self.world = self._make_world(directory, room, firewall)
        self.world.environment["HVTX_FIREWALL"] = firewall
        if given.get("compiled"):  # else the round that is not kept compiles, into the scratch
            self.world.environment.pop("PYTHONPYCACHEPREFIX", None)
        self.world.vms = 0
        namespaces.own_mounts()
        self.spawner = Spawner(self.world.environment)
        self.python = sys.executable
        self.command = str(Path(sys.executable).with_name("hvtx"))
        self.scene: traffic.Scene | None = None
        self.writers = 0  # VMs of theirs that were created

    def _make_world(self, directory: Path, room: int, firewall: str) -> Any:
        make = self.population.make_world
        if make.__code__.co_argcount < 3:  # a build that had one backend in its programs
            module, settings = self.population, self.population.Settings
            module.Settings = lambda state, run: settings(state, run, firewall)
            try:
                return make(directory, room)
            finally:
                module.Settings = settings
        return make(directory, room, firewall)

    # -- population --------------------------------------------------------------------------------

    def grow(self, number: int) -> Answer:
        """That many VMs more, ``BATCH`` in an operation; how long each operation took."""
        world, module = self.world, self.population
        used = time.process_time()
        if hasattr(world, "grow"):
            taken = world.grow(number)
            return {"seconds": taken, "processor": time.process_time() - used}
        world._pipe = world._pipe or os.pipe()  # noqa: SLF001
        taken = []
        with self._open() as runtime:
            runtime.enter()
            for begin in range(world.vms, world.vms + number, BATCH):
                numbers = range(begin, min(begin + BATCH, world.vms + number))
                network = world.networks[begin // module.A_BRIDGE]
                begun = time.perf_counter()
                vms = module._create(runtime, numbers, network)  # noqa: SLF001
                module._start(runtime, vms, network)  # noqa: SLF001
                taken.append(time.perf_counter() - begun)
                world._attach(runtime, vms)  # noqa: SLF001
        world.vms += number
        return {"seconds": taken, "processor": time.process_time() - used}

    def _open(self, *, writable: bool = True) -> Any:
        import contextlib

        return contextlib.closing(self.verbs.runtime(self.world.settings, writable=writable))

    # -- in process --------------------------------------------------------------------------------

    def floor(self) -> Answer:
        """The bare calls: seconds of each."""
        self.world.talk()
        floor = importlib.import_module("bench.floor").Floor(self.world)
        try:
            found = {"start": floor.start(), "stop": floor.stop(), "scan": floor.scan()}
            return {**found, "laps": getattr(floor, "laps", {})}  # of builds that tell them
        finally:
            floor.close()

    def one_vm(self) -> Answer:
        """A start and a stop, each with a runtime that was just opened; seconds and processor's."""
        found: Answer = {}
        for name, verb in (("start", self.verbs.start), ("stop", self.verbs.stop)):
            self.world.talk()
            cyclic.collect()
            opened = time.perf_counter()
            with self._open() as runtime:
                begun, used = time.perf_counter(), time.process_time()
                verb(runtime, self.one)
                found[name] = time.perf_counter() - begun
                found[f"{name}, processor"] = time.process_time() - used
            found[f"{name}, store opened and closed"] = time.perf_counter() - opened
        return found

    def again(self) -> Answer:
        """The second start and stop of one runtime: what a program that stays open pays."""
        found: Answer = {}
        with self._open() as runtime:
            for _ in range(2):
                for name, verb in (("start", self.verbs.start), ("stop", self.verbs.stop)):
                    begun = time.perf_counter()
                    verb(runtime, self.one)
                    found[name] = time.perf_counter() - begun
        return found

    def plan(self) -> Answer:
        """`gc --plan`, store opened and closed, which must be empty."""
        cyclic.collect()
        begun, used = time.perf_counter(), time.process_time()
        with self._open(writable=False) as runtime:
            report = self.verbs.plan(runtime)
        taken = {
            "plan": time.perf_counter() - begun,
            "plan, processor": time.process_time() - used,
        }
        if report.refused is not None or report.plan.acting():
            raise RuntimeError(f"the plan of live VMs is not empty: {report}"[:1000])
        return taken

    def collect(self) -> Answer:
        """Let every process end and collect the VMs; seconds of plan and apply together."""
        self.world.end_processes()
        with self._open() as runtime:
            runtime.enter()
            begun, used = time.perf_counter(), time.process_time()
            report = self.verbs.collect(runtime)
            taken = time.perf_counter() - begun
            used = time.process_time() - used
        left = [item for item in report.plan.acting() if item.outcome != "done"]
        others = 10 if self.scene else 0  # what is said of the guest, whose TAP is a veth
        if len(left) > others or len(report.plan.acting()) < self.world.vms:
            raise RuntimeError(f"{len(left)} items are not done; first: {left[:1]}")
        return {"seconds": taken, "processor": used, "vms": self.world.vms}

    def cycles(self, number: int, writers: int = 4) -> Answer:
        """That many starts and stops, by several processes with a VM each."""
        with self._open() as runtime:
            for writer in range(self.writers, writers):
                self._create(runtime, f"soak{writer}", publish=(f"{12000 + writer}:80",))
        self.writers = max(self.writers, writers)
        begun = time.perf_counter()
        children = []
        for writer in range(writers):
            pid = os.fork()
            if pid == 0:
                self._cycle(f"soak{writer}", number // writers)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        if any(codes):
            raise RuntimeError(f"a writer of {writers} ended with {codes}")
        return {"seconds": time.perf_counter() - begun}

    def _cycle(self, name: str, number: int) -> None:
        code = 1
        try:
            with self._open() as runtime:
                for _ in range(number):
                    self.verbs.start(runtime, name)
                    self.verbs.stop(runtime, name)
            code = 0
        except BaseException as problem:  # noqa: BLE001 - told, and the exit code says it
            sys.stderr.write(f"{name}: {problem!r}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _create(self, runtime: Any, name: str, **more: Any) -> None:
        options = {"hypervisor": "external", "networks": ("n0",), **more}
        self.verbs.create(runtime, self.verbs.parse(name, **options))

    def size(self) -> Answer:
        """Bytes of the store, its log included."""
        directory = Path(self.world.settings.state_directory)
        return {"bytes": sum(path.stat().st_size for path in directory.glob("hvtx.db*"))}

    # -- whole processes ---------------------------------------------------------------------------

    def commands(self, commands: list[list[str]]) -> Answer:
        """What each took; the word ``hvtx`` is the command of this build, ``python`` its Python."""
        self.world.talk()
        return {"found": [self._command(words) for words in commands]}

    def _command(self, words: list[str], **more: Any) -> Answer:
        known = {"hvtx": self.command, "python": self.python}
        return self.spawner.run(known.get(words[0], words[0]), *words[1:], **more)

    def several(self, number: int) -> Answer:
        """Start and stop so many VMs by command: in one where it takes several names."""
        names = [f"several{vm}" for vm in range(number)]
        with self._open() as runtime:
            for vm, name in enumerate(names):
                self._create(runtime, name, publish=(f"{13000 + vm}:80",))
        found: Answer = {}
        for verb in ("start", "stop"):
            done = self._command(["hvtx", "vm", verb, *names], may_fail=True)
            found[verb] = done["ms"]
            if done["code"] == 2:  # a build whose commands take one
                each = [self._command(["hvtx", "vm", verb, name])["ms"] for name in names]
                found[verb] = sum(each)
            elif done["code"] != 0:
                raise RuntimeError(f"vm {verb} of {number}: exit {done['code']}: {done['error']}")
        return found

    def restarted(self, commands: list[list[str]]) -> Answer:
        """The commands as after a restart of the container: all ended, a namespace like new."""
        self.world.end_processes()
        aside = f"{self.world.settings.run_directory}.aside"
        os.rename(self.world.settings.run_directory, aside)
        home = namespaces.current()
        os.close(namespaces.fresh())
        spawner = Spawner(self.world.environment)
        known = {"hvtx": self.command}
        try:
            found = [spawner.run(known.get(w[0], w[0]), *w[1:], may_fail=True) for w in commands]
        finally:
            spawner.close()
            namespaces.enter(home)
            os.close(home)
            shutil.rmtree(self.world.settings.run_directory, ignore_errors=True)
            os.rename(aside, self.world.settings.run_directory)
        return {"found": found}

    def define_autostart(self, number: int) -> Answer:
        """That many VMs that start at boot, each a process that sleeps; the world is then left."""
        with self._open() as runtime:
            for vm in range(number):
                self._create(
                    runtime, f"boot{vm}", hypervisor=None, command=("sleep", "900"),
                    autostart=True, networks=(f"n{vm // self.population.A_BRIDGE}",),
                    publish=(f"{20000 + vm}:80",),
                )  # fmt: skip
        return {}

    def boot(self) -> Answer:
        """`hvtx recover` in a namespace and with a run directory like new."""
        shutil.rmtree(self.world.settings.run_directory, ignore_errors=True)
        self.spawner.close()
        os.close(namespaces.fresh())
        self.spawner = Spawner(self.world.environment)
        return self._command(["hvtx", "recover"], terminal=True)

    # -- packets -----------------------------------------------------------------------------------

    def guest(self) -> Answer:
        """Start a VM after all others, a guest by veth in the place of its TAP; see traffic.py."""
        outside = namespaces.uplink()
        port = traffic.PORT
        with self._open() as runtime:
            self._create(
                runtime, "guest", publish=(f"{port}:{port}", f"{port}:{port}/udp"),
            )  # fmt: skip
            self.verbs.start(runtime, "guest")
        shown = shown_guest(self.command, self.world.environment)
        network = self.world.networks[0]
        self.scene = traffic.Scene(
            outside=outside, device=shown["device"], mac=shown["mac"], bridge=network.bridge,
            address=shown["ipv4"], gateway=traffic.gateway_of(network.bridge), published=True,
        )  # fmt: skip
        return {}

    def flow(self, name: str, seconds: int) -> Answer:
        """One flow of iperf3."""
        assert self.scene is not None
        return self.scene.flow(name, seconds)

    def close(self) -> None:
        """The namespace goes with its last user, the VMs with their pipe."""
        self.spawner.close()
        self.world.close()


def shown_guest(command: str, environment: dict[str, str]) -> dict[str, Any]:
    """The first interface of the VM ``guest``, as `vm show --json` tells it."""
    import subprocess

    done = subprocess.run(
        [command, "vm", "show", "guest", "--json"], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)["interfaces"][0]
    return found


def serve(make: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> None:
    """Answer requests until standard input ends; what others print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        served = make(given)
    except Exception as problem:  # noqa: BLE001 - told to who asked
        answers.write(json.dumps({"failed": f"{type(problem).__name__}: {problem}"}) + "\n")
        return
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = getattr(served, asked.pop("do"))(**asked)
        except Exception as problem:  # noqa: BLE001 - told to who asked
            found = {"failed": f"{type(problem).__name__}: {problem}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    served.close()
