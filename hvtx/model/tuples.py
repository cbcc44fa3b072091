"""``NamedTuple`` as ``typing`` has it, at a tenth of the time that each class takes to be made.

A start loads some eighty of them. ``typing`` compiles a function for each, and reads each
annotation; here a class gets its own ``__new__`` when it is needed, and annotations stay text.
Type checkers see the one of ``typing``. What differs: names and order of fields are not checked
(mypy does that), and there is no functional form. See docs/adr/0052.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    _new = tuple.__new__
    _GENERIC = 3  # so many are made in the general way; who makes more gets a function of its own

    def _first(cls, /, *args, **named):
        owner = next(base for base in cls.__mro__ if "_fields" in base.__dict__)
        if not named and len(args) == len(owner._fields) and owner._made < _GENERIC:
            owner._made += 1
            return _new(cls, args)
        names = ", ".join(owner._fields)
        scope = {"_new": _new, "__builtins__": {}}
        made = eval(f"lambda _cls, {names}: _new(_cls, ({names},))", scope)  # noqa: S307 - own names
        made.__name__, made.__qualname__ = "__new__", f"{owner.__qualname__}.__new__"
        made.__defaults__ = tuple(owner._field_defaults.values())
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

    _COMMON = {
        "__slots__": (),
        "__new__": _first,
        "__repr__": _repr,
        "__getnewargs__": tuple,
        "_make": classmethod(_make),
        "_replace": _replace,
        "_asdict": _asdict,
        "_made": 0,
    }
    _GETTERS = [_tuplegetter(number, None) for number in range(64)]

    class _Maker(type):
        def __new__(mcs, name, bases, space):
            if not bases:
                return type.__new__(mcs, name, bases, space)
            fields = tuple(space["__annotations__"])
            whole = {**_COMMON, **space, **dict(zip(fields, _GETTERS, strict=False))}
            whole["_fields"] = whole["__match_args__"] = fields
            whole["_field_defaults"] = {one: space[one] for one in fields if one in space}
            return type.__new__(type, name, (tuple,), whole)

    class NamedTuple(metaclass=_Maker):
        """The base that classes name; none of them has it as a base in the end."""
