"""A described set of VMs and networks, beside what is on record: which steps lead there. Pure.

A description says the whole of a thing: what it does not name is as `create` would make it. What it
does not name at all is left alone. Each step is an operation of its own, so a run that was killed
is gone on with by planning again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model import limiting
from hvtx.model.address import with_port
from hvtx.model.described import (
    NETWORK,
    VM,
    Action,
    Allowed,
    Described,
    Difference,
    Known,
    KnownVm,
    Reason,
    Step,
    WantedNetwork,
    WantedVm,
)
from hvtx.model.policy import Limits, Policy, policy_words
from hvtx.model.typed import Any
from hvtx.model.vm import DEFAULT, Network, Publish, Vm
from hvtx.planner import described_checks as checks
from hvtx.planner.described_order import ordered


def plan(described: Described, known: Known, allowed: Allowed) -> list[Step]:
    """The steps in their order, then what is as described, and what is refused.

    Raises UsageError (what could never be), NotFound (a network), Conflict (what somebody has).
    """
    drafts = checks.networks_then(described.networks, described.vms, known)
    checks.check(described.networks, described.vms, known, drafts)
    found = [step for wanted in described.networks for step in _network(wanted, known, allowed)]
    needed = {name for wanted in described.vms for name in wanted.networks}
    if DEFAULT in needed and not _is_there(DEFAULT, described.networks, known):
        words = "create network default, from a free private /24: VMs of the set are in it"
        found.append(Step(Action.CREATE, Reason.ABSENT, NETWORK, DEFAULT, words))
    for wanted in described.vms:
        found += _vm(wanted, known, drafts, allowed)
    return ordered(found)


def _is_there(name: str, wanted: Iterable[WantedNetwork], known: Known) -> bool:
    return name in known.networks or any(each.name == name for each in wanted)


# -- networks --------------------------------------------------------------------------------------

_OPTIONS = {
    "subnets": "subnet", "sources": "source", "policy": "egress", "networks": "network",
    "ips": "ip", "macs": "mac", "disks": "disk", "limits": "limit", "ssh_keys": "ssh-key",
    "user_data": "user-data", "block_size": "block-size",
}  # fmt: skip
NETWORK_CHANGES = ("isolate", "uplink", "sources", "passage", "dhcp", "policy")


def _network(wanted: WantedNetwork, known: Known, allowed: Allowed) -> list[Step]:
    name = wanted.name
    found = known.networks.get(name)
    if found is None:
        words = f"create network {name}: {', '.join(wanted.subnets)}"
        return [_step(Action.CREATE, Reason.ABSENT, wanted, words)]
    fixed = _differing(found, wanted, checks.NETWORK_FIXED)
    free = _differing(found, wanted, NETWORK_CHANGES)
    if fixed:
        return _other_network(wanted, found, (*fixed, *free), known, allowed)
    up = known.up_in(name) if any(each.option == "isolate" for each in free) else []
    if up:
        words = f"network {name} cannot be changed while VMs are up in it: {_told(free)}"
        hint = f"isolation is held by a filter on each VM's device: {_ending(up, known)}"
        return [_step(Action.REFUSE, Reason.IN_USE, wanted, words, free, found, hint)]
    if free:
        words = f"change network {name}: {_told(free)}"
        return [_step(Action.CHANGE, Reason.DIFFERS, wanted, words, free, found)]
    return [_step(Action.SKIP, Reason.AS_DESCRIBED, wanted, f"network {name} is as described")]


def _ending(up: Sequence[str], known: Known) -> str:
    """The commands after which these VMs are up no more."""
    containers = [name for name in up if known.vms[name].vm.attachment]
    stopped = [name for name in up if name not in containers]
    commands = [f"hvtx vm stop {' '.join(stopped)}"] if stopped else []
    if containers:
        commands.append(f"hvtx vm rm {' '.join(containers)} --force")
    return "; ".join(commands)


def _other_network(
    wanted: WantedNetwork,
    found: Network,
    differences: Sequence[Difference],
    known: Known,
    allowed: Allowed,
) -> list[Step]:
    name = wanted.name
    told = _told(differences)
    users = known.in_network(name)
    if users:
        words = f"network {name} would have to be created anew, and VMs use it: {told}"
        force = (
            " --force" if any(known.vms[user].up or known.vms[user].left for user in users) else ""
        )
        hint = f"remove them first, or keep it as it is: hvtx vm rm {' '.join(users)}{force}"
        return [_step(Action.REFUSE, Reason.IN_USE, wanted, words, differences, found, hint)]
    if not allowed.replace:
        words = f"network {name} would have to be removed and created anew: {told}"
        hint = f"--replace lets it be; or describe it as it is: hvtx network show {name}"
        refused = Reason.NEEDS_REPLACE
        return [_step(Action.REFUSE, refused, wanted, words, differences, found, hint)]
    words = f"create network {name}: {', '.join(wanted.subnets)}"
    gone = f"remove network {name}, which cannot be changed: {told}"
    return [
        _step(Action.REMOVE, Reason.REPLACE, wanted, gone, differences, found),
        _step(Action.CREATE, Reason.REPLACE, wanted, words),
    ]


def _differing(
    found: Network | Vm, wanted: WantedNetwork | Vm, fields: Iterable[str]
) -> tuple[Difference, ...]:
    """What is otherwise of these fields."""
    return tuple(
        Difference(
            _OPTIONS.get(field, field), _json(getattr(found, field)), _json(getattr(wanted, field))
        )
        for field in checks.differing(found, wanted, fields)
    )


def _json(value: Any) -> Any:
    if isinstance(value, Policy):
        return policy_words(value)
    if isinstance(value, Limits):
        return limiting.words(value)
    return list(value) if isinstance(value, tuple) else value


def _step(
    action: Action,
    reason: Reason,
    wanted: WantedNetwork | WantedVm,
    message: str,
    differences: Sequence[Difference] = (),
    known: Network | Vm | None = None,
    hint: str | None = None,
) -> Step:
    kind = NETWORK if isinstance(wanted, WantedNetwork) else VM
    return Step(action, reason, kind, wanted.name, message, tuple(differences), hint, wanted, known)


_SECRET = frozenset({"command", "append", "ssh-key", "user-data"})  # their values are not told
_LONGEST = 60


def _told(differences: Iterable[Difference]) -> str:
    """Differences in a sentence, where JSON has them whole."""
    return ", ".join(
        each.option if each.option in _SECRET else f"{each.option} {_short(each)}"
        for each in differences
    )


def _short(difference: Difference) -> str:
    words = f"{_word(difference.old)} → {_word(difference.new)}"
    if len(words) > _LONGEST and isinstance(difference.old, list):
        words = _moved(difference.old, list(difference.new))
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def _moved(old: list[Any], new: list[Any]) -> str:
    """Of long lists what goes and what comes, beside what stays."""
    gone, come = [v for v in old if v not in new], [v for v in new if v not in old]
    if not gone and not come:  # in another order
        return f"{_word(old)} → {_word(new)}"
    return f"… {_word(gone)} → {_word(come)}"


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# -- VMs -------------------------------------------------------------------------------------------

VM_CHANGES = ("limits", "policy", "autostart")  # and ports: a VM that is up is given them
VM_AT_START = (
    *("memory", "cpus", "kernel", "initrd", "append", "disks", "command", "directory"),
    *("queues", "user_data", "ssh_keys", "user"),
)


def _vm(
    wanted: WantedVm, known: Known, networks: Mapping[str, Network], allowed: Allowed
) -> list[Step]:
    name = wanted.name
    found = known.vms.get(name)
    if found is None:
        made = _step(Action.CREATE, Reason.ABSENT, wanted, _creating(wanted))
        return [made, *_start(wanted)]
    fixed = checks.fixed(found.vm, wanted, networks)
    free = _free(found.vm, wanted)
    late = _differing(found.vm, wanted.vm, VM_AT_START)
    if late and wanted.vm.hypervisor != "command":
        late = tuple(each for each in late if each.option != "directory")
    if fixed:
        return _other_vm(wanted, found, (*fixed, *free, *late), allowed)
    changes = (*free, *late)
    if late and found.up and not allowed.restart:
        words = f"VM {name} would have to be stopped: {_told(late)}"
        hint = f"--restart lets it be; or stop it yourself: hvtx vm stop {name}"
        refused = Reason.NEEDS_RESTART
        return [_step(Action.REFUSE, refused, wanted, words, changes, found.vm, hint)]
    steps = []
    if late and found.up:
        words = f"stop VM {name}: {_told(late)} is what it is started with"
        steps.append(_step(Action.STOP, Reason.RESTART, wanted, words, (), found.vm))
    if changes:
        words = f"change VM {name}: {_told(changes)}"
        steps.append(_step(Action.CHANGE, Reason.DIFFERS, wanted, words, changes, found.vm))
    if steps and steps[0].action is Action.STOP:
        words = f"start VM {name} again"
        steps.append(_step(Action.START, Reason.RESTART, wanted, words))
    elif not found.up:
        steps += _start(wanted)
    if not steps:
        words = f"VM {name} is as described"
        steps.append(_step(Action.SKIP, Reason.AS_DESCRIBED, wanted, words))
    return steps


def _creating(wanted: WantedVm) -> str:
    where = ", ".join(wanted.networks)
    return f"create VM {wanted.name} ({wanted.vm.hypervisor}, in {where})"


def _start(wanted: WantedVm) -> list[Step]:
    if not wanted.start:
        return []
    return [_step(Action.START, Reason.DOWN, wanted, f"start VM {wanted.name}")]


def _other_vm(
    wanted: WantedVm, found: KnownVm, differences: Sequence[Difference], allowed: Allowed
) -> list[Step]:
    name = wanted.name
    told = _told(differences)
    if not allowed.replace:
        words = f"VM {name} would have to be removed and created anew: {told}"
        hint = f"--replace lets it be; or describe it as it is: hvtx vm show {name}"
        refused = Reason.NEEDS_REPLACE
        return [_step(Action.REFUSE, refused, wanted, words, differences, found.vm, hint)]
    gone = f"remove VM {name}, which cannot be changed: {told}"
    steps = []
    if found.up:
        words = f"stop VM {name}: it is to be removed"
        steps.append(_step(Action.STOP, Reason.REPLACE, wanted, words, (), found.vm))
    steps += [
        _step(Action.REMOVE, Reason.REPLACE, wanted, gone, differences, found.vm),
        _step(Action.CREATE, Reason.REPLACE, wanted, _creating(wanted)),
    ]
    if found.up or wanted.start:
        steps.append(_step(Action.START, Reason.REPLACE, wanted, f"start VM {name}"))
    return steps


def _free(vm: Vm, wanted: WantedVm) -> tuple[Difference, ...]:
    """What a VM that is up is given, and is otherwise."""
    found = _differing(vm, wanted.vm, VM_CHANGES)
    had = [(i.network_name, port) for i in vm.interfaces for port in i.publish]
    asked = wanted.published()
    if set(had) != set(asked):
        old, new = (_ports(some) for some in (had, asked))
        found = (Difference("publish", old, new), *found)
    return found


def _ports(published: Iterable[tuple[str, Publish]]) -> list[str]:
    return [
        f"{with_port(p.host_ip, p.host_port)}:{p.guest_port}/{p.protocol}" for _, p in published
    ]
