"""The demo itself; ``scripts/demo`` starts it as root in namespaces made for it.

    python demo.py GUEST     GUEST: directory with vmlinuz, initrd.img and busybox

hvtx is used as anybody would: by its command line. What is claimed at the end is found out from
the host's own tools, by whole dumps compared before and after, not from what hvtx says of itself.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from integration import lab

SUBNET = "10.77.0.0/24"
PORTS = {"red": 8081, "blue": 8082, "green": 8083}
PATIENCE = 90  # seconds until a guest must serve; it takes 3 to 5 without KVM
LOOK = 2  # seconds that one look may take
SHOWN = 8  # lines of a log
TELLING = re.compile(r"KVM|internal error|\berror\b|[Pp]anic|qemu-system")
AGAIN = 3  # exit status: KVM let a guest down, and emulation may carry it
STRANGE_TABLE = "someone-else"


class NotSoError(Exception):
    """A step did not do what it is there to show; the message says which."""


class GuestError(NotSoError):
    """A guest did not do what it was waited for."""


class Scene(NamedTuple):
    """What every step needs."""

    guest: Path
    world: lab.Namespace
    pages: Path  # what the world's web server serves
    clients: Path  # its log, which names them


PROVEN: list[str] = []
USED: dict[str, str | None] = {}  # with what QEMU was started for each VM, as hvtx says


# --- saying and running ---------------------------------------------------------------------------


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def proven(claim: str) -> None:
    """Remember a claim that was just checked, and say it."""
    PROVEN.append(claim)
    print(f"✓ {claim}")


def demand(holds: object, claim: str, seen: str = "") -> None:
    """``claim`` must hold; ``seen`` is shown when it does not."""
    if not holds:
        raise NotSoError(claim + (f"\n{seen.rstrip()}" if seen else ""))
    proven(claim)


def run(
    *argv: str, code: int = 0, env: dict[str, str] | None = None, quiet: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would have typed it, and show it with what it printed."""
    settings = "".join(f"{name}={value} " for name, value in (env or {}).items())
    if not quiet:
        print(f"$ {settings}{shlex.join(argv)}", flush=True)
    done = subprocess.run(
        argv,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    text = done.stdout + done.stderr
    if not quiet:
        print("".join(f"  {line}\n" for line in text.splitlines()), end="", flush=True)
    if done.returncode != code:
        raise NotSoError(f"`{shlex.join(argv)}` gave exit {done.returncode}, not {code}\n{text}")
    return done


def ask(*argv: str) -> Any:
    """What hvtx answers with ``--json``, without showing it."""
    return json.loads(run("hvtx", *argv, "--json", quiet=True).stdout)


def wait_for(what: str, look: Callable[[], str | None], vm: str | None = None) -> str:
    """Look every 0.2 s until there is an answer; say so where it takes longer than a second.

    Gives up after PATIENCE seconds, or as soon as the guest of ``vm`` is known not to run.
    """
    began = time.monotonic()
    said, asked = False, began
    while (passed := time.monotonic() - began) < PATIENCE - LOOK:
        answer = look()
        if answer:
            return answer
        if passed > 1 and not said:
            print(f"  (waiting for {what}, up to {PATIENCE} s)", flush=True)
            said = True
        if vm and time.monotonic() - asked > 2 * LOOK:
            if (problem := trouble(vm)) is not None:
                raise GuestError(f"{what}: {problem}")
            asked = time.monotonic()
        time.sleep(0.2)
    raise (GuestError if vm else NotSoError)(f"{what}: not within {PATIENCE} seconds")


def trouble(vm: str) -> str | None:
    """Why a VM's guest can do nothing any more, from what hvtx and its hypervisor know."""
    told = ask("vm", "show", vm)
    guest = told.get("guest")
    if told["state"] != "running":
        return f"VM {vm} is {told['state']}"
    return f"its guest is {guest}" if guest not in (None, "running", "unknown") else None


# --- the host as its own tools show it ------------------------------------------------------------


def without_motion(value: Any) -> Any:
    """The same without packet counters and timers: traffic and time are not state."""
    if isinstance(value, dict):
        if set(value) == {"packets", "bytes"}:
            return {}
        still = {key for key in value if not key.endswith("_timer") and key != "fdb_n_learned"}
        return {key: without_motion(value[key]) for key in value if key in still}
    if isinstance(value, list):
        return [without_motion(inner) for inner in value]
    return value


def saved(program: str, *table: str) -> list[str]:
    """The lines of an ``iptables-*-save``: no comments (they hold the time), no counters."""
    text = lab.run(program, *table)
    lines = (re.sub(r" \[\d+:\d+\]$", "", line) for line in text.splitlines())
    return [line for line in lines if not line.startswith("#")]


def dump() -> Counter[str]:
    """Links, addresses, routes, nftables and legacy tables, as a multiset of lines.

    As a multiset, two hosts can be added and subtracted, so "what was there, and what others
    brought since" is a sum.
    """
    parts = without_motion(lab.dump())
    parts["legacy"] = [
        f"{table}: {line}" for table, all_ in parts["legacy"].items() for line in all_
    ]
    parts["iptables-nft"] = saved("iptables-nft-save")
    return Counter(
        f"{part}: {item if isinstance(item, str) else json.dumps(item, sort_keys=True)}"
        for part, items in parts.items()
        for item in items
    )


def difference(expected: Counter[str], found: Counter[str]) -> str:
    """What is missing (-) and what is too much (+), for a person."""
    missing = [f"- {line}" for line in (expected - found).elements()]
    return "\n".join(missing + [f"+ {line}" for line in (found - expected).elements()])


def strangers_text() -> str:
    """Everything of the others', as text, to be compared byte for byte."""
    parts = [lab.run("ip", "-d", "link", "show", "tap-foo")]
    parts.append(lab.run("nft", "-a", "list", "table", "ip", STRANGE_TABLE))
    parts.append("\n".join(saved("iptables-nft-save", "-t", "nat")))
    if legacy_tables():
        parts.append("\n".join(saved("iptables-legacy-save", "-t", "nat")))
    return "\n".join(parts)


def legacy_tables() -> bool:
    """Does this namespace have any table of the old iptables?"""
    names = Path("/proc/net/ip_tables_names")
    return names.exists() and bool(names.read_text().strip())


# --- the steps ------------------------------------------------------------------------------------


def page(scene: Scene, port: int) -> str | None:
    """What the world gets from the host's port, None if it gets nothing."""
    argv = scene.world.argv("curl", "-s", "-m", "2", f"http://{lab.HOST4}:{port}/")
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or None


def show_page(scene: Scene, name: str, verb: str = "reads") -> None:
    """The world fetches a VM's page through its published port; the page must be that VM's."""
    port = PORTS[name]
    print(f"world$ curl http://{lab.HOST4}:{port}/", flush=True)
    text = wait_for(f"{name}'s page", lambda: page(scene, port), name)
    print(f"  {text}")
    demand(f"this is {name} " in text, f"the world {verb} {name}'s page at the host's port {port}")


def boot_arguments(scene: Scene, name: str) -> list[str]:
    """The arguments of ``vm run`` and ``vm create`` for one of the guests."""
    words = ["--network", "demo", "--memory", "128", "--publish", f"{PORTS[name]}:80"]
    words += ["--kernel", str(scene.guest / "vmlinuz"), "--initrd", str(scene.guest / "initrd.img")]
    return [*words, "--append", f"quiet world={lab.WORLD4}"]


def boot(name: str, *argv: str) -> None:
    """Start a VM by ``hvtx vm ARGV``, and note with what; GuestError if it does not come up."""
    try:
        run("hvtx", "vm", *argv)
    except NotSoError as fault:
        raise GuestError(str(fault)) from fault
    USED[name] = ask("vm", "show", name).get("accelerator")


def start_world(scene: Scene) -> subprocess.Popen[bytes]:
    """A web server beyond the uplink, which logs its clients' addresses."""
    scene.pages.mkdir()
    scene.pages.joinpath("index.html").write_text("hello from the world\n")
    server = [str(scene.guest / "busybox"), "httpd", "-f", "-vv", "-p", f"{lab.WORLD4}:80"]
    with scene.clients.open("wb") as log:
        return subprocess.Popen(
            scene.world.argv(*server, "-h", str(scene.pages)), stdin=subprocess.DEVNULL, stderr=log
        )


def show_nat(scene: Scene, name: str) -> None:
    """The guest fetched the world's page at boot; the world saw the host's address, no other."""
    wanted = f"{name}: fetched from the world: hello from the world"
    print(f"$ hvtx vm logs {name}")

    def fetched() -> str | None:
        log = run("hvtx", "vm", "logs", name, quiet=True).stdout
        return next((line for line in log.splitlines() if wanted in line), None)

    print(f"  … {wait_for(f'the line {wanted!r} in the log', fetched, name).strip()}")
    clients = set(re.findall(r"(\d+\.\d+\.\d+\.\d+)\]?:\d+: url:", scene.clients.read_text()))
    demand(
        clients == {lab.HOST4},
        f"{name} reaches the world through NAT: the world's log shows {lab.HOST4} only",
        f"clients seen: {sorted(clients)}",
    )


def plant_strangers() -> None:
    """Things of other people, as like hvtx's own as they come, in the network's own subnet."""
    run("ip", "tuntap", "add", "tap-foo", "mode", "tap")
    run("nft", "add", "table", "ip", STRANGE_TABLE)
    hook = "{ type nat hook postrouting priority 110; }"
    run("nft", "add", "chain", "ip", STRANGE_TABLE, "post", hook)
    rule = ["ip", "saddr", SUBNET, "oifname", "elsewhere0", "masquerade"]
    run("nft", "add", "rule", "ip", STRANGE_TABLE, "post", *rule)
    old = ["-s", SUBNET, "-o", "elsewhere0", "-j", "MASQUERADE"]
    run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", *old)
    try:
        lab.run("iptables-legacy", "-t", "nat", "-S")
    except AssertionError:
        print(
            "(this kernel has no legacy iptables tables: such rules of others cannot be shown here)"
        )
        return
    run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", *old)


def crash(name: str) -> None:
    """Kill the hypervisor of a VM as a crash would."""
    pid = ask("vm", "show", name)["pid"]
    run("sh", "-c", f"kill -9 {pid}")
    stat = Path(f"/proc/{pid}/stat")

    def ended() -> str | None:
        try:
            return "zombie" if stat.read_text().rsplit(")", 1)[1].split()[0] == "Z" else None
        except (FileNotFoundError, ProcessLookupError):
            return "gone"

    wait_for(f"the end of process {pid}", ended)


def half_start(scene: Scene, name: str) -> None:
    """``vm start`` is killed with its TAP and its firewall elements made, nothing committed."""
    run("hvtx", "vm", "create", name, *boot_arguments(scene, name))
    before = dump()
    run("hvtx", "vm", "start", name, code=-9, env={"HVTX_FAILPOINT": "acted:filter:kill"})
    print("  (killed)")
    left = dump() - before
    demand(
        any(line.startswith("links:") for line in left),
        f"`hvtx vm start {name}`, killed half-way, left a TAP device and firewall state behind",
        "\n".join(left),
    )


def show_plan() -> None:
    """``gc --plan``, for people; then what it says, from its JSON."""
    run("hvtx", "gc", "--plan")
    items = ask("gc", "--plan")["items"]

    def reasons(action: str, vm: str | None) -> set[str]:
        return {i["reason"] for i in items if i["action"] == action and i["vm"] == vm}

    seen = json.dumps(items, indent=1)
    demand("vm-dead" in reasons("delete", "blue"), "the plan: blue's things go (vm-dead)", seen)
    demand(
        "intent-abandoned" in reasons("delete", "green"),
        "the plan: green's half-made things go (intent-abandoned)",
        seen,
    )
    red = [i for i in items if i["vm"] == "red"]
    kept = red and all(i["action"] == "skip" and i["reason"] == "vm-alive" for i in red)
    demand(kept, "the plan: red's things stay (vm-alive)", seen)
    acting = [i for i in items if i["action"] != "skip" and i["vm"] not in {"blue", "green"}]
    foreign = [i["kind"] for i in items if i["action"] == "skip" and i["reason"] == "foreign"]
    rules = 3 if legacy_tables() else 2
    demand(
        foreign.count("tap") == 1 and foreign.count("rule") >= rules and not acting,
        f"the plan: the TAP device of others and their {rules} NAT rules stay (foreign)",
        seen,
    )


def two_guests(scene: Scene) -> Counter[str]:
    """A network and two VMs in it; the dump of the host with only the first of them."""
    heading("A network and two real guests, each with a published port")
    run("hvtx", "network", "create", "demo", "--subnet", SUBNET)
    boot("red", "run", "red", *boot_arguments(scene, "red"))
    show_page(scene, "red")
    with_red = dump()
    boot("blue", "run", "blue", *boot_arguments(scene, "blue"))
    show_page(scene, "blue")
    run("hvtx", "vm", "ls")
    heading("A guest reaches the world")
    show_nat(scene, "red")
    return with_red


def show_collected(scene: Scene, expected: Counter[str], foreign_objects: str) -> None:
    """After ``gc --apply``: what had to go is gone, what had to stay is untouched."""
    run("hvtx", "gc", "--apply")
    found = dump()
    demand(
        found == expected,
        "the dead VM's and the half-made VM's things are gone, and nothing else changed "
        "(whole dumps: links, addresses, routes, nftables, iptables)",
        difference(expected, found),
    )
    now = strangers_text()
    demand(now == foreign_objects, "the state of others is byte for byte what it was", now)
    show_page(scene, "red", "still reads")
    run("hvtx", "gc", "--plan", "--detailed-exitcode", quiet=True)
    proven("a second plan is empty")


def remove_all(scene: Scene, expected: Counter[str]) -> None:
    """What was collected can be used again; then everything goes."""
    heading("The half-made VM starts after all")
    boot("green", "start", "green")
    show_page(scene, "green")
    heading("Everything is stopped and removed")
    for name in ("red", "green"):
        run("hvtx", "vm", "stop", name)
    for name in PORTS:
        run("hvtx", "vm", "rm", name)
    run("hvtx", "network", "rm", "demo")
    found = dump()
    demand(
        found == expected,
        "the host is what it was before hvtx made anything, with the state of others beside it",
        difference(expected, found),
    )


def play(scene: Scene) -> None:
    """All steps in their order."""
    empty = dump()
    with_red = two_guests(scene)
    heading("ForeignRules move in: a TAP, and NAT rules in the very same subnet")
    before = dump()
    plant_strangers()
    after = dump()
    foreign_objects, brought = strangers_text(), after - before
    if before - after:
        raise NotSoError("others changed more than they brought", difference(before, after))
    heading("blue's hypervisor is killed, and so is a start of a third VM, half-way")
    crash("blue")
    half_start(scene, "green")
    run("hvtx", "vm", "ls")
    heading("What would gc do, and why?")
    show_plan()
    heading("gc does it")
    show_collected(scene, with_red + brought, foreign_objects)
    remove_all(scene, empty + brought)


def show_guests(kept: Path) -> None:
    """After a failure: how each VM is, and its log, a copy of which stays in ``kept``."""
    for vm in ask("vm", "ls")["vms"]:
        name, accelerator = vm["name"], vm.get("accelerator")
        words = f"{vm['state']}, guest {vm['guest']}" if vm.get("guest") else vm["state"]
        why = f", {accelerator}: {vm['accelerator_reason']}" if accelerator else ""
        print(f"\nVM {name}: {words}{why}")
        done = subprocess.run(
            ["hvtx", "vm", "logs", name], capture_output=True, check=False, timeout=20
        )
        if done.returncode != 0:
            continue
        text = done.stdout.decode(errors="replace")
        kept.mkdir(parents=True, exist_ok=True)
        copy = kept / f"{name}.log"
        copy.write_text(text)
        print(f"its log is kept: {copy}", *telling(text), sep="\n  ")


def chose_kvm() -> bool:
    """Whether hvtx gave KVM to a guest by itself, also to one of which nothing remained."""
    if os.environ.get("HVTX_QEMU_ACCEL", "auto") not in ("", "auto"):
        return False
    argv = ["hvtx", "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    found = json.loads(done.stdout)["findings"] if done.returncode in (0, 1) else []
    runs = any(f["check"] == "kvm" and f["level"] == "ok" for f in found)
    return runs or "kvm" in USED.values()


def telling(log: str) -> list[str]:
    """The first lines that speak of an error, then the last ones, of a guest's console (pure)."""
    lines = [line for line in (plain(line) for line in log.splitlines()) if line]
    errors = [n for n, line in enumerate(lines) if TELLING.search(line)][:SHOWN]
    last = range(max(0, len(lines) - SHOWN), len(lines))
    shown = sorted({*errors, *last})
    found = []
    for before, number in zip([-1, *shown], shown, strict=False):
        if number > before + 1:
            found.append("…")
        found.append(lines[number])
    return found


def plain(line: str) -> str:
    """A line without what a terminal would obey."""
    words = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|.)", "", line)
    return "".join(c if c.isprintable() else " " for c in words).strip()


def main(guest: str) -> int:
    """Set the scene, play, and sum up; 1 or AGAIN if anything was not so."""
    started = time.monotonic()
    # Fresh link-local addresses are tentative for a second, which would show in the dumps.
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
    heading("Namespaces of its own: this host, and a world behind a veth pair")
    print(f"host {lab.HOST4}, world {lab.WORLD4}; state in {os.environ['HVTX_STATE_DIR']}")
    with lab.world() as world:
        scene = Scene(Path(guest), world, Path("/run/demo/pages"), Path("/run/demo/clients.log"))
        server = start_world(scene)
        try:
            play(scene)
        except (NotSoError, AssertionError, subprocess.TimeoutExpired) as fault:
            print(f"\n✗ not so: {fault}")
            show_guests(Path(guest).parent / "demo")
            return AGAIN if chose_kvm() and isinstance(fault, GuestError) else 1
        finally:
            server.kill()
            server.wait()
    heading(f"What this showed, in {time.monotonic() - started:.0f} seconds")
    print("".join(f"✓ {claim}\n" for claim in PROVEN), end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
