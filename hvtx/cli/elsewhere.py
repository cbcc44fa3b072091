"""Words of other programs (virsh, podman, ip, systemctl), and what is meant by them here. Pure.

For hints only: nothing is done on a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.model.nearest import nearest

# What the groups are called elsewhere.
GROUPS: Mapping[str, str] = {
    **dict.fromkeys(("vms", "machine", "machines", "guest", "guests"), "vm"),
    **dict.fromkeys(("domain", "domains", "instance", "instances"), "vm"),
    **dict.fromkeys(("net", "nets", "networks", "subnet", "bridge", "bridges"), "network"),
}

# What commands of groups are called elsewhere: the first that the group has is meant.
_VERBS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("ls", "list", "ps"), ("ls", "status", "print")),
    "status": ("ls", "status"),
    **dict.fromkeys(
        ("rm", "delete", "del", "remove", "erase", "purge", "undefine"),
        ("rm", "uninstall", "forget"),
    ),
    "destroy": ("stop --force", "rm"),  # virsh's: a VM is ended, and stays on record
    **dict.fromkeys(("create", "define", "add", "new", "make"), ("create", "install")),
    **dict.fromkeys(("run", "launch", "spawn"), ("run",)),
    **dict.fromkeys(("start", "boot", "up", "poweron"), ("start",)),
    **dict.fromkeys(("stop", "shutdown", "poweroff", "halt", "down", "terminate"), ("stop",)),
    "kill": ("stop --force",),
    **dict.fromkeys(("set", "edit", "update", "modify", "change", "resize"), ("set",)),
    **dict.fromkeys(("restart", "reboot", "reset", "reload"), ("restart",)),
    **dict.fromkeys(("show", "inspect", "info", "describe", "get", "view"), ("show", "print")),
    **dict.fromkeys(("dominfo", "domstate", "domifaddr", "domiflist", "domblklist"), ("show",)),
    **dict.fromkeys(("port", "ports", "addr", "address", "ip"), ("show",)),
    **dict.fromkeys(("log", "logs", "journal"), ("logs",)),
    **dict.fromkeys(("console", "attach", "shell", "enter", "login", "ssh", "exec"), ("console",)),
    **dict.fromkeys(("save", "dump", "export", "copy"), ("backup",)),
    **dict.fromkeys(("load", "recover"), ("restore",)),
    "enable": ("install",),
    "disable": ("uninstall",),
}

# What is said below `hvtx` itself.
_ROOT: Mapping[str, str] = {
    **dict.fromkeys(("prune", "clean", "cleanup", "collect", "plan"), "gc --plan"),
    **dict.fromkeys(("events", "history", "journal", "audit"), "log"),
    **dict.fromkeys(("check", "health", "diagnose", "verify", "system", "host"), "doctor"),
    "info": "doctor",
    **dict.fromkeys(("fix", "heal", "mend"), "repair"),
    **dict.fromkeys(("backup", "save", "dump"), "store backup"),
    **dict.fromkeys(("restore", "load"), "store restore"),
    **dict.fromkeys(("install", "enable"), "systemd install"),
    **dict.fromkeys(("uninstall", "disable"), "systemd uninstall"),
    **dict.fromkeys(("stats", "top", "monitor"), "metrics"),
    **dict.fromkeys(("why", "who", "whose", "owner"), "explain"),
    "apply": "vm apply",
    "version": "--version",
}

# What there is no command for.
_NONE: Mapping[str, str] = {
    **dict.fromkeys(
        ("pause", "suspend", "resume", "unpause", "freeze"),
        "guests are not paused here: `hvtx vm stop` ends one and keeps its addresses",
    ),
    **dict.fromkeys(
        ("rename", "mv", "move", "domrename"),
        "a name stays: create another (`hvtx vm create --help`), then `hvtx vm rm` the old one",
    ),
    **dict.fromkeys(
        ("snapshot", "clone", "migrate", "commit", "image", "images", "pull", "push", "build"),
        "hvtx has no disk images, snapshots or migration: make the image, then give it as --disk",
    ),
    "upgrade": "upgrade it as it was installed: apt install ./hvtx_….deb, or pipx install --force",
}


# The same below one group; of `hvtx` itself below "".
_NONE_OF: Mapping[str, Mapping[str, str]] = {
    "": dict.fromkeys(
        ("config", "configure", "configuration", "settings"),
        "settings are options before the command (`hvtx --help`), variables, or lines of"
        " /etc/hvtx/config.toml",
    ),
    "network": {
        **dict.fromkeys(
            ("start", "up", "boot", "poweron"),
            "it is up from `hvtx network create` on; hvtx repair NAME puts back what it lacks",
        ),
        **dict.fromkeys(
            ("stop", "down", "shutdown"),
            "a network is up until it is removed: hvtx network rm NAME",
        ),
        **dict.fromkeys(
            ("restart", "reload", "reset"),
            "hvtx repair NAME puts back what is missing of it; `hvtx doctor` says what that is",
        ),
        **dict.fromkeys(
            ("connect", "disconnect", "attach", "detach"),
            "a VM's networks are given once, when it is made: `hvtx vm create --help`",
        ),
    },
    "vm": {
        **dict.fromkeys(
            ("stats", "stat", "top", "usage"),
            "hvtx vm show NAME tells its pid, and `top -p PID` what that takes",
        ),
        **dict.fromkeys(
            ("autostart", "enable", "disable"),
            "whether it starts at boot: hvtx vm set NAME --autostart, or --no-autostart",
        ),
        **dict.fromkeys(
            ("publish", "port-forward", "forward", "expose"),
            "a port of the guest on the host: hvtx vm set NAME --publish 8080:80",
        ),
        "unpublish": "hvtx vm set NAME --unpublish 8080",
        **dict.fromkeys(
            ("detach", "disconnect"),
            "no process is let go of, and networks are given once: hvtx vm stop NAME ends it",
        ),
        "connect": "networks are given once, when a VM is made: `hvtx vm create --help`",
    },
    "systemd": {"status": "systemctl status hvtx-recover.service hvtx-gc.timer"},
    "import": dict.fromkeys(
        ("libvirt", "virsh", "qemu", "docker", "podman", "proxmox"),
        "a device that another program made: hvtx adopt DEVICE --vm NAME",
    ),
}


def no_command(name: str, group: str) -> str | None:
    """What is done in the place of something that hvtx, or a ``group``, has no command for."""
    return _NONE_OF.get(group, {}).get(name) or _NONE.get(name)


def verb_meant(name: str, known: Sequence[str]) -> str | None:
    """The command of a group with ``known`` ones that is called ``name`` elsewhere."""
    if name in known:
        return name
    found = (verb for verb in _VERBS.get(name, ()) if verb.split()[0] in known)
    return next(found, None)


def is_elsewhere(name: str) -> bool:
    """Whether other programs have a command of a group that is called so: it is no slip."""
    return name in _VERBS


def root_meant(name: str) -> str | None:
    """The command below `hvtx` that is called ``name`` elsewhere."""
    return _ROOT.get(name)


def words_after(name: str, arguments: Sequence[str]) -> list[str]:
    """The words that follow ``name``, up to the first option, which is shown as ``…``."""
    rest = list(arguments)[list(arguments).index(name) + 1 :] if name in arguments else []
    return words_before_options(rest)


def words_behind(names: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """What follows the last of ``names``, which are looked for one after the other."""
    rest = list(arguments)
    for name in names:
        rest = rest[rest.index(name) + 1 :] if name in rest else rest
    return rest


def words_before_options(words: Sequence[str]) -> list[str]:
    """These words up to the first option, which is shown as ``…``."""
    options = (number for number, word in enumerate(words) if word.startswith("-"))
    first = next(options, None)
    return list(words) if first is None else [*words[:first], "…"]


def reordered(words: Sequence[str], known: Callable[[str], Sequence[str]]) -> str | None:
    """``vm start web`` of ``start vm web``, ``web vm start`` and ``vms start web``.

    The group and its command are looked for among the first three words; None without both.
    ``known`` tells the commands of ``vm`` and of ``network``.
    """
    first = [word.casefold() for word in words[:3]]
    if first[0] in GROUPS and first[1:2] and first[1] in known(GROUPS[first[0]]):
        return None  # all but the group is right, which is told alone
    for number, word in enumerate(first):
        group = word if word in {"vm", "network"} else GROUPS.get(word)
        if group is None:
            continue
        for other, said in enumerate(first):
            verb = None if other == number else verb_meant(said, known(group))
            if verb is not None:
                left = [one for n, one in enumerate(words) if n not in {number, other}]
                return " ".join([group, verb, *left])
    return None


# -- options ---------------------------------------------------------------------------------------

# What options are called elsewhere, and what is meant by it: the first that the command has.
OPTIONS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("--port", "--ports", "--expose"), ("--publish",)),
    **dict.fromkeys(("--ram", "--mem", "-m"), ("--memory",)),
    **dict.fromkeys(("--image", "--drive", "--hda", "--volume"), ("--disk",)),
    **dict.fromkeys(("--vcpus", "--smp", "-c"), ("--cpus",)),
    **dict.fromkeys(("--cidr", "--range", "--ip-range"), ("--subnet",)),
    **dict.fromkeys(("--rate", "--bandwidth"), ("--limit",)),
    "--format": ("--json",),
    **dict.fromkeys(("--output", "-o"), ("--out", "--json")),
    **dict.fromkeys(("--dry-run", "--check", "-n"), ("--plan", "--dry-run")),
    **dict.fromkeys(("--time", "-t"), ("--timeout",)),
    **dict.fromkeys(("--tail", "--lines"), ("-n",)),
    "-f": ("--force", "--file"),
    **dict.fromkeys(("--ip6", "--ipv6", "--address"), ("--ip", "--subnet")),
    **dict.fromkeys(("--mac-address", "--macaddr", "--hwaddr"), ("--mac",)),
    **dict.fromkeys(("--net", "--nic", "--bridge"), ("--network",)),
    **dict.fromkeys(("--cmdline", "--extra-args"), ("--append",)),
    "--internal": ("--egress",),
    "--restart": ("--autostart",),
    "-V": ("--version",),
    "-y": ("--yes",),
}

_RUNS = ("vm create", "vm run", "vm start", "vm restart")
_NAMED = (*_RUNS, "vm stop", "vm rm", "vm set", "vm show", "vm logs", "network create")
_BACKGROUND = "a VM runs in the background; `hvtx vm console NAME` joins the console of a guest"
_STAYS = "a VM stays on record after it ends, until `hvtx vm rm NAME`"

# What no option says: words, the commands that it is told for, and what is done instead.
_ADVICE: Sequence[tuple[Sequence[str], Sequence[str], str]] = (
    (("--name",), _NAMED, "the name is a word of its own: hvtx {path} NAME …"),
    (("-i", "-t", "--interactive", "--tty", "-d", "--detach"), _RUNS, _BACKGROUND),
    (("--rm",), _RUNS, _STAYS),
    (
        ("-e", "--env"),
        ("vm create", "vm run"),
        "the command brings its environment: -- env NAME=VALUE COMMAND…",
    ),
    (
        ("-a", "--all"),
        ("vm ls", "network ls"),
        "all are listed, running or not: hvtx {path}",
    ),
    (
        ("-a", "--all"),
        ("vm start", "vm stop", "vm rm"),
        "name each: hvtx {path} NAME NAME…; `hvtx vm ls` lists them",
    ),
    (
        ("-a", "--all"),
        ("vm restart",),
        "name each: hvtx vm stop NAME NAME…; hvtx vm start NAME NAME…; `hvtx vm ls` lists them",
    ),
    (
        ("-q", "--quiet"),
        ("vm ls",),
        "the names alone: hvtx vm ls --json | jq -r '.vms[].name'",
    ),
    (
        ("-q", "--quiet"),
        ("network ls",),
        "the names alone: hvtx network ls --json | jq -r '.networks[].name'",
    ),
    (
        ("-f", "--follow"),
        ("vm logs",),
        "follow its file: tail -F {state}/logs/NAME.log",
    ),
    (("-n", "--tail", "--lines"), ("vm logs",), "its last lines: hvtx vm logs NAME | tail -n 20"),
    (
        ("-y", "--yes", "-f", "--force"),
        ("vm create", "vm stop", "vm rm", "network rm", "recover", "repair"),
        "nothing is asked here: leave it out",
    ),
    (("--fix", "--repair"), ("doctor",), "`hvtx repair` puts back what is damaged"),
    (
        ("--gateway",),
        ("network create",),
        "the gateway is the first address of each --subnet",
    ),
    (("--driver", "-d"), ("network create",), "a network is always a bridge: leave it out"),
    (
        ("--dhcp-range", "--dhcp-start", "--dhcp-end"),
        ("network create", "network set"),
        "guests get the addresses that are leased to them on record: --dhcp serves just these",
    ),
    (("--vlan", "--vlan-id"), ("network create",), "hvtx has no VLANs: make a network for each"),
    (
        ("--iso", "--cdrom"),
        ("vm create", "vm run", "vm set"),
        "there is no CD-ROM drive: give a disk image as --disk, or a --kernel and an --initrd",
    ),
    (
        ("--wait", "--now"),
        ("vm run", "vm start", "vm stop", "vm restart"),
        "it waits until that is so by itself: leave it out",
    ),
    (("-f", "--follow"), ("log",), "it is printed once; again and again: watch hvtx log -n 20"),
    (
        ("--port", "--listen"),
        ("metrics",),
        "hvtx is no server: hvtx metrics --textfile FILE is what node_exporter reads",
    ),
    (("-f", "--force"), ("gc",), "nothing is forced: hvtx gc --plan --all says why a thing stays"),
    (("-n", "--dry-run", "--check"), ("repair",), "hvtx doctor tells what it would put back"),
    (("-a", "--all"), ("repair", "recover"), "it does all by itself: hvtx {path}"),
    (("--until",), ("log",), "only --since bounds it; -n NUMBER tells how many of the latest"),
    (
        ("--dry-run", "--check"),
        ("vm create", "vm run", "vm start", "network create"),
        "describe it in a file, then: hvtx vm apply --plan -f FILE",
    ),
)


def option_advice(option: str, path: str, state: str) -> str | None:
    """What is done where ``option`` is meant, for the command ``vm run`` or the like.

    ``state`` is the state directory.
    """
    for options, paths, advice in _ADVICE:
        if option in options and path in paths:
            return advice.format(path=path, state=state)
    return None


# Programs whose words are a rule, which stands after two dashes.
_RULES = ("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "nft")


def rule_of(path: str, arguments: Sequence[str]) -> str | None:
    """The rule that ``explain`` or ``adopt`` was given as if its options were theirs."""
    if path not in {"explain", "adopt"}:
        return None
    start = (number for number, word in enumerate(arguments) if word in _RULES)
    first = next(start, None)
    return None if first is None else " ".join(arguments[first:])


def alike(option: str, own: Iterable[str]) -> str | None:
    """Which of a command's ``own`` options has nearly these letters; one letter is like none."""
    if not option.startswith("--"):
        return None
    # without their dashes, which would make all of them alike
    known = {one.lstrip("-"): one for one in own if one.startswith("--")}
    likely = nearest(option.lstrip("-"), known)
    return known[likely] if likely else None


