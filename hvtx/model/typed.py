"""What hvtx needs of ``typing``, at a tenth of the time that it costs.

To load ``typing`` takes a start 4 ms, and it compiles a function for each class of named tuples,
of which a start has eighty, and reads each annotation. Here a class gets its own ``__new__`` when
it is needed, annotations stay text, and what only type checkers read is nothing. They see all of it
as ``typing`` has it. Other than there, names and order of fields are not checked at run time (mypy
does that), and there are no functional forms. See docs/adr/0052.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from enum import StrEnum as StrEnum
    from typing import Any as Any
    from typing import BinaryIO as BinaryIO
    from typing import Concatenate as Concatenate
    from typing import Final as Final
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import NotRequired as NotRequired
    from typing import ParamSpec as ParamSpec
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypedDict as TypedDict
    from typing import TypeVar as TypeVar
    from typing import Unpack as Unpack
    from typing import cast as cast
    from typing import overload as overload
else:
    from collections import _tuplegetter, namedtuple

    class _Form:
        """What only type checkers read: it may be called, subscripted and joined."""

        __slots__ = ()

        def __call__(self, *_words, **_bounds):
            return self

        __getitem__ = __or__ = __ror__ = __call__

    Any = object
    BinaryIO = Concatenate = Final = Literal = NoReturn = NotRequired = Self = _Form()
    ParamSpec = TypeVar = Unpack = _Form()

    def cast(_kind, value):
        """The value, as it is."""
        return value

    def overload(function):
        """The function, as it is: the last of its name counts."""
        return function

    class _Told:
        """What every protocol is: of its members nothing is kept, nothing is checked.

        A class of its own for each takes 85,000 instructions; of these and of typed dictionaries a
        start has thirty.
        """

        __slots__ = ()

    class _Protocols(type):
        def __new__(mcs, name, bases, space):
            return _Told if bases else type.__new__(mcs, name, bases, space)

    class Protocol(metaclass=_Protocols):
        """What a class is to have."""

        def __class_getitem__(cls, _kinds):
            """Itself."""
            return cls

    class _Dicts(type):
        def __new__(mcs, name, bases, space, **_total):
            return type.__new__(mcs, name, bases, space) if bases == (dict,) else TypedDict

        __call__ = dict  # a plain one

    class TypedDict(dict, metaclass=_Dicts):
        """A dictionary with known keys, and every class of them: which keys is for mypy alone."""

    _new = tuple.__new__
    # So many are made in the general way, each some µs dearer; who makes more gets a function of
    # its own, which takes 100 µs to make. Of the classes that a start uses two do.
    _GENERIC = 16

    def _values(owner, args, named):
        """What the fields are, in their order; None if the arguments do not fit them."""
        rest = owner._fields[len(args) :]
        if not rest:
            return args if not named and len(args) == len(owner._fields) else None
        if not named.keys() <= frozenset(rest):
            return None
        known = {**owner._field_defaults, **named}
        return (*args, *[known[name] for name in rest]) if known.keys() >= {*rest} else None

    def _first(cls, /, *args, **named):
        owner = next(base for base in cls.__mro__ if "_fields" in base.__dict__)
        made = owner._made
        values = _values(owner, args, named) if len(made) < _GENERIC else None
        if values is not None:
            made.append(None)
            return _new(cls, values)
        defaults = owner._field_defaults.values()
        made = namedtuple(owner.__name__, owner._fields, defaults=defaults).__new__  # noqa: PYI024
        made.__qualname__ = f"{owner.__qualname__}.__new__"
        owner.__new__ = staticmethod(made)
        return made(cls, *args, **named)

    def _make(cls, values):
        made = _new(cls, values)
        if len(made) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
        return made

    def _replace(self, /, **changes):
        made = _new(type(self), map(changes.pop, self._fields, self))
        if changes:
            raise ValueError(f"Got unexpected field names: {list(changes)!r}")
        return made

    def _asdict(self):
        return dict(zip(self._fields, self, strict=True))

    def _repr(self):
        pairs = zip(self._fields, self, strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def _arguments(self):
        return tuple(self)

    _COMMON = {
        "__slots__": (),
        "__new__": _first,
        "__repr__": _repr,
        "__getnewargs__": _arguments,
        "_make": classmethod(_make),
        "_replace": _replace,
        "_asdict": _asdict,
    }
    _GETTERS = [_tuplegetter(number, None) for number in range(64)]

    class _Maker(type):
        def __new__(mcs, name, bases, space):
            if not bases:
                return type.__new__(mcs, name, bases, space)
            fields = tuple(space["__annotations__"])
            whole = {**_COMMON, **space, **dict(zip(fields, _GETTERS, strict=False))}
            whole["_fields"] = whole["__match_args__"] = fields
            whole["_made"] = []  # grows with each value: to set a number would void what is cached
            whole["_field_defaults"] = {one: space[one] for one in fields if one in space}
            return type.__new__(type, name, (tuple,), whole)

    class NamedTuple(metaclass=_Maker):
        """The base that classes name; none of them has it as a base in the end."""

    class _Members(type):
        """The class of a light enumeration: its members in order, by value and by name."""

        def __call__(cls, value):
            """The member with a value. Raises ValueError."""
            try:
                return cls._by_value[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __iter__(cls):
            return iter(cls._by_value.values())

        def __len__(cls):
            return len(cls._by_value)

        def __contains__(cls, value):
            return isinstance(value, cls) or value in cls._by_value

        def __getitem__(cls, name):
            return cls.__members__[name]

        @property
        def __members__(cls):
            """The members by name."""
            return {member.name: member for member in cls._by_value.values()}

    def _member_repr(self):
        return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

    _MEMBER = {
        "__repr__": _member_repr,
        "__str__": str.__str__,
        "__copy__": lambda self: self,
        "__deepcopy__": lambda self, _known: self,
        "__reduce_ex__": lambda self, _protocol: (type(self), (self.value,)),
    }

    class _Enumeration(type):
        """Makes an ``enum.StrEnum``, or what is like one."""

        light = False

        @classmethod
        def __prepare__(cls, name, bases):
            if not bases or cls.light:
                return {}
            from enum import EnumType, StrEnum

            return EnumType.__prepare__(name, (StrEnum,))

        def __new__(mcs, name, bases, space):
            if not bases:
                return type.__new__(mcs, name, bases, space)
            if not mcs.light:
                from enum import EnumType, StrEnum

                return EnumType(name, (StrEnum,), space)
            given = {one: value for one, value in space.items() if one[:2] != "__"}
            kept = {one: value for one, value in space.items() if one[:2] == "__"}
            made = type.__new__(_Members, name, (str,), {**_MEMBER, **kept})
            made._by_value = {}
            for one, value in given.items():
                member = str.__new__(made, value)
                member.name, member.value = one, value
                made._by_value[value] = member
                setattr(made, one, member)
            return made

    class StrEnum(metaclass=_Enumeration):
        """The base that enumerations name; ``enum.StrEnum`` is, but in a short program."""


def be_short() -> None:
    """Make light enumerations from now on: for a program that ends with its command.

    They do what hvtx asks of an enumeration, without ``enum``: two milliseconds. In a library
    people meet Python's own, of which more may be asked.
    """
    if not TYPE_CHECKING:
        _Enumeration.light = True
