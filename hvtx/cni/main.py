"""One run of the plugin: the one place where what goes wrong becomes an error of CNI's.

The answer stands on standard output, errors too, as one JSON object; the exit code is 0 or 1. What
is written to standard error is for the runtime's log.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from contextlib import suppress

from hvtx import loader
from hvtx.cni import errors
from hvtx.cni.configuration import MOST, SETTINGS, decode, version_of
from hvtx.cni.environment import parse_environment
from hvtx.cni.errors import CniError
from hvtx.model import json_text
from hvtx.model.cni_version import NEWEST, VERSIONS
from hvtx.model.typed import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hvtx.cni.verbs import Attachments

_ALLOCATIONS = 1 << 18  # between two searches for cyclic garbage; a command makes hardly any


def main() -> NoReturn:
    """Answer the runtime that started this process, and leave at once as ``hvtx`` does."""
    gc.set_threshold(_ALLOCATIONS)
    loader.install()  # before the modules that a command needs
    os.umask(os.umask(0o077) & 0o077)  # what takes from the owner would shut us out of our own
    _open_what_is_closed()
    code, said = run(os.environ)
    try:
        _pour(1, said)
    except OSError:
        code = 1
    os._exit(code)


def run(environment: Mapping[str, str]) -> tuple[int, bytes]:
    """The exit code, and what is to stand on standard output."""
    version = None
    document: dict[str, Any] = {}
    try:
        try:
            call = parse_environment(environment)
        except CniError:
            version = _version_asked(environment)
            raise
        data = _read()
        if call.command == "VERSION":
            return 0, _written(versions(data))
        document = decode(data)
        version = version_of(document)
        from hvtx.cni.verbs import answer

        told = answer(call, document, _attachments, _say)
    except CniError as problem:
        return 1, _written(errors.document(problem, version))
    except KeyboardInterrupt:
        hint = "`hvtx recover` resolves what was under way"
        cut = CniError(errors.TRY_AGAIN, "interrupted", _on_its_store(hint, document))
        return 1, _written(errors.document(cut, version))
    except Exception as problem:  # noqa: BLE001 - a mistake of ours is an answer too
        words = f"unexpected {type(problem).__name__}: {problem}"
        hint = "this is a bug in hvtx; `hvtx doctor` checks this host"
        bug = CniError(errors.FAILED, words, _on_its_store(hint, document))
        return 1, _written(errors.document(bug, version))
    return 0, b"" if told is None else _written(told)


def _on_its_store(hint: str, document: Mapping[str, Any]) -> str:
    """A hint whose commands work on the store that a configuration names, whatever else it says."""
    from hvtx.model import own_commands

    named = {setting: document.get(key) for key, setting in SETTINGS.items()}
    return own_commands.with_options(
        hint, {setting: value for setting, value in named.items() if isinstance(value, str)}
    )


def _version_asked(environment: Mapping[str, str]) -> str | None:
    """In which version a runtime asked, whatever else it said; None where nobody knows."""
    try:
        if not environment.get("CNI_COMMAND") or os.isatty(0):  # a person tries the program
            return None
        return version_of(decode(_read()))
    except CniError:
        return None


def _attachments(**settings: str) -> Attachments:
    from hvtx.api import Host, calls

    calls.begin_program()
    given: dict[str, Any] = dict(settings)
    return Host(notices=_notice, **given).attachments


def versions(data: bytes) -> dict[str, Any]:
    """What VERSION answers, in the version that was asked in if hvtx knows it (pure)."""
    try:
        asked = version_of(decode(data))
    except CniError:
        asked = None
    return {"cniVersion": asked or NEWEST, "supportedVersions": list(VERSIONS)}


def _read() -> bytes:
    """Standard input, and one byte more than is taken. Raises CniError (5)."""
    found = bytearray()
    try:
        while len(found) <= MOST:
            part = os.read(0, 1 << 16)
            if not part:
                break
            found += part
    except OSError as problem:
        raise CniError(
            errors.READING_FAILED,
            f"standard input cannot be read: {problem.strerror}",
            "the runtime writes the configuration there",
        ) from problem
    return bytes(found)


def _written(document: Mapping[str, Any]) -> bytes:
    return json_text.dumps(document, separators=(",", ":")).encode() + b"\n"


def _pour(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _notice(level: str, words: str) -> None:
    _say(f"hvtx: {level}: {words}")


def _say(line: str) -> None:
    """A line on standard error, without anything that a terminal would obey."""
    plain = "".join(c if c.isprintable() else "?" for c in line)
    with suppress(OSError):  # nobody listens; the answer is on standard output
        _pour(2, plain.encode(errors="replace") + b"\n")


def _open_what_is_closed() -> None:
    """Give 0, 1 and 2 to nobody else: a file that is opened later must not be written to by us."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
