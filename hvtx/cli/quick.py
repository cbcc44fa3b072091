"""The command lines that scripts say a thousand times, read without click.

Only lines that leave nothing to be read: a verb, one name, flags without values. Each other
line, and whatever click has a word to say about (``--help``, completion, global options, errors of
usage), goes to click. So does nothing here refuse anything. See docs/adr/0052.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvtx.model.typed import Any

_JSON = {"--json": "json_"}
# words -> a function in hvtx/cli/verbs.py, how many names it is told, its flags
_KNOWN: dict[tuple[str, ...], tuple[str, int, dict[str, str]]] = {
    ("explain",): ("explain", 1, _JSON),
    ("vm", "start"): ("start", 1, _JSON),
    ("vm", "stop"): ("stop", 1, {"--force": "force", **_JSON}),
    ("vm", "rm"): ("remove", 1, {"--force": "force", **_JSON}),
    ("vm", "show"): ("show", 1, _JSON),
    ("vm", "ls"): ("list_vms", 0, _JSON),
    ("gc", "--plan"): ("plan", 0, _JSON),
}
POWER_DOWN = 30.0  # seconds that a guest may take to power down, unless another time is given


def command(words: Sequence[str]) -> Callable[[], Any] | None:
    """What a command line asks for, ready to be called; None where click is to read it (pure).

    It returns the exit code, or None for 0.
    """
    said = next((n for n in (2, 1) if len(words) > 1 and tuple(words[:n]) in _KNOWN), 0)
    if not said:
        return None
    verb, named, flags = _KNOWN[tuple(words[:said])]
    names = [word for word in words[said:] if word not in flags]
    if len(names) != named or any(not name or name.startswith("-") for name in names):
        return None
    chosen: dict[str, Any] = {flag: word in words for word, flag in flags.items()}
    if verb == "stop":
        chosen["timeout"] = POWER_DOWN

    def run() -> Any:
        from hvtx.cli import verbs

        return getattr(verbs, verb)({}, *names, **chosen)

    return run
