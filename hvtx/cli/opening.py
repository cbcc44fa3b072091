"""The host that a command is called on, made of the global options; nothing of click is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from hvtx.api import Host
from hvtx.cli.render import emit_json
from hvtx.cli.streams import say_beside
from hvtx.errors import NotPermitted, Refused
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.api.calls import Events

_GLOBAL = ("state_dir", "run_dir", "firewall", "config", "lock_timeout")


def host_of(options: Mapping[str, Any]) -> Host:
    """The host with the global options, whose words go to standard error."""
    given = {name: options.get(name) for name in _GLOBAL}
    return Host(**given, notices=say_beside, events=_teller(options))


@contextmanager
def telling_refusal(json_: bool, document: Callable[[Refused], dict[str, Any]]) -> Iterator[None]:
    """With ``--json`` a refusal is told on standard output too, wherever it came up."""
    try:
        yield
    except Refused as refusal:
        if json_:
            emit_json(document(refusal))
        raise
    except NotPermitted as problem:
        if json_:
            emit_json(document(Refused("cannot-observe", problem.message)))
        raise


def _teller(options: Mapping[str, Any]) -> Events | None:
    """Who is told what operations do: a person who asked for it, or the journal."""
    verbose = bool(options.get("verbose") or options.get("debug"))
    if not verbose and "JOURNAL_STREAM" not in os.environ:
        return None
    from hvtx.api import terminal

    return terminal.event_teller(verbose=verbose)