# -- words too many --------------------------------------------------------------------------------

_EXTRA: Mapping[str, str] = {
    "vm ls": "one of them: hvtx vm show {extra}",
    "network ls": "one of them: hvtx network show {extra}",
    "log": "of one VM: hvtx log --vm {extra}",
    "intents": "of one VM: hvtx vm show {extra}, hvtx log --vm {extra}",
    "vm show": "one at a time: hvtx vm show {extra}",
    "vm logs": "one at a time: hvtx vm logs {extra}",
    "vm console": "one at a time: hvtx vm console {extra}",
    "vm restart": "one at a time: hvtx vm restart {extra}",
    "network show": "one at a time: hvtx network show {extra}",
    "network rm": "one at a time: hvtx network rm {extra}",
    "network set": "one at a time: hvtx network set {extra}",
    "doctor": "it checks the whole host: hvtx doctor; one thing: hvtx explain {extra}",
    "recover": "it looks at all of them: hvtx recover",
}


def extra_advice(path: str, extra: str) -> str | None:
    """What is done with a word more than the command ``vm ls`` or the like takes."""
    if extra.lower() in ("yes", "no", "true", "false", "on", "off"):
        return f"leave {extra!r} out: options without a value in their help take none"
    words = _EXTRA.get(path)
    return None if words is None else words.format(extra=extra)
