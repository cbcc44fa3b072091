"""Signals, without the enums that ``signal`` makes of their numbers: a millisecond of a command."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIG_UNBLOCK,
        SIGCHLD,
        SIGHUP,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGQUIT,
        SIGSTOP,
        SIGTERM,
        SIGTSTP,
        SIGTTIN,
        SIGTTOU,
        SIGXFSZ,
        getsignal,
        pidfd_send_signal,
        pthread_sigmask,
        signal,
        valid_signals,
    )
else:
    from _signal import (
        SIG_BLOCK,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIG_UNBLOCK,
        SIGCHLD,
        SIGHUP,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGQUIT,
        SIGSTOP,
        SIGTERM,
        SIGTSTP,
        SIGTTIN,
        SIGTTOU,
        SIGXFSZ,
        getsignal,
        pidfd_send_signal,
        pthread_sigmask,
        signal,
        valid_signals,
    )

__all__ = [
    "SIGCHLD", "SIGHUP", "SIGINT", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTERM", "SIGTSTP",
    "SIGTTIN", "SIGTTOU", "SIGXFSZ", "SIG_BLOCK", "SIG_DFL", "SIG_IGN", "SIG_SETMASK",
    "SIG_UNBLOCK", "getsignal", "pidfd_send_signal", "pthread_sigmask", "signal", "valid_signals",
]  # fmt: skip

# What a started process is to have as it is by default, whatever our starter ignores.
ALL = sorted(valid_signals() - {SIGKILL, SIGSTOP})
