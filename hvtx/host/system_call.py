"""System calls that Python has no function for, without ``ctypes``: 35 classes for the one call.

Of its C part is used only what ``ctypes.CDLL`` makes of it, the same in Python 3.11 to 3.13.
"""

from __future__ import annotations

from hvtx.model.typed import Any


def found(name: str = "syscall") -> tuple[Any, Any]:
    """A function of the C library, and what tells its errno.

    Its arguments are integers, bytes or None; what it returns is read as a long one.
    """
    import _ctypes as c

    class Long(c._SimpleCData):  # type: ignore[type-arg] # noqa: SLF001
        _type_ = "l"

    class Function(c.CFuncPtr):
        _flags_ = c.FUNCFLAG_CDECL | c.FUNCFLAG_USE_ERRNO
        _restype_ = Long

    function = Function(c.dlsym(c.dlopen(None, 0), name))  # type: ignore[arg-type]

    def call(*words: int | bytes | None) -> Any:
        return function(*[Long(one) if isinstance(one, int) else one for one in words])

    return call, c.get_errno
