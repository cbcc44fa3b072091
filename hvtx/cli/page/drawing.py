"""The host as a drawing (inline SVG): a bar for each bridge, a card for each VM below it.

How a thing stands is told by colour, by the shape of its sign, by the line around it, and in words.
However many VMs there are, those that somebody should look at have cards; the others shrink to
signs whose names are in their tooltips and in the tables below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from hvtx.cli.page.markup import tag, visible
from hvtx.model.diagram import Diagram, ForeignNode, Health, NetworkNode, VmNode
from hvtx.model.typed import NamedTuple

WIDTH = 1000
_CARD, _TALL, _GAP = 180, 74, 12  # a card's width and height, and what is between two
_ROW = (WIDTH - 40 + _GAP) // (_CARD + _GAP)  # cards in a row
_CARDS = 40  # cards below a bridge; the other VMs are signs
_SIGN, _SIGNS = 16, (WIDTH - 60) // 16  # a sign's square, and how many are in a line
_FOREIGN = 24  # others' bridges and devices that are drawn
_LETTERS = 18  # of a name on a card
WORDS = {
    Health.LIVE: "runs",
    Health.DEAD: "dead",
    Health.UNKNOWN: "not provable",
    Health.OFF: "not running",
    Health.FOREIGN: "not ours",
}


class Drawn(NamedTuple):
    """A part of the drawing and its height."""

    elements: list[Element]
    height: float


def drawing(diagram: Diagram) -> Element:
    """The whole drawing, with a title and a description for those who do not see it."""
    parts = [_network(network) for network in diagram.networks]
    if diagram.loose:
        parts.append(_block("VMs in no network of hvtx", diagram.loose))
    parts.append(_foreign_objects(diagram))
    svg = tag(
        "svg",
        tag("title", "The host as hvtx sees it", id="drawing-title"),
        tag("desc", described(diagram), id="drawing-words"),
        role="img", aria_labelledby="drawing-title drawing-words", class_="drawing",
    )  # fmt: skip
    top = 10.0
    for part in parts:
        svg.append(tag("g", part.elements, transform=f"translate(0 {top:g})"))
        top += part.height + 18
    svg.set("viewBox", f"-2 0 {WIDTH + 4} {top:g}")  # the lines of the bars have a width
    return svg


def described(diagram: Diagram) -> str:
    """The drawing in words."""
    vms = {vm.name: vm for network in diagram.networks for vm in network.vms}
    vms.update({vm.name: vm for vm in diagram.loose})
    counts = [(health, sum(vm.health is health for vm in vms.values())) for health in Health]
    told = ", ".join(f"{number} {WORDS[health]}" for health, number in counts if number)
    words = f"{len(diagram.networks)} networks, {len(vms)} VMs"
    words += f" ({told})" if told else ""
    return (
        f"{words}; {len(diagram.foreign_objects)} devices and {len(diagram.rules)} rules of others."
    )


def sign(health: Health, x: float = 8, y: float = 8, size: float = 6) -> Element:
    """The sign of a health around a centre: disc, cross, triangle, ring or diamond."""
    s = size
    if health is Health.LIVE:
        return tag("circle", cx=x, cy=y, r=s, class_="sign live")
    if health is Health.OFF:
        return tag("circle", cx=x, cy=y, r=s - 1, class_="sign off")
    if health is Health.DEAD:
        a, b = s * 0.9, s * 0.35
        turns = [(-a, -a + b), (-a + b, -a), (0, -b), (a - b, -a), (a, -a + b), (b, 0),
                 (a, a - b), (a - b, a), (0, b), (-a + b, a), (-a, a - b), (-b, 0)]  # fmt: skip
    elif health is Health.UNKNOWN:
        turns = [(0, -s), (s, s * 0.8), (-s, s * 0.8)]
    else:
        turns = [(0, -s), (s, 0), (0, s), (-s, 0)]
    points = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in turns)
    return tag("polygon", points=points, class_=f"sign {health.value}")


def badge(health: Health) -> Element:
    """A sign of its own, for the text of the page; the words stand beside it."""
    return tag(
        "svg", sign(health), viewBox="0 0 16 16", class_="badge", aria_hidden="true",
        width="16", height="16",
    )  # fmt: skip


# -- ours ------------------------------------------------------------------------------------------


def _network(network: NetworkNode) -> Drawn:
    subnets = ", ".join(network.subnets)
    rules = f"{network.rules} rule{'' if network.rules == 1 else 's'}"
    elements = [
        *_bar(f"network {network.name}", f"{network.bridge}  {subnets}", network.health),
    ]
    if network.rules:
        elements += _pill(rules, WIDTH - 110, 5, f"firewall rows of network {network.name}")
    below = _vms(network.vms)
    if not network.vms:
        elements.append(_text("no VMs", 40, 52, "faint"))
        return Drawn(elements, 62)
    elements.append(tag("g", below.elements, transform="translate(0 34)"))
    return Drawn(elements, 34 + below.height)


def _block(title: str, vms: Sequence[VmNode]) -> Drawn:
    below = _vms(vms)
    elements = [
        _text(title, 12, 20, "strong"),
        tag("g", below.elements, transform="translate(0 26)"),
    ]
    return Drawn(elements, 26 + below.height)


def _bar(title: str, words: str, health: Health) -> list[Element]:
    return [
        tag("rect", x=0, y=0, width=WIDTH, height=30, rx=6, class_=f"bar {health.value}"),
        sign(health, 18, 15),
        _text(_short(title, 40), 34, 20, "strong"),
        _text(_short(words, 76), 330, 20, "mono"),
    ]


def _pill(words: str, x: float, y: float, title: str) -> list[Element]:
    return [
        tag(
            "g",
            tag("title", title),
            tag("path", d=f"M{x + 8} {y}h84l8 10-8 10h-84l-8-10z", class_="pill"),
            _text(words, x + 50, y + 14, "small middle"),
        )
    ]


def _vms(vms: Sequence[VmNode]) -> Drawn:
    """Cards for those that somebody should look at; signs for what is more than fits."""
    cards, signs = list(vms[:_CARDS]), list(vms[_CARDS:])
    elements: list[Element] = []
    for number, vm in enumerate(cards):
        column, line = number % _ROW, number // _ROW
        x, y = 40.0 + column * (_CARD + _GAP), 14.0 + line * (_TALL + 26)
        elements += _wires(x, y, first=column == 0)
        elements.append(_card(vm, x, y))
    height = (-(-len(cards) // _ROW)) * (_TALL + 26.0)
    for number, vm in enumerate(signs):
        column, line = number % _SIGNS, number // _SIGNS
        x, y = 48 + column * _SIGN, height + 14 + line * _SIGN
        title = tag("title", f"{vm.name}: {WORDS[vm.health]}")
        elements.append(tag("g", title, sign(vm.health, x, y, 5)))
    if signs:
        height += 10 + -(-len(signs) // _SIGNS) * _SIGN
        elements.append(
            _text(f"and {len(signs)} more VMs, by their signs", 40, height + 12, "faint")
        )
        height += 18
    return Drawn(elements, height)


def _wires(x: float, y: float, *, first: bool) -> list[Element]:
    """From the bridge down the left side, along the row, and down to the card."""
    along = y - 10
    wires = [tag("path", d=f"M{x + 20} {along}V{y}", class_="wire")]
    start = 18 if first else x + 20 - _CARD - _GAP
    wires.append(tag("path", d=f"M{start} {along}H{x + 20}", class_="wire"))
    if first:
        above = -4 if y < 20 else along - _TALL - 26
        wires.append(tag("path", d=f"M18 {above}V{along}", class_="wire"))
    return wires


def _card(vm: VmNode, x: float, y: float) -> Element:
    ports = ", ".join(vm.ports)
    where = f"⇄ {ports}" if ports else (vm.addresses[0] if vm.addresses else "")
    rules = f"{vm.rules} rule{'' if vm.rules == 1 else 's'}"
    known = "; ".join(text for text in (vm.words, ", ".join(vm.addresses), ports, rules) if text)
    return tag(
        "svg",  # of its own, so that nothing on it reaches over its edge
        tag("title", f"{vm.name}: {WORDS[vm.health]}; {known}"),
        tag("rect", x=1, y=1, width=_CARD - 2, height=_TALL - 2, rx=8,
            class_=f"card {vm.health.value}"),
        sign(vm.health, 16, 18),
        _text(_short(vm.name, _LETTERS), 30, 23, "strong"),
        _text(vm.device or "no device", 12, 43, "mono small"),
        _text(rules if vm.rules else "", _CARD - 10, 43, "faint small end"),
        _text(_short(where, 26), 12, 62, "small"),
        x=x, y=y, width=_CARD, height=_TALL,
    )  # fmt: skip


# -- others -------------------------------------------------------------------------------------


def _foreign_objects(diagram: Diagram) -> Drawn:
    elements = [
        tag("rect", x=0, y=0, width=WIDTH, height=30, rx=6, class_="bar foreign"),
        sign(Health.FOREIGN, 18, 15),
        _text("foreign, never modified", 34, 20, "strong"),
    ]
    if diagram.rules:
        elements += _pill(
            f"{len(diagram.rules)} NAT", WIDTH - 110, 5, "\n".join(diagram.rules[:_FOREIGN])
        )
    y = 44.0
    if not (diagram.foreign_objects or diagram.others):
        elements.append(_text("nothing was seen", 40, y + 14, "faint"))
        y += 26
    for foreign_object in diagram.foreign_objects[:_FOREIGN]:
        elements.append(_foreign_object(foreign_object, y))
        y += 34
    left = diagram.foreign_objects[_FOREIGN:]
    if left:
        elements.append(_text(f"and {len(left)} more bridges and TAP devices", 40, y + 14, "faint"))
        y += 26
    if diagram.others:
        words = f"and {len(diagram.others)} other devices: {', '.join(diagram.others[:8])}"
        more = " …" if len(diagram.others) > 8 else ""
        elements.append(_text(_short(words, 120) + more, 40, y + 14, "faint"))
        y += 26
    return Drawn(elements, y)


def _foreign_object(foreign_object: ForeignNode, y: float) -> Element:
    ports = ", ".join(foreign_object.ports[:6]) + (" …" if len(foreign_object.ports) > 6 else "")
    words = foreign_object.words + (f"; ports: {ports}" if ports else "")
    return tag(
        "g",
        tag("title", f"{foreign_object.kind} {foreign_object.name}: {words}"),
        tag("rect", x=40, y=y, width=WIDTH - 80, height=26, rx=4, class_="card foreign"),
        sign(Health.FOREIGN, 56, y + 13, 5),
        _text(_short(f"{foreign_object.kind} {foreign_object.name}", 24), 72, y + 18, "mono"),
        _text(_short(words, 96), 280, y + 18, "small"),
    )


def _text(words: str, x: float, y: float, style: str = "") -> Element:
    return tag("text", words, x=x, y=y, **({"class_": style} if style else {}))


def _short(text: str, most: int) -> str:
    """Text cut to a number of letters as they are shown; the whole is in a tooltip."""
    words = visible(text)
    return words if len(words) <= most else words[: most - 1] + "…"


def legend() -> Iterable[Element]:
    """Each sign with its words."""
    for health in (Health.LIVE, Health.DEAD, Health.UNKNOWN, Health.OFF, Health.FOREIGN):
        yield tag("li", badge(health), " ", WORDS[health])
