"""In which order the steps to a described set are taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.errors import Conflict
from hvtx.model.address import with_port
from hvtx.model.described import NETWORK, VM, Action, Step, WantedVm
from hvtx.model.vm import Publish, Vm


def acting(steps: Iterable[Step]) -> list[Step]:
    """The steps that do something."""
    return [step for step in steps if _acts(step)]


def ordered(steps: Iterable[Step]) -> list[Step]:
    """The steps as they are to be done: networks, what frees, what takes, starts; the rest last.

    A network that takes what another gives up is made when all that go are gone. A VM that asks for
    an address is created before one that takes any. Of those that are changed one that takes
    another's port comes after it. Raises Conflict where each waits for the other.
    """
    every = list(steps)
    networks = sorted(
        (s for s in every if s.kind == NETWORK and _acts(s)),
        key=lambda s: s.action is not Action.REMOVE,
    )
    own = [s for s in every if s.kind == VM and _acts(s)]
    freeing = [s for s in own if s.action in (Action.STOP, Action.REMOVE)]
    changing = in_turn([s for s in own if s.action is Action.CHANGE])
    creating = sorted(
        (s for s in own if s.action is Action.CREATE), key=lambda s: not _asks_for_address(s)
    )
    starting = [s for s in own if s.action is Action.START]
    left = [s for s in every if not _acts(s)]
    return [*networks, *freeing, *changing, *creating, *starting, *left]


def _acts(step: Step) -> bool:
    return step.action not in (Action.SKIP, Action.REFUSE)


def _asks_for_address(step: Step) -> bool:
    return isinstance(step.wanted, WantedVm) and bool(step.wanted.ips)


# -- ports that go from one VM to another ----------------------------------------------------------


def in_turn(changes: Sequence[Step]) -> list[Step]:
    """Changes of VMs, those that give up a port before those that take it.

    Raises Conflict where each waits for the other.
    """
    held: dict[tuple[str, int], list[tuple[Step, Publish]]] = {}
    for step in changes:
        for port in _leaving(step):
            held.setdefault((port.protocol, port.host_port), []).append((step, port))
    waits = {
        step.name: [
            other
            for port in _coming(step)
            for other, gone in held.get((port.protocol, port.host_port), ())
            if other is not step and gone.collides(port)
        ]
        for step in changes
    }
    found: dict[str, Step] = {}
    for step in changes:
        _take(step, waits, found, [])
    return list(found.values())


def _take(
    step: Step, waits: dict[str, list[Step]], found: dict[str, Step], above: list[str]
) -> None:
    if step.name in found:
        return
    if step.name in above:
        raise Conflict(
            f"VMs {', '.join(sorted({*above[above.index(step.name) :]}))} exchange their ports:"
            " each would have to give up its own first",
            hint=f"let VM {step.name} give up one first, then apply the set:"
            f" hvtx vm set {step.name} --unpublish {_first(step)}",
        )
    for other in waits[step.name]:
        _take(other, waits, found, [*above, step.name])
    found[step.name] = step


def _first(step: Step) -> str:
    port = _leaving(step)[0]
    return f"{with_port(port.host_ip, port.host_port)}/{port.protocol}"


def _leaving(step: Step) -> list[Publish]:
    """The ports that the VM has, and is to have no more."""
    assert isinstance(step.wanted, WantedVm)
    assert isinstance(step.known, Vm)
    kept = {port for _, port in step.wanted.published()}
    return [port for i in step.known.interfaces for port in i.publish if port not in kept]


def _coming(step: Step) -> list[Publish]:
    """The ports that the VM has not, and is to have."""
    assert isinstance(step.wanted, WantedVm)
    assert isinstance(step.known, Vm)
    had = {port for i in step.known.interfaces for port in i.publish}
    return [port for _, port in step.wanted.published() if port not in had]
