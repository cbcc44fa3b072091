"""One call of a verb: its runtime, and everything that goes wrong in it as an error of ours.

Nothing is held between two calls: each opens the store, the locks and the sockets that it needs,
and closes them when it ends. So calls of several threads are as far apart as two commands of the
shell are, and wait for each other's locks as these do.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager

from hvtx import commands, documents
from hvtx.engine import notice
from hvtx.errors import HostRefused, HvtxError, NotPermitted, StoreError, UsageError, room_hint
from hvtx.host import children
from hvtx.model.typed import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import ModuleType

    from hvtx.commands.published_view import StoreSource, ViewSource
    from hvtx.engine.runtime import Runtime, Settings

T = TypeVar("T")
Notices = Callable[[str, str], None]  # ``warning`` or ``note``, and a sentence
Events = Callable[[Sequence[Mapping[str, Any]]], None]  # entries, as ``log --json`` has them


def named(value: object, field: str = "name") -> None:
    """Raises UsageError for what is no text: from far below Python's own error would come."""
    if not isinstance(value, str):
        raise UsageError(f"{field} is {value!r}, which is no text", hint="write it as a text")


def texts(**given: object) -> None:
    """Raises UsageError for what is given and no text."""
    for field, value in given.items():
        if value is not None:
            named(value, field)


def path(value: object, field: str) -> str:
    """The path of a file, given as a text or a PathLike of one. Raises UsageError for others."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    named(text, field)
    assert isinstance(text, str)
    if "\0" in text:
        raise UsageError(f"{field} holds a NUL character", hint="no name and no path can have one")
    return text


def flags(**given: object) -> None:
    """Raises UsageError for what is neither True nor False: `"no"` would be taken for yes."""
    for field, value in given.items():
        if not isinstance(value, bool):
            raise UsageError(f"{field} is {value!r}", hint=f"{field}=True or {field}=False")


def begin_program() -> None:
    """What a program of hvtx's own does once, and the library leaves to who uses it."""
    children.await_ends()


def interrupt_at_ends() -> None:
    """Let SIGTERM and SIGHUP interrupt such a program, as SIGINT does."""
    children.interrupt_at_ends()


def interrupted_by() -> int:
    """The number of the signal that interrupted it: SIGTERM, SIGHUP or SIGINT."""
    return children.ended_by()


def end_as_told(code: int) -> None:
    """End it by that signal, if ``code`` is what a shell tells of it."""
    children.end_as_told(code)


