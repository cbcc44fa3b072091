"""Output about operations: running, interrupted, and the history."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from hvtx.engine.runtime import Runtime
from hvtx.errors import NotFound, UsageError
from hvtx.model.history import Line
from hvtx.model.resource import Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.store import history, records


class ShownOperation(NamedTuple):
    """An operation that has not ended, or that left rows half-done."""

    id: int
    verb: str
    vm: str | None
    network: str | None
    state: str  # running or interrupted
    since: str  # RFC 3339 in UTC
    resources: tuple[Resource, ...]


def list_intents(runtime: Runtime) -> list[ShownOperation]:
    """Operations that have not ended, and then those that ended with rows half-done."""
    rows: dict[int, list[Resource]] = {}
    with runtime.reading() as sql:
        for row in records.half_done_resources(sql):
            rows.setdefault(row.operation, []).append(row)
        operations = records.operations(sql)
        ended = records.operations_by_id(sql, rows.keys() - {known.id for known in operations})
    running = runtime.running(operations)
    return [
        ShownOperation(
            operation.id,
            operation.verb,
            operation.vm,
            operation.network,
            "running" if running.get(operation.id) else "interrupted",
            operation.started,
            tuple(rows.get(operation.id, ())),
        )
        for operation in (*operations, *ended)
    ]


def list_history(runtime: Runtime, *, limit: int, **wanted: Any) -> list[Line]:
    """The history; ``wanted`` are fields of :class:`hvtx.store.history.Filter`."""
    since = wanted.pop("since", None)
    _check_words(runtime, wanted)
    filters = history.Filter(**wanted, since=None if since is None else moment(since))
    return runtime.read(history.entries, filters, limit=limit)


def _check_words(runtime: Runtime, wanted: Mapping[str, Any]) -> None:
    """Refuse what no line of the history can have; raises UsageError, NotFound.

    Words of older versions count where the history has them.
    """
    with runtime.reading() as sql:
        for name in ("verb", "kind", "event", "reason"):
            word = wanted.get(name)
            if word is not None and not history.has(sql, name, word):
                check_word(name, word)
        vm, known = wanted.get("vm"), records.vm_names(sql).values()
        if vm is not None and vm not in known and not history.has(sql, "vm", vm):
            raise unheard_of(vm, known)


def check_word(name: str, word: str) -> None:
    """Refuse what is no verb, kind, event or reason (``name``) at all; raises UsageError."""
    from hvtx.model.history_terms import WORDS
    from hvtx.model.nearest import meant

    if word not in WORDS[name]:
        known = f"known: {', '.join(WORDS[name])}"
        raise UsageError(f"{word!r} is not a known {name}", hint=meant(word, WORDS[name], known))


def unheard_of(vm: str, known: Iterable[str], where: str = "in the history") -> NotFound:
    """The error of a VM that nothing is known of; ``where`` its lines were looked for."""
    from hvtx.model.nearest import meant

    return NotFound(
        f"VM {vm!r} is neither on record nor {where}",
        hint=meant(vm, known, "`hvtx vm ls` lists those on record"),
    )


_AGO = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(text: str) -> str:
    """A moment, as the history has its times, or the beginning of one; raises UsageError.

    ``text`` is how long ago it was (``2h``), or an RFC 3339 time or its beginning, which is in UTC
    unless it ends with an offset (``+02:00``).
    """
    if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in _AGO and len(text) < 10:
        return history.at(max(0, time.time_ns() - int(text[:-1]) * _AGO[text[-1]] * 10**9))
    from datetime import UTC, datetime

    whole = "2000-01-01T00:00:00Z"
    stamp = text.replace(" ", "T", 1).upper().removesuffix("Z")
    try:
        if len(stamp) < len("2026") or stamp[10:11] not in ("", "T"):  # `5` is no year
            raise ValueError(text)  # noqa: TRY301
        found = datetime.fromisoformat(stamp + whole[len(stamp) : -1])
        if found.tzinfo is not None:
            found = found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as problem:
        raise UsageError(
            f"{text!r} is not a time",
            hint="2h, 3d, 2026-05-01, 2026-05-01T12:30 (in UTC) or 2026-05-01T12:30+02:00",
        ) from problem
    # the beginning of a time stays one: what has a fraction of that second comes behind it
    in_utc = found.isoformat()
    return stamp if in_utc.startswith(stamp) else in_utc
