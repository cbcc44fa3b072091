"""The console of a VM, joined to a terminal."""

from __future__ import annotations

from hvtx.errors import Conflict

_CONSOLE_SECONDS = 5.0


def console(directory: str, name: str | None, hint: str) -> None:
    """Join standard input and output to the VM's console until either ends or Ctrl-] is typed.

    Raises Conflict, with ``hint``, if the VM has none, or it cannot be reached.
    """
    if name is None:
        raise Conflict("this VM's hypervisor has no console to type at", hint=hint)
    from hvtx.host.console import bridge
    from hvtx.host.monitor_socket import connect

    try:
        link = connect(directory, name, _CONSOLE_SECONDS)
    except OSError as problem:
        raise Conflict(
            f"the console {directory}/{name} cannot be reached: {problem.strerror}", hint=hint
        ) from problem
    with link:
        bridge(link)