class Calls:
    """How the verbs of a :class:`hvtx.Host` are called."""

    def __init__(
        self, given: Mapping[str, Any], notices: Notices | None, events: Events | None
    ) -> None:
        """``given`` are settings by name; the environment and the configuration have the rest."""
        self.given = given
        self._notices = notices or _to_log
        self._events = events
        self._settings: Settings | None = None
        self.closed = False

    @property
    def settings(self) -> Settings:
        """The settings, read once. Raises UsageError, NotFound, NotPermitted."""
        if self._settings is None:
            self._settings = _read().settings(self.given)
        return self._settings

    def _settings_to_end(self) -> Settings:
        """The same for what ends something; what only others need may be wrong, and is told."""
        known: Settings = _read().settings_to_end(self.given, notice.warning)
        try:
            if known.group:
                commands.publish_view.group_id(known.group)
        except UsageError as problem:  # nothing depends on a view
            notice.warning(f"{problem.message}: no view is published")
            known = known._replace(group=None)
        return known

    @contextmanager
    def opened(
        self, *, writable: bool, create: bool = True, spends: bool = False, ends: bool = False
    ) -> Iterator[Runtime]:
        """A runtime for one call, closed at its end.

        Without ``create`` it makes no store where there is none (its disk may not be mounted yet);
        ``spends``: it ends or frees something, and may take the reserve of a full disk; ``ends``:
        it makes nothing, and settings of what is made may be wrong.
        """
        with self.speaking(), ExitStack() as stack:
            known = self._settings_to_end() if ends else self.settings
            try:
                runtime = stack.enter_context(
                    _runtime(known, writable=writable, create=create, spends=spends)
                )
            except NotPermitted as refusal:
                refusal.hint = commands.published_view.members_hint(known) or refusal.hint
                raise
            if writable:
                runtime.listener = self._events
            yield runtime

    @contextmanager
    def recording(
        self, check: Callable[[Runtime], object], *, spends: bool = False
    ) -> Iterator[Runtime]:
        """A runtime for what may be the first thing that is put on record.

        Where there is no store, ``check`` is called before one is made, with a runtime whose store
        reads as empty: it raises what the call itself would, so what is refused makes none. What it
        has to say to people is left to the call.
        """
        with self.opened(writable=True, create=False, spends=spends) as runtime:
            if not runtime.store.missing:
                yield runtime
                return
            try:
                with notice.told_to(_to_nobody):
                    check(runtime)
            except HvtxError:
                if self._has_no_store():
                    raise
                # another command has made one meanwhile: what is in the way may be its own
        with self.opened(writable=True, spends=spends) as runtime:
            yield runtime

    def _has_no_store(self) -> bool:
        with self.opened(writable=True, create=False) as runtime:
            return runtime.store.missing

    def without_store(self, look: Callable[[Runtime], T], *, spends: bool = False) -> T | None:
        """What ``look`` says where there is no store, and none is made; None where there is one."""
        with self.opened(writable=True, create=False, spends=spends) as runtime:
            if not runtime.store.missing:
                return None
            with notice.told_to(_to_nobody):
                return look(runtime)

    @contextmanager
    def reading(self) -> Iterator[StoreSource | ViewSource]:
        """What reading verbs tell: from the store, or from the view that is published of it."""
        with self.speaking():
            with commands.published_view.source(self.settings) as source:
                yield source
            if source.note:
                self._notices("note", source.note)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Warnings go to who is to hear them; errors of the store and the system become ours."""
        if self.closed:
            raise UsageError("this Host is closed", hint="make another one")
        _refuse_event_loop()
        try:
            with notice.told_to(self._notices):
                yield
        except (HvtxError, BrokenPipeError):
            raise
        except (OSError, MemoryError) as problem:
            raise with_notes(unexpected(problem), problem) from problem
        except UnicodeEncodeError as problem:
            raise UsageError(
                "an argument is not valid UTF-8", hint="give names and paths in UTF-8"
            ) from problem
        except Exception as problem:
            if lacks_frame(problem):
                raise with_notes(unexpected(MemoryError()), problem) from problem
            from hvtx.engine.late_errors import explain

            told = explain(problem)
            if told is None:
                raise
            for note in getattr(problem, "__notes__", ()):
                told.add_note(note)
            raise told from problem
        finally:
            children.settle()

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True


def _runtime(
    known: Settings, *, writable: bool, create: bool, spends: bool
) -> AbstractContextManager[Runtime, bool | None]:
    """A runtime that closes itself; where a group may look, it publishes what it changed.

    Without a group it says of a view that is published by others that it is not fresh any more.
    """
    if writable and known.group:
        return commands.publish_view.publishing(
            known, documents.view.document, create=create, spends=spends
        )
    if writable and os.path.lexists(f"{known.run_directory}/view"):
        return closing(commands.publish_view.noting(known, create=create, spends=spends))
    from hvtx.engine.runtime import Runtime

    return closing(Runtime(known, writable=writable, create=create, spends=spends))


def _read() -> ModuleType:
    """What reads the settings, which some programs never ask for."""
    from hvtx.api import settings

    return settings


def _refuse_event_loop() -> None:
    """Raise UsageError in a thread whose event loop a call would hold up, and break in parts."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - None, not an error
        raise UsageError(
            "hvtx was called in the thread of an event loop, which would stand still meanwhile",
            hint='call it in a thread of its own: await asyncio.to_thread(host.vm.start, "web")',
        )


def _to_nobody(level: str, words: str) -> None:
    del level, words


def _to_log(level: str, words: str) -> None:
    """Tell a program's log, if it keeps one; without one nothing is printed."""
    import logging

    log = logging.getLogger("hvtx")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", words)


# -- errors of the system --------------------------------------------------------------------------

_EXHAUSTED = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ENOLCK)
)


def lacks_frame(problem: Exception) -> bool:
    """Whether there was no memory for the frame of a call, of which CPython 3.11 says no more."""
    return type(problem) is SystemError and str(problem) == "error return without exception set"


def unexpected(problem: OSError | MemoryError) -> HvtxError:
    """What an error of the system means to people, where nobody expected it."""
    if isinstance(problem, MemoryError):
        hint = "free memory, or raise the limit, then run `hvtx recover`"
        return HvtxError("out of memory", hint=hint, code="memory")
    if isinstance(problem, PermissionError):
        return NotPermitted(
            f"not permitted: {problem}", hint="run hvtx as root, for instance with sudo"
        )
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        hint = "free some space or remount it read-write; or choose other directories"
        return StoreError(f"cannot write to disk: {problem}", hint=room_hint(problem, hint))
    if problem.errno == errno.EIO:
        return StoreError(
            f"cannot read from disk: {problem}", hint="check the kernel's log (dmesg)"
        )
    if problem.errno in _EXHAUSTED:
        return HostRefused(
            f"out of system resources: {problem}",
            hint="check the limits on open files, processes and memory, then try again",
        )
    return HvtxError(f"the system refused: {problem}", hint="`hvtx doctor` checks this host")


def with_notes(told: HvtxError, problem: BaseException) -> HvtxError:
    """The same, with what was noted of ``problem`` meanwhile."""
    for note in getattr(problem, "__notes__", ()):
        told.add_note(note)
    return told
