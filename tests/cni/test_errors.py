"""Errors of the library as a runtime is told them."""

from __future__ import annotations

import pytest

from hvtx import errors as library
from hvtx.cni import errors
from hvtx.cni.errors import CniError, document, of_library
from hvtx.model.container import NO_NAMESPACE


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
    assert told.details


@pytest.mark.parametrize("kind", [library.NotFound, library.UsageError])
def test_what_is_no_namespace_is_told_of_its_variable(kind: type[library.HvtxError]) -> None:
    told = of_library(kind("there is none", hint="give one", code=NO_NAMESPACE))
    assert (told.code, told.msg) == (4, "CNI_NETNS: there is none")


@pytest.mark.parametrize("kind", [library.Conflict, library.HostRefused, library.StoreError])
def test_without_a_hint_it_is_the_librarys(kind: type[library.HvtxError]) -> None:
    assert of_library(kind("a")).details == kind.default_hint


@pytest.mark.parametrize("kind", [library.UsageError, library.Busy])
def test_nobody_is_told_of_options_of_a_command(kind: type[library.HvtxError]) -> None:
    assert "--" in kind.default_hint
    assert "--" not in of_library(kind("a")).details
    assert of_library(kind("a")).details


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
