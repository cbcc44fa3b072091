"""What must hold of every parser, for the ordinary run and for the long job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.fuzz.parsers import Parser


def options(*, examples: int, **more: Any) -> settings:
    """Settings that ask for nothing but the property."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        **more,
    )


def property_of(parser: Parser) -> Callable[..., None]:
    """Only the named errors come out."""

    @given(parser.inputs)
    def holds(given_: Any) -> None:
        try:
            parser.call(given_)
        except AssertionError:
            raise
        except parser.errors:
            pass

    return holds
