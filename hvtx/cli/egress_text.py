"""What guests may reach, as a terminal shows it."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import Egress, RefusedCount


def egress_lines(egress: Egress, refused: RefusedCount | None = None) -> list[tuple[str, str]]:
    """What guests may reach, for a table of fields; what was refused, where that is counted."""
    found = [("egress", f"{egress.mode} ({egress.source})")]
    if egress.rules:
        from hvtx.model.policy import written

        found += [(rule.action, written(rule)) for rule in egress.rules]
    if refused is not None:
        found.append(("dropped", f"{refused.packets} packets, {refused.bytes} bytes"))
    return found
