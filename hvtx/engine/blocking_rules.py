"""Search for the foreign rule that stops a flow, by leaving out rule after rule.

A rule that does not track, that gives connections a zone, marks or another destination stops a flow
somewhere else, or nowhere in sight. Each rule that the flow met is taken out of the copy in turn:
without the one to blame it passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from hvtx.host.replica import ruleset
from hvtx.host.replica.causes import Cause, Suspect
from hvtx.host.replica.scratch import Picture
from hvtx.host.xtnames import TOOLS
from hvtx.model.traffic import Flow

_SECONDS = 20.0  # on a host where a replica takes long, what is not found out by then is unknown
_MOST = 8  # rules that are taken out, one after the other
Stopped = list[tuple[Flow, Cause]]
Handles = Mapping[tuple[ruleset.Place, int], int]


def find_blocking_rules(
    picture: Picture, stopped: Stopped, handles: Handles, again: Callable[[Picture], Stopped]
) -> Stopped:
    """The same flows, each with the rule that blocks it, where one was found.

    ``again`` tries all flows on a changed host, and returns those that still fail.
    """
    open_ = {flow: cause for flow, cause in stopped if cause.suspects}
    every = list(dict.fromkeys(s for cause in open_.values() for s in cause.suspects))[:_MOST]
    found: dict[Flow, Cause] = {}
    end = time.monotonic() + _SECONDS
    for together in (False, True):  # two rules may do the same, so that one alone changes nothing
        less = picture
        for suspect in every:
            left = {f for f, cause in open_.items() if suspect in cause.suspects} - found.keys()
            wanted = left or (together and open_.keys() - found.keys())
            if not wanted or time.monotonic() > end:
                continue
            less = without(less if together else picture, suspect, handles)
            failing = {flow for flow, _ in again(less)}
            for flow in left - failing:
                found[flow] = _cause(suspect)
        if len(every) < 2 or found.keys() == open_.keys():
            break
    return [(flow, found.get(flow, cause)) for flow, cause in stopped]


def _cause(suspect: Suspect) -> Cause:
    by = "nft" if suspect.handle else "legacy"
    return Cause(by, suspect.place, suspect.text, suspect.handle)


def without(picture: Picture, suspect: Suspect, handles: Handles) -> Picture:
    """The host without one rule. Pure."""
    if not suspect.handle:
        tool, table, _ = suspect.place
        texts = dict(picture.legacy)
        for family, text in picture.legacy.items():
            if TOOLS[family] == tool[: -len("-legacy")]:
                texts[family] = _without_line(text, table, suspect.text)
        return picture._replace(legacy=texts)
    number = handles.get((suspect.place, suspect.handle))
    rules = [
        body for body in picture.ruleset.rules
        if (ruleset.place(body), ruleset.handle_of(body)) != (suspect.place, number)
    ]  # fmt: skip
    return picture._replace(ruleset=picture.ruleset._replace(rules=rules))


def _without_line(text: str, table: str, line: str) -> str:
    """A saved family without the first such rule of a table."""
    head, separator, body = text.partition(f"*{table}\n")
    return head + separator + body.replace(line + "\n", "", 1)
