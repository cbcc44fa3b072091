"""``hvtx/systemd/1``: `systemd install`, `uninstall` and `print`, with ``--json``."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.systemd import Outcome
    from hvtx.engine.units import Unit

_SCHEMA = "hvtx/systemd/1"


def document(outcome: Outcome) -> dict[str, Any]:
    """What became of the units."""
    return {
        "schema": _SCHEMA,
        "units": [
            {"name": entry.name, "path": entry.path, "state": entry.state}
            for entry in outcome.units
        ],
        "running": outcome.running,
        "note": outcome.note,
    }


def printed(units: Iterable[Unit], files: Iterable[Unit]) -> dict[str, Any]:
    """The units as they would be written, and the files for other programs that go with them."""
    return {"schema": _SCHEMA, "units": _texts(units), "files": _texts(files)}


def _texts(made: Iterable[Unit]) -> list[dict[str, str]]:
    return [{"name": unit.name, "path": unit.path, "text": unit.text} for unit in made]
