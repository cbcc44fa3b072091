"""The tree of errors: exit codes are those of the interface, and every error has a hint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvtx import errors
from hvtx.errors import HvtxError, Refused, advised

CODES = {
    "UsageError": 2, "NotFound": 3, "Conflict": 4, "NotPermitted": 5, "HostRefused": 6,
    "StoreError": 7, "StalePlan": 8, "PartialFailure": 9, "Busy": 75,
}  # fmt: skip


def classes(top: type[HvtxError] = HvtxError) -> Iterator[type[HvtxError]]:
    for cls in top.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield cls
            yield from classes(cls)


def test_exit_codes_are_those_of_the_interface() -> None:
    assert {name: getattr(errors, name).exit_code for name in CODES} == CODES
    for cls in classes():
        assert cls.exit_code in {1, *CODES.values()}, cls
        assert cls.default_hint, cls


def test_an_error_keeps_message_hint_and_code() -> None:
    plain, given = HvtxError("x failed"), HvtxError("x failed", hint="do y", code="special")
    assert (str(plain), plain.hint, plain.code) == ("x failed", None, "failed")
    assert (given.message, given.hint, given.code) == ("x failed", "do y", "special")
    assert HvtxError.code == "failed"


@pytest.mark.parametrize("code", sorted(errors.REFUSALS))
def test_a_refusal_has_the_exit_code_of_its_reason(code: str) -> None:
    assert Refused(code, "no").exit_code == errors.REFUSALS[code]


def test_a_refusal_for_no_known_reason_is_a_fault_of_the_program() -> None:
    with pytest.raises(KeyError):
        Refused("because", "no")


def test_advice_is_for_errors_that_have_no_hint() -> None:
    for hint, expected in ((None, "ask"), ("own", "own")):
        with pytest.raises(HvtxError) as caught, advised("ask"):
            raise HvtxError("x", hint=hint)
        assert caught.value.hint == expected
    with pytest.raises(ValueError, match="other"), advised("ask"):
        raise ValueError("other")
