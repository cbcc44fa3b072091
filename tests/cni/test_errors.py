"""Errors of the library as a runtime is told them."""

from __future__ import annotations

import pytest

from hvtx import errors as library
from hvtx.cni import errors
from hvtx.cni.errors import CniError, document, of_library


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (library.Busy("a"), 11),
        (library.Contended("a"), 11),
        (library.PartialFailure("a"), 11),
        (library.UsageError("a"), 7),
        (library.NotFound("a"), 7),
        (library.Conflict("a"), 100),
        (library.NotPermitted("a"), 101),
        (library.HostRefused("a"), 102),
        (library.HostRefused("a", code="network-damaged"), 51),
        (library.StoreError("a"), 103),
        (library.Refused("store-cloned", "a"), 104),
        (library.HvtxError("a"), 199),
    ],
)
def test_each_kind_has_a_code_and_a_hint(problem: library.HvtxError, code: int) -> None:
    told = of_library(problem)
    assert (told.code, told.msg) == (code, "a")
    assert told.details == type(problem).default_hint


def test_the_hint_stands_in_the_details_with_what_was_noted() -> None:
    problem = library.Conflict("port 80 is taken", hint="hvtx vm ls")
    problem.add_note("undone")
    told = document(of_library(problem), "1.0.0")
    assert told == {
        "cniVersion": "1.0.0",
        "code": 100,
        "msg": "port 80 is taken",
        "details": "hvtx vm ls; undone",
    }


def test_texts_are_one_line_each_and_a_version_is_always_told() -> None:
    told = document(CniError(errors.FAILED, "a\n b", ""), None)
    assert told == {"cniVersion": "1.1.0", "code": 199, "msg": "a b"}
