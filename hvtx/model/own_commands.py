"""Commands in a text, with the options of the store that they are about (pure).

A person who reads ``hvtx vm rm NAME --force`` runs it as it stands: without the directories that
the command line before it had, or that a runtime's configuration names, it would act on another
store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COMMANDS = (
    *("vm", "network", "gc", "recover", "repair", "doctor", "explain", "intents", "log", "store"),
    *("cluster", "cni", "systemd", "metrics", "import", "adopt", "completion"),
)
_OPTIONS = {  # the setting's default needs no option
    "state_dir": ("--state-dir", "/var/lib/hvtx"),
    "run_dir": ("--run-dir", "/run/hvtx"),
    "config": ("--config", "/etc/hvtx/config.toml"),
}
_PLACES = tuple(option for option, _ in _OPTIONS.values())
_VALUED = (*_PLACES, "--firewall", "--lock-timeout")  # which stand before the command, too
_LETTERS = frozenset(map(chr, range(97, 123)))
_PLAIN = frozenset("/._-+:@%,=") | set(map(chr, (*range(48, 58), *range(65, 91)))) | _LETTERS


def with_options(text: str, settings: Mapping[str, str]) -> str:
    """A text whose commands work on the store of ``settings`` (arguments of Host)."""
    given = {
        option: settings[name]
        for name, (option, default) in _OPTIONS.items()
        if settings.get(name, default) != default
    }
    return with_given(text, given)


def given_before(words: Sequence[str]) -> dict[str, str]:
    """The options of a command line that stand before its command and say which store is meant."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        option, has_value, value = word.partition("=")
        if not option.startswith("-"):
            break
        if option in _VALUED:
            found[option] = value if has_value else next(rest, "")
    return {option: found[option] for option in _PLACES if option in found}


def with_given(text: str, options: Mapping[str, str]) -> str:
    """A text whose commands have these options, but for those that only show their help."""
    words = "".join(f"{option} {_quoted(value)} " for option, value in options.items())
    before, *pieces = text.split("hvtx ")
    return before + "".join(f"hvtx {words if _has_command(p) else ''}{p}" for p in pieces)


def _has_command(piece: str) -> bool:
    """Whether what stands behind the program's name is a command that looks at the store."""
    length = next((n for n, c in enumerate(piece) if c not in _LETTERS), len(piece))
    line = piece.partition("`")[0].partition(";")[0]
    return piece[:length] in COMMANDS and "--help" not in line


def _quoted(path: str) -> str:
    """As a shell takes it for one word (``shlex``, whose import costs more than this)."""
    plain = path and _PLAIN.issuperset(path)
    return path if plain else "'" + path.replace("'", "'\"'\"'") + "'"
