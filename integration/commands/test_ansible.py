"""The Ansible collection: built, installed, and run against two hosts in namespaces of their own."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from tests.fleet_page import text

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "scripts/ansible/hvtx/host"
CALLBACK = TOP / "integration/lab/ansible_results"
MODULES = ("gc", "network", "vm")
HOSTS = ("north", "south")
PLAYBOOK = shutil.which(
    "ansible-playbook", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
)
pytestmark = [
    pytest.mark.skipif(PLAYBOOK is None, reason="ansible-core is not there: tox -e ansible"),
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # a play takes seconds, and one test has some thirty
]
NETWORK = {"name": "lab", "subnets": ["10.81.0.0/24"]}
SLEEPER = {"networks": ["lab"], "command": ["sleep", "600"], "hypervisor": "command"}
Results = dict[str, list[dict[str, Any]]]
WEB = {"name": "web", **SLEEPER, "publish": ["8080:80"]}


def program(name: str, *words: str, **more: str) -> str:
    """A program of ansible-core, with the settings of nobody else."""
    assert PLAYBOOK
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        [str(Path(PLAYBOOK).parent / name), *words],
        capture_output=True, text=True, check=False, timeout=240, env={**kept, "LC_ALL": "C.UTF-8", **more},
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{name} {words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the collection is installed, from the archive that Galaxy would be given."""
    place = tmp_path_factory.mktemp("ansible")
    surroundings = {"HOME": str(place), "ANSIBLE_HOME": str(place / "home")}
    copy = shutil.copytree(SOURCE, place / "source")
    program(
        "ansible-galaxy",
        "collection",
        "build",
        str(copy),
        "--output-path",
        str(place),
        **surroundings,
    )
    [archive] = place.glob("hvtx-host-*.tar.gz")
    installed = place / "installed"
    program(
        "ansible-galaxy",
        "collection",
        "install",
        str(archive),
        "-p",
        str(installed),
        **surroundings,
    )
    return installed


