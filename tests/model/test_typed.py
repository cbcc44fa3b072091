"""What takes the place of ``typing`` at run time does what it does there, and loads nothing of it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import typing
from typing import Any

import pytest

from hvtx.model import typed


class Ours(typed.NamedTuple):
    """Two numbers and a word."""

    first: int
    second: int = 2
    word: str = "w"

    @property
    def sum(self) -> int:
        """Both numbers."""
        return self.first + self.second

    @classmethod
    def of(cls, number: int) -> Ours:
        """Both the same."""
        return cls(number, number)


class Theirs(typing.NamedTuple):
    """The same, of typing's."""

    first: int
    second: int = 2
    word: str = "w"


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 5, "x"), {}),
    ((), {"first": 7}),
    ((1,), {"word": "y"}),
    ((), {"word": "a", "second": 0, "first": 9}),
]
WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1, 2, "x", 4), {}),
    ((1,), {"first": 1}),
    ((1,), {"third": 1}),
]


@pytest.mark.parametrize(("words", "given"), CALLS)
def test_values_are_those_of_typing(words: tuple[Any, ...], given: dict[str, Any]) -> None:
    ours, theirs = Ours(*words, **given), Theirs(*words, **given)
    assert ours == theirs == tuple(theirs)
    assert hash(ours) == hash(theirs)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._asdict() == theirs._asdict()
    assert ours._replace(second=8) == theirs._replace(second=8)
    assert (ours.first, ours.second, ours.word, ours.sum) == (*theirs, theirs.first + theirs.second)
    assert copy.deepcopy(ours) == ours
    assert type(pickle.loads(pickle.dumps(ours))) is Ours
    assert isinstance(ours._replace(first=1), Ours)


@pytest.mark.parametrize(("words", "given"), CALLS)
def test_the_first_and_the_hundredth_value_are_made_alike(
    words: tuple[Any, ...], given: dict[str, Any]
) -> None:
    class Fresh(typed.NamedTuple):
        first: int
        second: int = 2
        word: str = "w"

    general = Fresh.__new__
    for _ in range(100):
        assert Fresh(*words, **given) == Theirs(*words, **given)
    assert Fresh.__new__ is not general  # by then it has a function of its own


@pytest.mark.parametrize(("words", "given"), WRONG)
@pytest.mark.parametrize("made", [0, 40])
def test_what_cannot_be_is_refused_at_the_first_value_and_later(
    made: int, words: tuple[Any, ...], given: dict[str, Any]
) -> None:
    class Fresh(typed.NamedTuple):
        first: int
        second: int = 2
        word: str = "w"

    for number in range(made):
        assert Fresh(number, 1, "z") == (number, 1, "z")
    with pytest.raises(TypeError):
        Fresh(*words, **given)
    with pytest.raises(TypeError):
        Theirs(*words, **given)


def test_a_value_changes_nothing_of_its_class() -> None:
    """Python keeps what it found in a class until that is changed."""

    class Fresh(typed.NamedTuple):
        first: int

    class Other(typed.NamedTuple):
        first: int

    before = dict(vars(Fresh))
    for number in range(16):
        assert Fresh(number) == (number,)
    assert dict(vars(Fresh)) == before
    general = Other.__new__
    assert Other(1) == (1,)
    assert Other.__new__ is general, "each class has a count of its own"


def test_the_rest_is_as_of_typing() -> None:
    for name in ("_fields", "_field_defaults", "__match_args__", "__slots__"):
        assert getattr(Ours, name) == getattr(Theirs, name)
    assert Ours.__mro__ == (Ours, tuple, object)
    assert Ours.of(3) == (3, 3, "w")
    assert Ours._make([1, 2, "a"]) == Theirs._make([1, 2, "a"])
    for wrong in (lambda: Ours._make([1]), lambda: Theirs._make([1])):
        with pytest.raises(TypeError):
            wrong()
    for wrong in (lambda: Ours(1)._replace(third=3), lambda: Theirs(1)._replace(third=3)):  # type: ignore[call-arg]
        with pytest.raises((ValueError, TypeError)):
            wrong()
    with pytest.raises(AttributeError):
        Ours(1).first = 3  # type: ignore[misc]
    match Ours(4, 5):
        case Ours(first, second, _):
            assert (first, second) == (4, 5)


def test_dictionaries_are_plain() -> None:
    class Keys(typed.TypedDict, total=False):
        one: int

    class More(Keys):
        two: typed.NotRequired[int]

    made = More(one=1, two=2)
    assert made == {"one": 1, "two": 2}
    assert type(made) is dict
    assert Keys() == {}
    assert type(Keys(one=1)) is dict


def test_what_only_type_checkers_read_is_nothing() -> None:
    class Has(typed.Protocol):
        """A member."""

        def told(self) -> int:
            """A number."""

    class Is(Has):
        """It."""

    class HasMore(Has, typed.Protocol):
        """Another member."""

        def more(self) -> int:
            """A number."""

    class IsMore(HasMore):
        """Has its own."""

        def told(self) -> int:
            return 1

    Is()
    assert IsMore().told() == 1
    assert IsMore.__name__ == "IsMore"
    assert not isinstance(Ours(1), Is)
    assert HasMore is Has, "a class for each would be made for nothing"
    assert typed.cast("int", "x") == "x"
    assert typed.TYPE_CHECKING is False


def test_typing_is_not_loaded() -> None:
    code = "import sys, hvtx.model.typed; print('typing' in sys.modules)"
    loaded = "import sys; print('typing' in sys.modules)"  # an editable installation may load it
    before, after = (
        subprocess.run(
            [sys.executable, "-c", words], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for words in (loaded, code)
    )
    assert before == after
