"""Several waits at once: each in a thread of its own, which ends with the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress


def each(works: Sequence[Callable[[], None]]) -> list[Exception | None]:
    """Do all of these at once; what each raised, in their order.

    For work that waits for others: it must use nothing that belongs to one thread. Ctrl-C ends the
    waiting here and not the work, whose threads are left behind: they end with the process. Where
    the system gives no more threads (memory, a limit of tasks) the rest is done here, in turn.
    """
    found: list[Exception | None] = [None] * len(works)

    def do(number: int) -> None:
        try:
            works[number]()
        except Exception as problem:  # noqa: BLE001 - whose caller raises it
            found[number] = problem

    threads: list[threading.Thread] = []
    if len(works) > 1:
        with suppress(RuntimeError, MemoryError):
            for number in range(len(works)):
                thread = threading.Thread(target=do, args=(number,), daemon=True)
                thread.start()
                threads.append(thread)
    for number in range(len(threads), len(works)):
        do(number)
    for thread in threads:
        thread.join()
    return found
