"""`hvtx vm start|stop|rm NAME...` with several names: what each came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.opening import host_of
from hvtx.cli.progress import progress
from hvtx.cli.vm_text import sentences
from hvtx.errors import SeveralFailed
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.api.vms import Each

Options = Mapping[str, Any]
_WORDS = {"start": ("started", "running"), "stop": ("stopped", "stopped"), "rm": ("removed", "")}


def start(options: Options, names: Sequence[str], *, json_: bool) -> None:
    """Start VMs and print each. Raises SeveralFailed."""
    verb = host_of(options).vm.start_each
    _tell("start", lambda bar: verb(names, progress=bar), json_=json_)


def stop(
    options: Options, names: Sequence[str], *, timeout: float, force: bool, json_: bool
) -> None:
    """Stop VMs and print each. Raises SeveralFailed."""
    verb, tell = host_of(options).vm.stop_each, None if json_ else render.tell
    how: dict[str, Any] = {"timeout": timeout, "force": force, "tell": tell}
    _tell("stop", lambda bar: verb(names, **how, progress=bar), json_=json_)


def rm(options: Options, names: Sequence[str], *, force: bool, json_: bool) -> None:
    """Remove VMs and print each. Raises SeveralFailed."""
    verb = host_of(options).vm.rm_each
    _tell("rm", lambda bar: verb(names, force=force, progress=bar), json_=json_)


def _tell(verb: str, act: Callable[[Any], Each], *, json_: bool) -> None:
    done_word, state = _WORDS[verb]
    with ExitStack() as stack:
        came = act(progress(stack, f"VMs {done_word}"))
    if json_:
        done = [
            documents.vm.document(shown) if shown else documents.removed.document("vm", name)
            for name, shown in came.done.items()
        ]
        render.emit_json(documents.several.document(verb, done, came.failed))
    else:
        for name, shown in came.done.items():
            lines = sentences(shown, state) if shown else [f"VM {name} is removed"]
            for line in lines:
                render.say(line)
    if came.failed:
        total = len(came.done) + len(came.failed)
        words = f"{len(came.failed)} of {total} VMs were not {done_word}: {', '.join(came.failed)}"
        raise SeveralFailed(words, list(came.failed.values()), done=bool(came.done))
