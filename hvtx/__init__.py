"""hvtx: a transactional manager for the network resources of virtual machines."""

UNBUILT = "0.2.0"  # of a checkout that nobody has installed; `fallback_version` in pyproject.toml


def __getattr__(name: str) -> str:
    """``__version__``, read when it is first asked for: most commands never ask."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        version = str(import_module("hvtx._version").__version__)
    except ImportError:
        version = UNBUILT
    globals()["__version__"] = version
    return version
