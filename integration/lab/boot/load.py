"""What the machine does: check itself after the boot, then make, start, stop and remove VMs.

It runs in the machine and reports on its second serial port, one line each:

    check JSON            what the host is after the recovery
    begin N VERB VM       before an operation
    done N VERB VM JSON   it exited with 0 (JSON: the VM as it was shown)
    failed N VERB VM CODE it exited otherwise
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

STORE = "/var/lib/hvtx/hvtx.db"
NAMES = [f"vm{n}" for n in range(6)]
PORT = "/dev/ttyS1"


def call(*arguments: str) -> tuple[int, str]:
    """Run hvtx in a forked child: the same command line, without an interpreter to start."""
    out = os.memfd_create("out")
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.dup2(out, 1)
            sys.stdout = os.fdopen(1, "w")
            from hvtx.cli.main import run

            sys.argv = ["/usr/local/bin/hvtx", *arguments]
            code = run(arguments)
            sys.stdout.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(out, "rb") as file:
        file.seek(0)
        return os.waitstatus_to_exitcode(status), file.read().decode()


def words(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def vms() -> list[dict[str, object]]:
    code, out = call("vm", "ls", "--json")
    if code != 0:
        return [{"error": code}]
    return [
        {
            "name": vm["name"],
            "state": vm["state"],
            "mac": [i["mac"] for i in vm["interfaces"]],
            "ipv4": [i["ipv4"] for i in vm["interfaces"]],
            "device": [i["device"] for i in vm["interfaces"]],
        }
        for vm in json.loads(out)["vms"]
    ]


def check() -> dict[str, object]:
    """Everything that must hold after a boot, as seen from inside."""
    links = json.loads(words("ip", "-j", "-d", "link", "show"))
    kinds = [(x["ifname"], x.get("linkinfo", {}).get("info_kind")) for x in links]
    with closing(sqlite3.connect(f"file:{STORE}?mode=ro", uri=True)) as sql:
        integrity = sql.execute("PRAGMA integrity_check").fetchone()[0]
        foreign = sql.execute("PRAGMA foreign_key_check").fetchall()
        leases = sql.execute("SELECT count(*) FROM lease").fetchone()[0]
        interfaces = sql.execute("SELECT count(*) FROM interface").fetchone()[0]
    plan_code, plan = call("gc", "--plan", "--json", "--detailed-exitcode")
    return {
        "boot": words("cat", "/proc/sys/kernel/random/boot_id"),
        "recover": words("systemctl", "is-active", "hvtx-recover.service"),
        "integrity": integrity,
        "foreign_keys": len(foreign),
        "leases": leases,
        "interfaces": interfaces,
        "plan": [plan_code, [i for i in json.loads(plan)["items"] if i["action"] != "skip"]],
        "intents": json.loads(call("intents", "--json")[1])["operations"],
        "repaired": json.loads(call("repair", "--json")[1])["repaired"],
        "vms": vms(),
        "taps": sorted(name for name, kind in kinds if kind == "tun"),
        "bridges": sorted(name for name, kind in kinds if kind == "bridge"),
    }


def work(say: object, random_: random.Random) -> None:
    """Operations without end, each announced before and reported after."""
    state = {str(vm["name"]): vm["state"] for vm in vms()}
    for number in range(1_000_000):
        name = random_.choice(NAMES)
        verb, arguments = choose(name, state.get(name), random_)
        say(f"begin {number} {verb} {name}")  # type: ignore[operator]
        code, out = call(*arguments)
        if code != 0:
            say(f"failed {number} {verb} {name} {code}")  # type: ignore[operator]
            state = {str(vm["name"]): vm["state"] for vm in vms()}
            continue
        shown = json.loads(out) if out.lstrip().startswith("{") else {}
        interfaces = shown.get("interfaces", [])
        seen = {
            "mac": [i["mac"] for i in interfaces],
            "ipv4": [i["ipv4"] for i in interfaces],
            "autostart": "--autostart" in arguments,
        }
        say(f"done {number} {verb} {name} {json.dumps(seen)}")  # type: ignore[operator]
        if verb == "rm":
            state.pop(name, None)
        else:
            state[name] = {"stop": "defined", "create": "defined"}.get(verb, "running")


def choose(name: str, state: object, random_: random.Random) -> tuple[str, list[str]]:
    """What to do with a VM in a state: a verb for the report, and the command line."""
    port = str(9000 + NAMES.index(name))
    new = [name, "--publish", f"{port}:80", "--json"]
    new += ["--autostart"] if random_.random() < 0.4 else []
    guest = ["--", "sleep", "100000"]
    if state is None:
        verb = random_.choice(("create", "run"))
        return verb, ["vm", verb, *new, *guest]
    if state == "running":
        if random_.random() < 0.3:
            return "rm", ["vm", "rm", name, "--force"]
        return "stop", ["vm", "stop", name, "--timeout", "1", "--json"]
    if random_.random() < 0.3:
        return "rm", ["vm", "rm", name]
    return "start", ["vm", "start", name, "--json"]


def preload() -> None:
    """Load once what children would load each for themselves, slowly on an emulated processor."""
    import hvtx

    rooms = ("cli", "drivers", "engine", "host", "hypervisors", "planner", "store")
    for room in rooms:
        for module in pkgutil.iter_modules([f"{hvtx.__path__[0]}/{room}"]):
            importlib.import_module(f"hvtx.{room}.{module.name}")


def main() -> None:
    preload()
    port = os.open(PORT, os.O_WRONLY | os.O_NOCTTY)

    def say(line: str) -> None:
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(port, data) :]
        # The port drains before the next thing happens: what was said is outside.
        import termios

        termios.tcdrain(port)

    code, _ = call("network", "ls")
    if not os.path.exists(STORE):
        code, _ = call("network", "create", "default", "--subnet", "10.88.0.0/24")
        say(f"made {code}")
    try:
        checked = check()
    except Exception as problem:  # a store that cannot be read, hvtx that prints no JSON
        say("check " + json.dumps({"error": repr(problem)}))
        raise
    say("check " + json.dumps(checked))
    work(say, random.Random())


if __name__ == "__main__":
    main()
