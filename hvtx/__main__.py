"""``python -m hvtx`` and the ``hvtx`` command."""

from __future__ import annotations

import gc
import os
import sys

from hvtx.model.typed import NoReturn

_ALLOCATIONS = 1 << 18  # between two searches for cyclic garbage; a command makes hardly any


def main() -> NoReturn:
    """Run the command line and leave at once.

    By then every command has closed its store and let go of its locks; taking the interpreter
    apart would add 10 ms to each, and do nothing that the kernel does not.
    """
    gc.set_threshold(_ALLOCATIONS)
    from hvtx import loader

    loader.install()  # before the two hundred modules that follow
    from hvtx.cli.main import program

    os._exit(program(sys.argv[1:]))


if __name__ == "__main__":
    main()