class Fleet:
    """Two hosts, each a network namespace with its own state and run directories."""

    def __init__(self, place: Path, collections: Path) -> None:
        self.place, self.collections = place, collections
        self.names = {name: lab.Namespace() for name in HOSTS}
        inventory: dict[str, Any] = {}
        for name, namespace in self.names.items():
            python = place / f"python-{name}"
            python.write_text(
                f"#!/bin/sh\nexport XTABLES_LOCKFILE={place}/{name}.lock HVTX_CONFIG=/dev/null HVTX_DHCP=off\n"
                f'exec nsenter -t {namespace.pid} -n -- {sys.executable} "$@"\n'
            )
            python.chmod(0o755)
            inventory[name] = {
                "ansible_connection": "local",
                "ansible_python_interpreter": str(python),
                "own_state": str(place / name / "state"),
                "own_run": str(place / name / "run"),
            }
        (place / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))

    def play(
        self, *tasks: dict[str, Any], words: tuple[str, ...] = (), fails: bool = False
    ) -> Results:
        """Run tasks on both hosts: what each returned, by host."""
        play = [{
            "hosts": "all", "gather_facts": False, "tasks": list(tasks),
            "module_defaults": {"group/hvtx.host.host": {"state_dir": "{{ own_state }}", "run_dir": "{{ own_run }}"}},
        }]  # fmt: skip
        return self.run(json.dumps(play), *words, fails=fails)

    def run(self, book: str, *words: str, fails: bool = False, only: str | None = None) -> Results:
        """Run a playbook (YAML, or JSON, which is YAML): what each task returned, by host."""
        assert PLAYBOOK
        (self.place / "play.yml").write_text(book)
        told = self.place / "results"
        told.write_text("")
        done = subprocess.run(
            [PLAYBOOK, "-i", "hosts.json", "play.yml", "--diff", *words],
            capture_output=True, text=True, check=False, timeout=240, cwd=self.place,
            env={
                **{name: word for name, word in os.environ.items() if name.startswith("PIP_")},
                "PATH": os.environ["PATH"], "HOME": str(self.place), "LC_ALL": "C.UTF-8",
                "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "HVTX_RESULTS": str(told),
                "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACK), "ANSIBLE_CALLBACKS_ENABLED": "results",
            },
        )  # fmt: skip
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        results: Results = {name: [] for name in HOSTS}
        for line in map(json.loads, told.read_text().splitlines()):
            results[line["host"]].append({**line["result"], "outcome": line["outcome"]})
        assert all(results[name] for name in ([only] if only else HOSTS)), done.stdout + done.stderr
        return results

    def inside(self, name: str, look: Callable[[], Any]) -> Any:
        """What a look in a host's namespace gives."""
        found: list[Any] = []

        def enter() -> None:
            descriptor = os.open(f"/proc/{self.names[name].pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            lab.setns(descriptor)
            os.close(descriptor)
            found.append(look())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(60)
        return found[0]

    def dumps(self) -> dict[str, Any]:
        """Both hosts whole, and what stands in their directories."""
        return {
            name: {
                **self.inside(name, lab.dump),
                "files": sorted(str(path) for path in (self.place / name).rglob("*")),
            }
            for name in HOSTS
        }

    def close(self) -> None:
        """End what tests left, and the namespaces."""
        for namespace in self.names.values():
            namespace.close()


@pytest.fixture
def fleet(tmp_path: Path, collections: Path) -> Iterator[Fleet]:
    """Two hosts; what tests left is removed."""
    made = Fleet(tmp_path, collections)
    yield made
    made.close()


def task(module: str, **arguments: Any) -> dict[str, Any]:
    """A task of the collection."""
    return {f"hvtx.host.{module}": arguments}


def changed(results: Results) -> list[list[bool]]:
    """Of each host, what its tasks said."""
    return [[each["changed"] for each in results[name]] for name in HOSTS]


def each(results: Results, number: int = 0) -> list[dict[str, Any]]:
    """One task's result on both hosts."""
    return [results[name][number] for name in HOSTS]


def test_two_hosts_are_described_and_left_as_they_were(fleet: Fleet) -> None:
    """Check mode changes nothing, the second run neither; absent leaves the hosts as before."""
    plays = (task("network", **NETWORK), task("vm", **WEB))
    before = fleet.dumps()

    told = fleet.play(task("network", **NETWORK), words=("--check",))
    assert changed(told) == [[True], [True]]
    assert each(told)[0]["actions"] == ["create network lab: 10.81.0.0/24"]
    assert each(told)[0]["diff"]["after"] == {"subnets": ["10.81.0.0/24"]}
    assert lab.difference(before, fleet.dumps()) == ""

    first = fleet.play(*plays)
    assert changed(first) == [[True, True], [True, True]]
    for result in each(first, 1):
        assert result["vm"]["state"] == "running"
        assert result["actions"] == ["create VM web (command, in lab)", "start VM web"]
        [interface] = result["vm"]["interfaces"]
        assert interface["publish"] == [
            {"protocol": "tcp", "host_ip": None, "host_port": 8080, "guest_port": 80}
        ]
    assert len({result["vm"]["pid"] for result in each(first, 1)}) == 2
    for name in HOSTS:
        device = first[name][1]["vm"]["interfaces"][0]["device"]
        assert device in {link["ifname"] for link in fleet.dumps()[name]["links"]}

    up = fleet.dumps()
    again = fleet.play(*plays)
    assert changed(again) == [[False, False], [False, False]]
    assert [result["actions"] for result in each(again, 1)] == [[], []]
    assert [r["vm"] for r in each(again, 1)] == [r["vm"] for r in each(first, 1)]
    away = (task("vm", name="web", state="absent"), task("network", name="lab", state="absent"))
    assert changed(fleet.play(away[0], words=("--check",))) == [[True], [True]]
    assert lab.difference(up, fleet.dumps()) == ""

    gone = fleet.play(*away)
    assert changed(gone) == [[True, True], [True, True]]
    assert each(gone)[0]["actions"] == ["stop VM web", "remove VM web"]
    assert "vm" not in each(gone)[0]
    assert changed(fleet.play(*away)) == [[False, False], [False, False]]
    after = fleet.dumps()
    for dump in (before, after):
        for name in HOSTS:
            del dump[name]["files"]
    assert lab.difference(before, after) == ""


def test_each_state_and_each_change(fleet: Fleet) -> None:
    """What is done of a VM in each state, foreseen by check mode to the sentence."""
    fleet.play(task("network", **NETWORK))

    def see(arguments: dict[str, Any], actions: list[str], state: str) -> dict[str, Any]:
        before = fleet.dumps()
        foreseen = each(fleet.play(task("vm", **arguments), words=("--check",)))
        assert lab.difference(before, fleet.dumps()) == ""
        done = each(fleet.play(task("vm", **arguments)))
        for told, result in zip(foreseen, done, strict=True):
            assert told["actions"] == result["actions"] == actions
            assert told["changed"] is result["changed"] is bool(actions)
            assert told["diff"] == result["diff"]
            assert result["vm"]["state"] == state
        return done[0]

    create, start, stop = "create VM web (command, in lab)", "start VM web", "stop VM web"
    see({**WEB, "state": "present"}, [create], "defined")
    see({"name": "web", "state": "stopped"}, [], "defined")
    see({"name": "web"}, [start], "running")
    pid = see({"name": "web", "state": "present"}, [], "running")["vm"]["pid"]
    more = {**WEB, "publish": ["8080:80", "8443:443"]}
    ports = "change VM web: publish 8080:80/tcp → 8080:80/tcp 8443:443/tcp"
    assert see(more, [ports], "running")["vm"]["pid"] == pid
    assert see({"name": "web", "state": "restarted"}, [stop, start], "running")["vm"]["pid"] != pid
    words = "change VM web: autostart no → yes"
    see({**more, "autostart": True}, [words], "running")
    bigger = {**more, "autostart": True, "memory": 512}
    refused = fleet.play(task("vm", **bigger), fails=True)
    for result in each(refused):
        assert result["outcome"] == "failed"
        assert result["exit_code"] == 4
        assert result["msg"].endswith(
            "hint: allow_restart: true lets it be; or describe it as it is; nothing was changed"
        )
    words, both = "change VM web: memory 256 → 512", "autostart no → yes, memory 256 → 512"
    back = "change VM web: autostart yes → no, memory 512 → 256"
    why = "stop VM web: memory 256 → 512 is what it is started with"
    see({**bigger, "allow_restart": True}, [why, words, "start VM web again"], "running")
    see({**more, "state": "stopped"}, [stop, back], "defined")
    see({**more, "state": "restarted"}, [start], "running")
    see({"name": "web", "state": "stopped"}, [stop], "defined")
    see({**bigger, "state": "restarted"}, [f"change VM web: {both}", start], "running")
    see(
        {**more, "state": "restarted"},
        [stop, back, start],
        "running",
    )
    away = task("network", name="lab", state="absent")
    foreseen, really = (
        each(fleet.play(away, words=("--check",))),
        each(fleet.play(away, fails=True)),
    )
    assert [r["changed"] for r in foreseen] == [True] * 2  # an earlier task may remove it
    assert all(
        "is used by web, which an earlier task may remove" in r["warnings"][0] for r in foreseen
    )
    assert [(r["exit_code"], r["code"]) for r in really] == [(4, "conflict")] * 2
    assert all("web" in r["msg"] for r in really)


def test_a_network_is_changed_or_refused(fleet: Fleet) -> None:
    """What can be changed is; what cannot is refused, and made anew where that is allowed."""
    fleet.play(task("network", **NETWORK))
    isolated = {**NETWORK, "isolate": True}
    told = each(fleet.play(task("network", **isolated)))
    assert [r["diff"] for r in told] == [
        {"before": {"isolate": False}, "after": {"isolate": True}}
    ] * 2
    assert [r["network"]["isolate"] for r in told] == [True, True]
    other = {**isolated, "subnets": ["10.82.0.0/24"]}
    before = fleet.dumps()
    refused = each(fleet.play(task("network", **other), fails=True))
    assert [r["hint"].partition(" ")[0] for r in refused] == ["allow_replace:"] * 2
    assert lab.difference(before, fleet.dumps()) == ""
    anew = each(fleet.play(task("network", **other, allow_replace=True)))
    assert [r["network"]["subnets"] for r in anew] == [["10.82.0.0/24"]] * 2
    assert [len(r["actions"]) for r in anew] == [2, 2]


def test_what_a_dead_vm_left_is_collected(fleet: Fleet) -> None:
    """The plan as a diff, nothing done by it; applied, the second run finds nothing."""
    clean = fleet.play(task("network", **NETWORK), task("gc", apply=True))
    assert [r["changed"] for r in each(clean, 1)] == [False, False]
    idle = fleet.dumps()
    pids = [r["vm"]["pid"] for r in each(fleet.play(task("vm", **WEB)))]
    for pid in pids:
        lab.end(pid)
    before = fleet.dumps()
    plan = each(fleet.play(task("gc")))
    assert [r["changed"] for r in plan] == [False, False]
    foreseen = each(fleet.play(task("gc", apply=True), words=("--check",)))
    assert [r["changed"] for r in foreseen] == [True, True]
    assert lab.difference(before, fleet.dumps()) == ""
    done = each(fleet.play(task("gc", apply=True)))
    for told, result in zip(foreseen, done, strict=True):
        assert result["changed"]
        assert told["diff"] == result["diff"]
        assert re.search(r"^delete tap hv\w+ \(vm-dead\)$", result["diff"]["before"], re.MULTILINE)
        assert {item["outcome"] for item in result["items"]} == {"done"}
    assert changed(fleet.play(task("gc", apply=True))) == [[False], [False]]
    after = fleet.dumps()
    for name in HOSTS:
        assert lab.difference(idle[name]["links"], after[name]["links"]) == ""
        assert lab.difference(idle[name]["nft"], after[name]["nft"]) == ""


def test_what_fails_says_what_to_do(fleet: Fleet, tmp_path: Path) -> None:
    """A Python without hvtx, a port that YAML has made a number of, an unknown network."""
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    book = [{"hosts": "all", "gather_facts": False, "vars": {"ansible_python_interpreter": str(bare)},
             "tasks": [task("vm", **WEB)]}]  # fmt: skip
    for result in each(fleet.run(json.dumps(book), fails=True)):
        assert result["msg"].startswith(f"hvtx cannot be imported by {sys.executable} (3.")
        assert "set ansible_python_interpreter to the Python that has it" in result["msg"]
    lines = "[{hosts: all, gather_facts: false, tasks: [{hvtx.host.vm: {name: web, publish: [8080:22]}}]}]"
    for result in each(fleet.run(lines, fails=True)):
        assert result["msg"].startswith("publish has the number 484822: YAML reads")
        assert result["exit_code"] == 2
    before = fleet.dumps()
    for result in each(fleet.play(task("vm", name="web", networks=["other"]), fails=True)):
        assert (result["exit_code"], result["code"]) == (3, "not-found")
        assert result["msg"].endswith(f"hint: {result['hint']}")
        assert "other" in result["msg"]
    for state in ("started", "stopped", "restarted"):  # of a name that was misspelt
        for words in ((), ("--check",)):
            found = fleet.play(task("vm", name="wep", state=state), words=words, fails=True)
            for result in each(found):
                assert (result["exit_code"], result["code"]) == (3, "not-found")
                assert result["msg"].startswith(
                    "there is no VM 'wep', and nothing is described of it"
                )
    for result in each(fleet.play(task("vm", name="web", memory=512), fails=True)):
        assert result["exit_code"] == 3
        assert "has nothing to run" in result["msg"]
    assert lab.difference(before, fleet.dumps()) == ""


def test_a_play_for_a_fresh_host_is_foreseen_whole(fleet: Fleet) -> None:
    """Its first task would make the network of its second; the diff is told in options' names."""
    tasks = (task("network", **NETWORK), task("vm", **WEB))
    before = fleet.dumps()
    foreseen = fleet.play(*tasks, words=("--check",))
    assert lab.difference(before, fleet.dumps()) == ""
    done = fleet.play(*tasks)
    for name in HOSTS:
        for told, result in zip(foreseen[name], done[name], strict=True):
            assert told["changed"] is result["changed"] is True
            assert told["diff"] == result["diff"]
        create, start = done[name][1]["actions"]
        assert create.startswith(foreseen[name][1]["actions"][0])
        assert foreseen[name][1]["actions"][1] == start
        assert "there is no network lab" in foreseen[name][1]["warnings"][0]
    other = {**NETWORK, "subnets": ["10.82.0.0/24"]}
    away = {**WEB, "networks": ["other"]}
    fleet.play(task("network", **{**other, "name": "other"}))
    for result in each(fleet.play(task("vm", **away, allow_replace=True), words=("--check",))):
        assert (result["diff"]["before"]["networks"], result["diff"]["after"]["networks"]) == (
            ["lab"], ["other"],
        )  # fmt: skip


def hvtx(fleet: Fleet, name: str, *words: str) -> str:
    """Its command line on a host; what it prints."""
    places = (
        "--state-dir",
        str(fleet.place / name / "state"),
        "--run-dir",
        str(fleet.place / name / "run"),
    )
    argv = [str(fleet.place / f"python-{name}"), "-m", "hvtx", *places, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def foreseen(fleet: Fleet, *tasks: dict[str, Any], fails: bool = False) -> Results:
    """What check mode says of tasks; hosts and records stay as they are."""
    before = fleet.dumps()
    told = fleet.play(*tasks, words=("--check",), fails=fails)
    after = fleet.dumps()
    for name in HOSTS:  # whoever reads a store that was closed makes SQLite's two files anew
        for dump in (before, after):
            dump[name]["files"] = [
                f for f in dump[name]["files"] if not f.endswith(("-wal", "-shm"))
            ]
    assert lab.difference(before, after) == ""
    return told


def test_a_vm_moves_into_a_network_of_an_earlier_task(fleet: Fleet) -> None:
    """To the sentence, also where that is not allowed; of addresses nothing is said before."""
    fleet.play(task("network", **NETWORK), task("vm", **SLEEPER, name="web"))
    two = task("network", name="two", subnets=["10.83.0.0/24"])
    moved = {**WEB, "networks": ["two"]}
    here = {"ips": ["10.83.0.9"], "allow_replace": True, "allow_restart": True}
    kept = foreseen(fleet, two, task("vm", **moved), fails=True)
    told = foreseen(fleet, two, task("vm", **moved, **here))
    refused = fleet.play(two, task("vm", **moved), fails=True)
    done = fleet.play(task("vm", **moved, **here))
    for name in HOSTS:
        assert kept[name][1]["msg"] == refused[name][1]["msg"]
        assert (
            "there is no network two, which an earlier task may make"
            in told[name][1]["warnings"][0]
        )
        assert [w.partition(",")[0] for w in told[name][1]["actions"]] == [
            w.partition(",")[0] for w in done[name][0]["actions"]
        ]
        assert told[name][1]["diff"]["after"]["networks"] == ["two"]
        assert done[name][0]["vm"]["interfaces"][0]["ipv4"] == "10.83.0.9"


def test_a_play_that_takes_all_away_is_foreseen(fleet: Fleet) -> None:
    """The network goes after its VMs; a process of somebody else's keeps its VM, as it does really."""
    fleet.play(task("network", **NETWORK), task("vm", **WEB))
    fleet.play(task("vm", name="own", networks=["lab"], hypervisor="external"))
    with subprocess.Popen(["sleep", "600"]) as process:
        for name in HOSTS:
            hvtx(fleet, name, "vm", "attach", "own", "--pid", str(process.pid))
        for state in ("stopped", "restarted", "absent"):
            ask = task("vm", name="own", state=state)
            told, really = foreseen(fleet, ask, fails=True), fleet.play(ask, fails=True)
            for result in (*each(told), *each(really)):
                assert (result["exit_code"], result["code"]) == (4, "conflict")
                assert result["msg"].startswith(
                    "the process of VM 'own' runs, and hvtx did not start it"
                )
        process.kill()
    away = [task("vm", name=name, state="absent") for name in ("web", "own")]
    told = foreseen(fleet, *away, task("network", name="lab", state="absent"))
    done = fleet.play(*away, task("network", name="lab", state="absent"))
    for name in HOSTS:
        assert [r["actions"] for r in told[name]] == [r["actions"] for r in done[name]]
        assert (
            [r["changed"] for r in told[name]] == [r["changed"] for r in done[name]] == [True] * 3
        )


def test_what_is_off_the_record_is_foreseen(fleet: Fleet, tmp_path: Path) -> None:
    """With ``unrecorded``: what would be deleted, as a diff, and what is left besides."""
    fleet.play(task("network", **NETWORK))
    for name in HOSTS:
        hvtx(fleet, name, "store", "backup", str(tmp_path / f"{name}.db"))
    pids = [r["vm"]["pid"] for r in each(fleet.play(task("vm", **WEB)))]
    for name, pid in zip(HOSTS, pids, strict=True):
        hvtx(fleet, name, "store", "restore", str(tmp_path / f"{name}.db"), "--force")
        hvtx(fleet, name, "recover", "--accept-rollback")
        lab.end(pid)
    ask = task("gc", apply=True, unrecorded=True)
    told = foreseen(fleet, ask)
    done = fleet.play(ask)
    for one, other in zip(each(told), each(done), strict=True):
        assert one["changed"] is other["changed"] is True
        assert "delete tap hv" in one["diff"]["before"]
        assert one["diff"] == other["diff"]
        assert one["left"] == other["left"]


def test_a_host_without_hvtx_is_foreseen(fleet: Fleet, tmp_path: Path) -> None:
    """An earlier task may install it: what would be made is said, with a warning."""
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    tasks = [
        task("network", **NETWORK),
        task("vm", **WEB),
        task("gc", apply=True),
        task("vm", name="web", state="absent"),
    ]
    book = [{"hosts": "all", "gather_facts": False, "vars": {"ansible_python_interpreter": str(bare)}, "tasks": tasks}]  # fmt: skip
    for results in fleet.run(json.dumps(book), "--check").values():
        assert [r["changed"] for r in results] == [True, True, False, False]
        assert results[1]["actions"] == ["create VM web", "start VM web"]
        assert results[0]["diff"]["after"] == {"subnets": ["10.81.0.0/24"]}
        assert all("which an earlier task may install" in r["warnings"][0] for r in results)


def argument_spec(name: str) -> dict[str, dict[str, Any]]:
    """What a module takes, as it tells Ansible."""
    kept: dict[str, Any] = {}

    def keep(**words: Any) -> None:
        kept.update(words)
        raise SystemExit

    module = importlib.import_module(f"ansible_collections.hvtx.host.plugins.modules.{name}")
    module.AnsibleModule = keep
    with pytest.raises(SystemExit):
        module.main()
    return kept["argument_spec"]


def test_ansible_reads_the_documentation(collections: Path, tmp_path: Path) -> None:
    """Each option of a module is documented with its type, and nothing else is."""
    names = [f"hvtx.host.{name}" for name in MODULES]
    here = {"ANSIBLE_COLLECTIONS_PATH": str(collections), "HOME": str(tmp_path)}
    told = json.loads(program("ansible-doc", "--json", *names, **here))
    assert sorted(told) == names
    sys.path.insert(0, str(collections))
    try:
        for name in MODULES:
            spec = argument_spec(name)
            documented = told[f"hvtx.host.{name}"]["doc"]["options"]
            assert sorted(spec) == sorted(documented)
            for option, asked in spec.items():
                words = documented[option]
                for key in ("type", "elements", "choices", "default", "aliases"):
                    assert asked.get(key) == words.get(key), (name, option, key)
                assert asked.get("required", False) == words.get("required", False)
            assert told[f"hvtx.host.{name}"]["examples"]
            assert told[f"hvtx.host.{name}"]["return"]
    finally:
        sys.path.remove(str(collections))
    role = json.loads(program("ansible-doc", "-t", "role", "--json", "hvtx.host.install", **here))
    options = role["hvtx.host.install"]["entry_points"]["main"]["options"]
    defaults = re.findall(
        r"(?m)^(hvtx_\w+):", (SOURCE / "roles/install/defaults/main.yml").read_text()
    )
    assert sorted(options) == sorted(defaults)


def test_every_example_is_accepted(collections: Path, fleet: Fleet) -> None:
    """The README's play, and the examples of each module: Ansible finds no fault in them."""
    readme = (SOURCE / "README.md").read_text()
    [play] = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", readme) if "hosts:" in block]
    here = {"ANSIBLE_COLLECTIONS_PATH": str(collections), "HOME": str(fleet.place)}
    told = json.loads(
        program("ansible-doc", "--json", *(f"hvtx.host.{name}" for name in MODULES), **here)
    )
    (fleet.place / "readme.yml").write_text(play)
    for name, words in told.items():
        (fleet.place / f"{name}.yml").write_text(
            "- hosts: all\n  tasks:\n" + textwrap.indent(words["examples"], "    ")
        )
    (fleet.place / "page.yml").write_text(text("hosts.yml"))
    (fleet.place / "inventory").write_text(text("inventory.yml"))
    inventory = json.loads(
        program("ansible-inventory", "-i", str(fleet.place / "inventory"), "--list", **here)
    )
    assert inventory["hypervisors"]["hosts"] == list(HOSTS)
    books = [str(path) for path in sorted(fleet.place.glob("*.yml"))]
    assert len(books) == 2 + len(MODULES)
    program("ansible-playbook", "--syntax-check", *books, **here)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with hvtx and all that it needs, as wheels; made outside the tests' namespaces."""
    place = tmp_path_factory.mktemp("wheels")
    source = tmp_path_factory.mktemp("source")  # building leaves things beside the source
    for name in ("hvtx", "migrations", "scripts"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(TOP / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "-w", str(place), str(source)]
    subprocess.run(pip, check=True, timeout=200)
    return place


def test_the_role_installs_by_pip(wheels: Path, fleet: Fleet, tmp_path: Path) -> None:
    """A virtual environment and units in a root of the test's own; the second run changes nothing."""
    place, root = tmp_path / "venv", tmp_path / "root"
    root.mkdir()
    variables = {
        "hvtx_install_from": "pip", "hvtx_install_venv": str(place),
        "hvtx_install_python": sys.executable, "hvtx_install_root": str(root)
    }  # fmt: skip
    play = [{
        "hosts": "north", "gather_facts": False,
        "environment": {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}, "roles": [{"role": "hvtx.host.install", "vars": variables}],
    }]  # fmt: skip
    first = fleet.run(json.dumps(play), only="north")["north"]
    assert any(result["changed"] for result in first)
    assert (root / "etc/systemd/system/hvtx-recover.service").exists()
    before = sorted(map(str, tmp_path.rglob("*")))
    again = fleet.run(json.dumps(play), only="north")["north"]
    assert [result["changed"] for result in again] == [False] * len(first)
    checked = fleet.run(json.dumps(play), "--check", only="north")["north"]
    assert not any(result["changed"] for result in checked)
    unit, timer = (
        root / "etc/systemd/system" / f"hvtx-{name}" for name in ("gc.service", "gc.timer")
    )
    kept = unit.read_text(), timer.read_text()
    unit.unlink()
    timer.unlink()
    checked = fleet.run(json.dumps(play), "--check", only="north")["north"]
    assert [result["changed"] for result in checked] == [False] * (len(checked) - 1) + [True]
    differing = [one for one in checked[-1]["results"] if one["changed"]]
    assert sorted(one["item"]["path"] for one in differing) == sorted(
        f"/etc/systemd/system/{one.name}" for one in (unit, timer)
    )
    assert "OnUnitInactiveSec=" in json.dumps([one["diff"] for one in differing])
    assert (unit.exists(), timer.exists()) == (False, False)
    mended = fleet.run(json.dumps(play), only="north")["north"]
    assert any(result["changed"] for result in mended)
    assert (unit.read_text(), timer.read_text()) == kept
    made = [
        path
        for path in map(str, tmp_path.rglob("*"))
        if path not in before and "__pycache__" not in path
    ]
    assert made == []
    use = [{
        "hosts": "south", "gather_facts": False, "vars": {"ansible_python_interpreter": str(place / "bin/python")},
        "tasks": [task("gc", state_dir=str(tmp_path / "none"), run_dir=str(tmp_path / "run"), config="/dev/null")],
    }]  # fmt: skip
    [result] = fleet.run(json.dumps(use), only="south")["south"]
    assert result["items"] == []


@pytest.mark.parametrize("way", ["deb", "pip"])
def test_the_role_is_foreseen_on_a_fresh_host(fleet: Fleet, tmp_path: Path, way: str) -> None:
    """What a first task would bring the second does not find: that is no failure."""
    package = tmp_path / "hvtx.deb"
    package.write_text("a package\n")
    variables = {
        "hvtx_install_from": way, "hvtx_install_deb": str(package),
        "hvtx_install_venv": str(tmp_path / "venv"), "hvtx_install_python": sys.executable,
    }  # fmt: skip
    play = [{"hosts": "north", "gather_facts": False, "roles": [{"role": "hvtx.host.install", "vars": variables}]}]  # fmt: skip
    told = fleet.run(json.dumps(play), "--check", only="north")["north"]
    assert [result["outcome"] for result in told] == ["ok"] * len(told)
    assert any(result["changed"] for result in told)
    assert not Path("/var/cache/hvtx.deb").exists()
    assert not (tmp_path / "venv").exists()
