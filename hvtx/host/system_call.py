"""System calls that Python has no function for, without ``ctypes``: 35 classes for the one call.

Of its C part is used only what ``ctypes.CDLL`` makes of it, the same in Python 3.11 to 3.13; where
that is another, ``ctypes`` itself does it.
"""

from __future__ import annotations

from hvtx.model.typed import Any

_known: dict[str, tuple[Any, Any]] = {}  # each takes two classes, dearer than what is called


def found(name: str = "syscall") -> tuple[Any, Any]:
    """A function of the C library, and what tells its errno.

    Its arguments are integers, bytes or None; what it returns is read as a long one.
    """
    if name not in _known:
        _known[name] = _found(name)
    return _known[name]


def _found(name: str) -> tuple[Any, Any]:
    try:
        long, function, last_error = _plain(name)
    except (ImportError, AttributeError, TypeError):
        long, function, last_error = _by_ctypes(name)

    def call(*words: int | bytes | None) -> Any:
        return function(*[long(one) if isinstance(one, int) else one for one in words])

    return call, last_error


def _plain(name: str) -> tuple[Any, Any, Any]:
    import _ctypes as c

    class Long(c._SimpleCData):  # type: ignore[type-arg] # noqa: SLF001
        _type_ = "l"

    class Function(c.CFuncPtr):
        _flags_ = c.FUNCFLAG_CDECL | c.FUNCFLAG_USE_ERRNO
        _restype_ = Long

    return Long, Function(c.dlsym(c.dlopen(None, 0), name)), c.get_errno  # type: ignore[arg-type]


def _by_ctypes(name: str) -> tuple[Any, Any, Any]:
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = ctypes.c_long
    return ctypes.c_long, function, ctypes.get_errno
