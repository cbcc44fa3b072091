"""Signals as hvtx has them are those of Python."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from hvtx.host import signals


@pytest.mark.parametrize("name", signals.__all__)
def test_each_is_what_python_has(name: str) -> None:
    ours, pythons = getattr(signals, name), getattr(signal, name)
    if name.startswith("SIG"):
        assert ours == pythons
    else:  # of some Python's has a wrapper, which makes enums of what the function tells
        assert ours.__name__ == pythons.__name__


def test_what_is_held_back_is_told_as_numbers() -> None:
    before = signals.pthread_sigmask(signals.SIG_BLOCK, (signals.SIGTTOU,))
    try:
        assert signals.SIGTTOU in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, before)
    assert signals.SIGTTOU not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_pythons_own_is_not_loaded() -> None:
    script = "import sys; from hvtx.host import signals; print('signal' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {script}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "False\n"
