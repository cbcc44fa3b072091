"""Evidence of a flow in a scratch namespace: lines of legacy tables, doubtful rules, suspects."""

from __future__ import annotations

import re
from collections.abc import Callable

from hvtx.host.nat_detection import OUR_LINE
from hvtx.host.replica import causes, legacy
from hvtx.host.replica.causes import Cause, Suspect
from hvtx.host.replica.legacy import Line
from hvtx.host.replica.scratch import Scratch
from hvtx.host.replica.trace import met, of_others
from hvtx.host.xtnames import TOOLS

_DOUBT = "what this rule does here cannot be told by a copy of it"


class Evidence:
    """Counters as they were, and what moved since."""

    def __init__(self, scratch: Scratch) -> None:
        """Of this scratch, now."""
        self._scratch = scratch
        self._counted = {family: legacy.counted(family) for family in scratch.picture.legacy}
        doubtful = [family for family, written in scratch.legacy.items() if written.doubts]
        self._doubtful = {family: legacy.counted(family, every=True) for family in doubtful}

    def doubt(self, family: int) -> Cause | None:
        """The rule that a flow came to of which it is not known what it does."""
        if (known := self._scratch.doubts) and (step := met(self._scratch.met(), known)):
            place = (step.family, step.table, step.chain)
            return Cause("unknown", place, _DOUBT, step.handle)
        if family not in self._doubtful:
            return None
        doubts = self._scratch.legacy[family].doubts
        before, self._doubtful[family] = self._doubtful[family], legacy.counted(family, every=True)
        for line in legacy.moved(before, self._doubtful[family]):
            if (line.table, line.text) in doubts:
                return causes.of_doubt(family, self._as_on_host(family, line), _DOUBT)
        return None

    def line(self, family: int, attempt: Callable[[], bool]) -> Line | None:
        """The line of a legacy table that the flow met; where several were, it is tried again."""
        if family not in self._scratch.picture.legacy:
            return None
        before, self._counted[family] = self._counted[family], legacy.counted(family)
        moved = legacy.moved(before, self._counted[family])
        if len(moved) > 1:
            self._scratch.forget_neighbours()
            attempt()
            before, self._counted[family] = self._counted[family], legacy.counted(family)
            moved = legacy.moved(before, self._counted[family])
        return self._as_on_host(family, moved[0]) if moved else None

    def suspects(self, family: int, attempt: Callable[[], bool]) -> tuple[Suspect, ...]:
        """The rules of others that the flow met."""
        found = [Suspect(place, handle) for place, handle in of_others(self._scratch.met())]
        if family in self._scratch.picture.legacy:
            before = legacy.counted(family, every=True)
            self._scratch.forget_neighbours()
            attempt()
            after = legacy.counted(family, every=True)
            tool = f"{TOOLS[family]}-legacy"
            found += [
                Suspect((tool, line.table, line.chain), 0, self._as_on_host(family, line).text)
                for line in legacy.moved(before, after)
                if not re.match(OUR_LINE, line.text)
            ]
        return tuple(found)

    def _as_on_host(self, family: int, line: Line) -> Line:
        written = self._scratch.legacy.get(family)
        rules = written.rules if written is not None else {}
        return line._replace(text=rules.get((line.table, line.text), line.text))
