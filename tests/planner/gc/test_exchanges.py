"""An interrupted change of what is up is carried on; of what is down it is taken away."""

from __future__ import annotations

import pytest

from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import EXCHANGE, Kind, State
from hvtx.model.vm import Liveness
from tests.planner.scene import EARLIER, Scene

INTENDED, RELEASING = State.INTENDED, State.RELEASING
CARRIED = {
    INTENDED: (Action.COMMIT, Reason.CHANGE_INTERRUPTED),
    RELEASING: (Action.DELETE, Reason.REPLACED),
}


@pytest.fixture
def scene() -> Scene:
    found = Scene()
    found.operation(5, running=False)
    return found


@pytest.mark.parametrize("state", [INTENDED, RELEASING])
@pytest.mark.parametrize("liveness", [Liveness.ALIVE, Liveness.UNKNOWN])
@pytest.mark.parametrize("shown", [True, False])
def test_of_a_vm_that_lives_or_may_it_is_carried_on(
    scene: Scene, state: State, liveness: Liveness, shown: bool
) -> None:
    """Whether its object is there or not: what comes to it is the driver's to say."""
    row = scene.row(
        Kind.PUBLISH, vm=scene.vm(liveness=liveness), state=state, operation=5,
        observed={EXCHANGE: True},
    )  # fmt: skip
    if shown:
        scene.show(row)
    assert scene.verdict(row) == CARRIED[state]


@pytest.mark.parametrize("state", [INTENDED, RELEASING])
def test_of_a_dead_vm_all_goes(scene: Scene, state: State) -> None:
    row = scene.row(
        Kind.PUBLISH, vm=scene.vm(), state=state, operation=5, observed={EXCHANGE: True}
    )
    scene.show(row)
    assert scene.verdict(row)[0] is Action.DELETE
    assert scene.verdict(row)[1] in (Reason.INTENT_ABANDONED, Reason.RELEASE_INTERRUPTED)


@pytest.mark.parametrize("state", [INTENDED, RELEASING])
def test_a_networks_is_carried_on_whoever_uses_it(scene: Scene, state: State) -> None:
    row = scene.row(
        Kind.FILTER, network=scene.network(), state=state, operation=5, observed={EXCHANGE: True}
    )
    assert scene.verdict(row) == CARRIED[state]


def test_what_runs_is_left_to_itself(scene: Scene) -> None:
    scene.operation(6, running=True, vm="web")
    row = scene.row(
        Kind.PUBLISH, vm=scene.vm(liveness=Liveness.ALIVE), state=INTENDED, operation=6,
        observed={EXCHANGE: True},
    )  # fmt: skip
    assert scene.verdict(row) == (Action.SKIP, Reason.OPERATION_RUNNING)


def test_of_an_earlier_life_only_the_record_is_left(scene: Scene) -> None:
    row = scene.row(
        Kind.PUBLISH, vm=scene.vm(), state=RELEASING, operation=5, life=EARLIER,
        observed={EXCHANGE: True},
    )  # fmt: skip
    assert scene.verdict(row) == (Action.FORGET, Reason.REBOOTED)


def test_what_cannot_be_seen_is_not_acted_on(scene: Scene) -> None:
    scene.failures["nftables"] = "no"
    row = scene.row(
        Kind.PUBLISH, vm=scene.vm(liveness=Liveness.ALIVE), state=INTENDED, operation=5,
        observed={EXCHANGE: True},
    )  # fmt: skip
    assert scene.verdict(row)[0] is Action.SKIP


@pytest.mark.parametrize("state", [INTENDED, RELEASING])
def test_what_took_its_place_is_no_stranger(scene: Scene, state: State) -> None:
    """Of a dead VM both rows go in one plan: the place of each is the other's, or its own."""
    vm = scene.vm()
    one, other = (
        scene.row(
            Kind.PUBLISH, vm=vm, state=which, operation=5, observed={EXCHANGE: True}
        )
        for which in (INTENDED, RELEASING)
    )  # fmt: skip
    shown, hidden = (one, other) if state is INTENDED else (other, one)
    scene.show(shown)
    scene.expected[hidden.id] = tuple(
        entry._replace(mark=hidden.mark) for entry in scene.expected[shown.id]
    )
    assert scene.verdict(shown)[0] is Action.DELETE
    assert scene.verdict(hidden) == (Action.FORGET, Reason.ALREADY_GONE)
