"""The page of a plan, as text: whole, escaped, alike for alike plans, for hosts of any size."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from hvtx.cli.page.drawing import described
from hvtx.cli.page.markup import visible
from hvtx.cli.page.plan import page
from hvtx.model.diagram import Health
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind
from hvtx.model.vm import Liveness
from tests.cli import hosts
from tests.planner.scene import Scene

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Seen(HTMLParser):
    """Elements, attributes and texts of a page; fails on tags that do not fit each other."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def made(scene: Scene, host: str = "node7") -> str:
    document, diagram = hosts.drawn(scene)
    return page(document, diagram, host=host)


@pytest.mark.parametrize("vms", [0, 1, 30, 1000])
def test_hosts_of_any_size(vms: int) -> None:
    """Every VM is drawn once, every item has a row, and the counts are the plan's."""
    scene = hosts.scene(vms)
    document, diagram = hosts.drawn(scene)
    seen = Seen(page(document, diagram, host="node7"))
    shapes = hosts.healths(diagram)
    assert len(shapes) == vms
    signs = Counter(
        value.split()[-1]
        for _, key, value in seen.attributes
        if key == "class" and value.startswith("sign ")
    )
    drawn = len(shapes)
    legend, badges, bars = 5, seen.tags["summary"] + seen.tags["article"], 2 if vms else 1
    assert drawn <= sum(signs.values()) <= drawn + legend + badges + bars
    assert seen.tags["tr"] == len(document["items"]) + seen.tags["thead"]
    text = " ".join(seen.texts)
    for number in document["summary"].values():
        assert str(number) in text
    expected = {f"vm{n:04}": _health(n) for n in range(vms)}
    assert shapes == expected
    if vms:
        dead = sum(health is Health.DEAD for health in expected.values())
        assert f"{vms} VMs" in described(diagram)
        assert seen.tags["article"] == dead


def _health(number: int) -> Health:
    if number % 100 == 11:
        return Health.OFF
    if number % 100 == 7:
        return Health.UNKNOWN
    return Health.DEAD if number % 10 == 3 else Health.LIVE


def test_nothing_is_loaded_and_nothing_runs() -> None:
    """No script, no handler, no address; the page's own policy forbids what it has not."""
    scene = hosts.scene(8, evil=True)
    hosts.plant(scene, *hosts.EVIL)
    text = made(scene, host=hosts.EVIL[0])
    seen = Seen(text)
    assert not seen.tags.keys() & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "a",
        "use",
        "image",
    }
    assert not [
        key
        for _, key, _ in seen.attributes
        if key.startswith("on") or key in ("src", "href", "xlink:href", "style")
    ]
    assert "url(" not in text
    assert "@import" not in text
    assert (
        "meta",
        "content",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    ) in seen.attributes
    assert seen.tags["h1"] == 1


def test_names_are_shown_as_they_are_and_obeyed_by_nobody() -> None:
    """Each hostile name is there, readable, once it has lost what a screen would obey."""
    scene = hosts.scene(8, evil=True)
    hosts.plant(scene, *hosts.EVIL)
    text = made(scene, host=hosts.EVIL[0])
    said = "".join(Seen(text).texts)
    for evil in hosts.EVIL:
        assert visible(evil) in said
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    text.encode()
    assert "\\u202egpj.exe" in said
    assert "שלום" in said  # a name in another script is a name


def test_what_could_not_be_looked_at_is_told() -> None:
    document, diagram = hosts.drawn(hosts.scene(1))
    text = page(document, diagram, host="node7", notes=["the <b>tables</b> may not be read"])
    assert "Note: the <b>tables</b> may not be read" in "".join(Seen(text).texts)


def test_equal_plans_give_equal_pages() -> None:
    """Whatever the order in which the host's things were listed."""
    one, two = hosts.scene(30), hosts.scene(30)
    two.links.reverse()
    two.entries.reverse()
    two.vms = dict(reversed(two.vms.items()))
    assert made(one) == made(two)


def test_every_reason_is_explained() -> None:
    """A reason that occurs has its words on the page; one that does not has none."""
    text = made(hosts.scene(30))
    terms = re.findall(r"<dt><code>([a-z-]+)</code></dt>", text)
    assert set(terms) == {
        "vm-dead",
        "already-gone",
        "vm-alive",
        "reserved",
        "liveness-unknown",
        "lost",
    }
    assert all(Reason(term) for term in terms)


def test_pictures() -> None:
    """What is held open lives, whatever its process; networks of a VM are drawn each."""
    scene = Scene()
    lan, dmz = scene.network("lan"), scene.network("dmz", "10.78.0.0/24")
    vm = scene.vm("web", Liveness.DEAD)
    bridges = [scene.row(Kind.BRIDGE, network=network) for network in (lan, dmz)]
    taps = [scene.row(Kind.TAP, vm=vm, network=network) for network in (lan, dmz)]
    scene.show(*bridges, *taps)
    scene.hold(taps[0])
    lost = scene.vm("lost", Liveness.DEAD)
    scene.row(Kind.FILE, vm=lost)
    document, diagram = hosts.drawn(scene)
    assert [network.name for network in diagram.networks] == ["dmz", "lan"]
    assert [[vm.name for vm in network.vms] for network in diagram.networks] == [["web"], ["web"]]
    assert {vm.health for network in diagram.networks for vm in network.vms} == {Health.LIVE}
    assert [(vm.name, vm.health) for vm in diagram.loose] == [("lost", Health.DEAD)]
    text = page(document, diagram, host="node7")
    assert "VMs in no network of hvtx" in text
    scene.links = [link for link in scene.links if link.name != bridges[1].key]
    _, diagram = hosts.drawn(scene)
    assert {n.name: n.health for n in diagram.networks} == {"dmz": Health.DEAD, "lan": Health.LIVE}
