"""Commands in hints, with the options of the store that a configuration names (pure).

A person who reads ``hvtx vm rm NAME --force`` in a runtime's log runs it as it stands: without the
directories it would look at another store.
"""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS = (
    *("vm", "network", "gc", "recover", "repair", "doctor", "explain", "intents", "log", "store"),
    *("cluster", "cni", "systemd", "metrics", "import", "adopt", "completion"),
)
_OPTIONS = {  # the setting's default needs no option
    "state_dir": ("--state-dir", "/var/lib/hvtx"),
    "run_dir": ("--run-dir", "/run/hvtx"),
    "config": ("--config", "/etc/hvtx/config.toml"),
}
_PLAIN = frozenset("/._-+:@%,=") | set(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123))))


def with_options(hint: str, settings: Mapping[str, str]) -> str:
    """A hint whose commands work on the store of ``settings`` (arguments of Host)."""
    options = "".join(
        f"{option} {_quoted(settings[name])} "
        for name, (option, default) in _OPTIONS.items()
        if settings.get(name, default) != default
    )
    if options:
        for command in COMMANDS:
            hint = hint.replace(f"hvtx {command}", f"hvtx {options}{command}")
    return hint


def _quoted(path: str) -> str:
    """As a shell takes it for one word (``shlex``, whose import costs more than this)."""
    return path if _PLAIN.issuperset(path) else "'" + path.replace("'", "'\"'\"'") + "'"
