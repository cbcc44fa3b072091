"""Errors as CNI has them: a code, ``msg`` and ``details``.

Runtimes show a person ``msg; details`` and nothing else (libcni, ``types.Error.Error``), so the
hint of an error of hvtx's is its ``details``.
"""

from __future__ import annotations

from hvtx.errors import (
    Busy,
    Conflict,
    Contended,
    HostRefused,
    HvtxError,
    NotFound,
    NotPermitted,
    PartialFailure,
    Refused,
    StoreError,
    UsageError,
)
from hvtx.model.cni_version import NEWEST
from hvtx.model.typed import Any

# Those of the specification.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
ENVIRONMENT = 4
READING_FAILED = 5
DECODING_FAILED = 6
CONFIGURATION = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
# Those of hvtx.
CONFLICT = 100
NOT_PERMITTED = 101
HOST_REFUSED = 102
STORE = 103
REFUSED = 104
CHECK_FAILED = 105
FAILED = 199

_NO_NAMESPACE = "no-namespace"
_BY_WORD = {"network-damaged": LIMITED_CONNECTIVITY, _NO_NAMESPACE: ENVIRONMENT}  # the library's

_CODES: tuple[tuple[type[HvtxError], int], ...] = (  # the first that fits
    (Busy, TRY_AGAIN),
    (Contended, TRY_AGAIN),
    (PartialFailure, TRY_AGAIN),
    (UsageError, CONFIGURATION),
    (NotFound, CONFIGURATION),
    (Conflict, CONFLICT),
    (NotPermitted, NOT_PERMITTED),
    (HostRefused, HOST_REFUSED),
    (StoreError, STORE),
    (Refused, REFUSED),
)


# Where the library's own advice is about options of a command, which nobody typed here.
_ADVICE: tuple[tuple[type[HvtxError], str], ...] = (
    (UsageError, "change the configuration, or what the runtime was asked for (docs/cni.md)"),
    (Busy, 'try again, or wait longer: "lockTimeout" in the configuration'),
)


class CniError(Exception):
    """What a runtime is answered instead of a result."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        """Take the code, what happened to which thing, and what to do."""
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


def of_library(problem: HvtxError) -> CniError:
    """An error of the library as CNI has it (pure)."""
    code, message = _code_of(problem), problem.message
    if problem.code == _NO_NAMESPACE:  # the specification wants the variable's name
        message = f"CNI_NETNS: {message}"
    notes = getattr(problem, "__notes__", ())
    hint = "; ".join(filter(None, (problem.hint, *notes))) or _advice_of(problem)
    return CniError(code, message, hint)


def _advice_of(problem: HvtxError) -> str:
    return next(
        (words for kind, words in _ADVICE if isinstance(problem, kind)), problem.default_hint
    )


def _code_of(problem: HvtxError) -> int:
    if problem.code in _BY_WORD:
        return _BY_WORD[problem.code]
    return next((code for kind, code in _CODES if isinstance(problem, kind)), FAILED)


def document(problem: CniError, version: str | None) -> dict[str, Any]:
    """The object of the specification, of the version that was asked in; one line each (pure)."""
    told: dict[str, Any] = {
        "cniVersion": version or NEWEST,
        "code": problem.code,
        "msg": " ".join(problem.msg.split()),
    }
    if problem.details:
        told["details"] = " ".join(problem.details.split())
    return told
