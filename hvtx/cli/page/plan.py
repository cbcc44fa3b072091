"""The page of a plan: verdict, counts, drawing, items with reasons and evidence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from hvtx.cli.names import printed
from hvtx.cli.page.drawing import WORDS, badge, drawing, legend
from hvtx.cli.page.markup import name, tag, write
from hvtx.model.diagram import Diagram, Health
from hvtx.model.reason import Reason
from hvtx.model.reasons import EXPLANATION, MEANING
from hvtx.model.typed import Any

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SIGNS = {"delete": "-", "commit": "+", "forget": "~", "skip": "·"}
_DONE = {
    "delete": "removed from the host",
    "commit": "completed on record",
    "forget": "closed on record",
    "skip": "left alone",
}
_CALM = frozenset({"vm-alive", "reserved"})
_FOLD = 12  # VMs in good order that are listed; more are folded into one line
_FOREIGN = frozenset({"foreign", "other-installation"})
Items = Sequence[Mapping[str, Any]]


def page(
    document: Mapping[str, Any], diagram: Diagram, *, host: str, notes: Sequence[str] = ()
) -> str:
    """The whole page; ``document`` is the ``hvtx/gc/1`` object that the diagram was made with.

    ``notes`` say what could not be inspected.
    """
    items: Items = document["items"]
    health = _health_of(diagram)
    changes = [i for i in items if i["action"] != "skip"]
    stays = [i for i in items if i["action"] == "skip" and i["reason"] not in _FOREIGN]
    strange = [i for i in items if i["action"] == "skip" and i["reason"] in _FOREIGN]
    body = tag(
        "body",
        _header(document, host, notes),
        tag(
            "main",
            _counts(document["summary"]),
            _section("host", "The host", tag("ul", legend(), class_="legend"),
                     tag("div", drawing(diagram), class_="scroll", tabindex="0", role="group",
                         aria_label="drawing of the host")),
            _section("changes", "What would be changed", _changes(changes, health)),
            _section("stays", "What stays, and why", _stays(stays, health)),
            _section("strangers", "Foreign, never modified", _foreign_objects(strange)),
            _section("reasons", "What the reasons mean", _reasons(items)) if items else None,
        ),
        _footer(document),
    )  # fmt: skip
    root = tag("html", _head(host), body, lang="en")
    return write(root, _style())


def _style() -> str:
    path = os.path.join(os.path.dirname(__file__), "page.css")
    with open(path, encoding="utf-8") as sheet:
        return sheet.read()


def _head(host: str) -> Element:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"hvtx gc: plan for {host}"),
    )


def _section(identity: str, title: str, *children: Any) -> Element:
    heading = tag("h2", title, id=f"{identity}-title")
    return tag("section", heading, *children, id=identity, aria_labelledby=f"{identity}-title")


def _health_of(diagram: Diagram) -> dict[str, Health]:
    found = {vm.name: vm.health for vm in diagram.loose}
    found.update({vm.name: vm.health for network in diagram.networks for vm in network.vms})
    return found


# -- top and bottom --------------------------------------------------------------------------------


def _header(document: Mapping[str, Any], host: str, notes: Sequence[str]) -> Element:
    counts = document["summary"]
    acting = counts["delete"] + counts["commit"] + counts["forget"]
    vms = {i["vm"] for i in document["items"] if i["action"] != "skip" and i["vm"]}
    if acting:
        verdict = (
            f"{_many(counts['delete'], 'item')} would be removed from the host and"
            f" {_many(counts['commit'] + counts['forget'], 'record')} closed"
            + (f", of {_many(len(vms), 'VM')}" if vms else "")
            + f". {_many(counts['skip'], 'item')} would stay."
        )
    else:
        verdict = f"Nothing would be changed. {_many(counts['skip'], 'item')} would stay."
    return tag(
        "header",
        tag("h1", "What gc would do on ", name(host)),
        tag("p", verdict, class_="verdict"),
        tag(
            "p",
            "This is a plan: nothing was changed. The host was read at ",
            tag("time", document["made"], datetime=document["made"]),
            f" (plan {document['plan_id']}).",
        ),
        [tag("p", tag("strong", "Note: "), note, class_="note") for note in notes],
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _counts(summary: Mapping[str, int]) -> Element:
    return tag(
        "dl",
        [
            tag(
                "div",
                tag("dt", tag("span", _SIGNS[word], class_="sign", aria_hidden="true"), f" {word}"),
                tag("dd", str(number), tag("small", f" {_DONE[word]}")),
                class_=f"count {word}" + ("" if number else " none"),
            )
            for word, number in summary.items()
        ],
        class_="counts", aria_label="how many items have each action",
    )  # fmt: skip


def _footer(document: Mapping[str, Any]) -> Element:
    epoch = document["epoch"]
    return tag(
        "footer",
        tag(
            "p",
            tag("code", printed("hvtx gc --apply")),
            " applies it, and verifies each item again first. ",
            tag("code", printed("hvtx gc --plan --out FILE")),
            " saves a plan, ",
            tag("code", printed("hvtx gc --apply FILE")),
            " applies that one and no more. ",
            tag("code", printed("hvtx explain OBJECT")),
            " shows all that is known of one object.",
        ),
        tag("p", f"Boot {epoch['boot_id']}, network namespace {epoch['netns']}.", class_="faint"),
    )


# -- items -----------------------------------------------------------------------------------------


def _groups(items: Items) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        found.setdefault(item["vm"] or "", []).append(item)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] == "", pair[0])))


def _changes(items: Items, health: Mapping[str, Health]) -> list[Element]:
    if not items:
        return [tag("p", "Nothing: everything on record is as it should be, or has to stay.")]
    return [
        tag(
            "article",
            tag("h3", _owner(vm, members, health)),
            _table(members, f"what would be changed of {vm or 'no VM'}"),
        )
        for vm, members in _groups(items).items()
    ]


def _owner(vm: str, items: Items, health: Mapping[str, Health]) -> list[Element | str]:
    if not vm:
        named = any(item["record"] for item in items)
        return ["Networks and this installation" if named else "Marked, but of no VM on record"]
    how = health.get(vm, Health.UNKNOWN)
    return [badge(how), " VM ", name(vm), tag("small", f" {WORDS[how]}")]


def _stays(items: Items, health: Mapping[str, Health]) -> list[Element]:
    if not items:
        return [tag("p", "Nothing of ours.")]
    unremarkable: list[Element] = []
    shown: list[Element] = []
    for vm, members in _groups(items).items():
        attention = any(item["reason"] not in _CALM for item in members)
        (shown if attention else unremarkable).append(
            _folded(vm, members, health, unfolded=attention)
        )
    if len(unremarkable) > _FOLD:
        summary = tag("summary", f"{len(unremarkable)} VMs and networks that are as they should be")
        return [*shown, tag("details", summary, unremarkable, class_="many")]
    return [*shown, *unremarkable]


def _folded(vm: str, items: Items, health: Mapping[str, Health], *, unfolded: bool) -> Element:
    reasons = {(item["message"], item["reason"]) for item in items}
    why = next(iter(reasons))[0] if len(reasons) == 1 else _many(len(reasons), "reason")
    words = f" {_many(len(items), 'item')}: {why}"
    summary = tag("summary", tag("b", _owner(vm, items, health)), words)
    table = _table(items, f"what stays of {vm or 'networks'}")
    return tag("details", summary, table, **({"open": "open"} if unfolded else {}))


def _foreign_objects(items: Items) -> list[Element]:
    if not items:
        return [tag("p", "None of interest. --all lists every device and NAT rule.")]
    if len(items) <= _FOLD:
        return [_table(items, "foreign resources")]
    summary = tag("summary", _many(len(items), "item"))
    return [tag("details", summary, _table(items, "foreign resources"), class_="many")]


def _table(items: Items, caption: str) -> Element:
    heads = ("Action", "Thing", "Why", "Evidence")
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", [tag("th", word, scope="col") for word in heads])),
            tag("tbody", [_row(item) for item in items]),
        ),
        class_="scroll", tabindex="0", role="group", aria_label=caption,
    )  # fmt: skip


def _row(item: Mapping[str, Any]) -> Element:
    action = item["action"]
    sign = tag("span", _SIGNS[action], class_="sign", aria_hidden="true")
    return tag(
        "tr",
        tag("td", sign, f" {action}", class_=f"action {action}"),
        tag("th", f"{item['kind']} ", name(item["key"], class_="key"), scope="row"),
        tag("td", item["message"], " ", tag("code", item["reason"])),
        tag("td", tag("ul", [tag("li", line) for line in item["evidence"]])),
    )


def _reasons(items: Items) -> Element:
    used = [reason for reason in Reason if any(i["reason"] == reason.value for i in items)]
    return tag(
        "dl",
        [
            part
            for reason in used
            for part in (
                tag("dt", tag("code", reason.value)),
                tag("dd", f"{MEANING[reason]}. {_sentence(EXPLANATION[reason])}"),
            )
        ],
        class_="reasons",
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
