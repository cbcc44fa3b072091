"""Enumerations of a short program do what those of Python do, as far as hvtx asks."""

from __future__ import annotations

import copy
import enum
import importlib
import json
import subprocess
import sys
from types import ModuleType

import pytest

from hvtx.model import typed

MODULES = [
    "hvtx.model.described", "hvtx.model.traffic", "hvtx.model.diagram", "hvtx.model.guest",
    "hvtx.model.reason", "hvtx.model.resource", "hvtx.model.plan", "hvtx.model.filter_chain",
    "hvtx.model.vm", "hvtx.model.block", "hvtx.planner.states", "hvtx.planner.epoch",
    "hvtx.planner.gc.cases", "hvtx.planner.adoption.claims",
]  # fmt: skip


def enumerations(module: ModuleType) -> list[type[enum.StrEnum]]:
    return [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and one.__module__ == module.__name__
        and hasattr(one, "_member_map_")
    ]


REAL = [one for name in MODULES for one in enumerations(importlib.import_module(name))]


def light(real: type[enum.StrEnum]) -> type[enum.StrEnum]:
    """The same class, made as a short program makes it."""
    space = {"__module__": __name__, "__qualname__": real.__qualname__, "__doc__": real.__doc__}
    space |= {member.name: member.value for member in real}
    maker = type(typed.StrEnum)
    maker.light = True  # type: ignore[attr-defined]
    try:
        return maker(real.__name__, (typed.StrEnum,), space)  # type: ignore[return-value]
    finally:
        maker.light = False  # type: ignore[attr-defined]


def test_in_a_library_they_are_pythons_own() -> None:
    assert len(REAL) >= 20
    assert all(issubclass(one, enum.StrEnum) for one in REAL)


@pytest.mark.parametrize("real", REAL, ids=lambda one: one.__name__)
def test_a_light_one_does_the_same(real: type[enum.StrEnum]) -> None:
    ours = light(real)
    assert not issubclass(ours, enum.Enum)
    assert len(ours) == len(real)
    for member, known in zip(ours, real, strict=True):
        assert (
            getattr(ours, known.name)
            is ours(known.value)
            is ours[known.name]
            is ours(member)
            is member
        )
        assert (member.name, member.value, str(member)) == (known.name, known.value, str(known))
        assert type(member.value) is type(str(member)) is str
        assert repr(member) == repr(known)
        assert f"{member}{member:>20}" == f"{known}{known:>20}"
        assert "%s" % member == known.value  # noqa: UP031
        assert member == known == known.value
        assert {known.value: 1}[member] == {member: 1}[known.value] == 1
        assert json.dumps({member: member}) == json.dumps({known: known})
        assert isinstance(member, ours) and isinstance(member, str) and member in ours
        assert copy.copy(member) is copy.deepcopy(member) is member
        assert ours.__members__[known.name] is member
    assert list(ours.__members__) == list(real.__members__)
    assert ours.__doc__ == real.__doc__


def test_what_is_none_of_them_is_refused_in_the_same_words() -> None:
    real = next(one for one in REAL if one.__name__ == "Kind")
    for value in ("nothing", None, ["tap"]):
        with pytest.raises(ValueError) as ours:
            light(real)(value)  # type: ignore[arg-type]
        with pytest.raises(ValueError) as pythons:
            real(value)  # type: ignore[arg-type]
        assert str(ours.value) == str(pythons.value)
    with pytest.raises(KeyError):
        light(real)["NOTHING"]


_SHORT = f"""
import sys
sys.path += {sys.path!r}
from hvtx import loader
loader.install()
import pickle
from hvtx.model.resource import Kind
from hvtx.model.plan import Action
match Kind("tap"):
    case Kind.TAP:
        print(pickle.loads(pickle.dumps(Kind.TAP)) is Kind.TAP, Action("skip").name)
"""


def test_a_short_program_has_light_ones() -> None:
    script = "import sys, hvtx.model.typed as t; t.be_short(); from hvtx.model.vm import Liveness;"
    script += "print('enum' in sys.modules, Liveness('alive') is Liveness.ALIVE)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {script}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True"]
    done = subprocess.run(
        [sys.executable, "-c", _SHORT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "SKIP"]
