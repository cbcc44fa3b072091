"""Work in a thread of its own, for what no thread can undo: its namespace, its filter of calls."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread  # threading itself would cost a millisecond
from collections.abc import Callable

from hvtx.model.typed import TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises in a thread that ends with it; the caller's stays as it is.

    Raises RuntimeError where there can be no thread more.
    """
    done: list[T] = []
    failed: list[BaseException] = []
    ended = allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            done.append(work())
        except BaseException as problem:  # noqa: BLE001 - it is raised where it was asked
            failed.append(problem)
        finally:
            ended.release()

    start_new_thread(run, ())
    ended.acquire()
    if failed:
        raise failed[0]
    return done[0]
