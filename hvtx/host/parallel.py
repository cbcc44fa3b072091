"""Several waits at once: each in a thread of its own, which ends with the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def each(works: Sequence[Callable[[], None]]) -> list[Exception | None]:
    """Do all of these at once; what each raised, in their order.

    For work that waits for others: it must use nothing that belongs to one thread. Ctrl-C ends the
    waiting here and not the work, whose threads are left behind: they end with the process.
    """
    found: list[Exception | None] = [None] * len(works)

    def do(number: int) -> None:
        try:
            works[number]()
        except Exception as problem:  # noqa: BLE001 - whose caller raises it
            found[number] = problem

    if len(works) == 1:
        do(0)
        return found
    threads = [threading.Thread(target=do, args=(n,), daemon=True) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
