"""The page of a plan in a real browser: laid out, readable, deaf to hostile names."""

from __future__ import annotations

import html
import json
import os
import platform
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from hvtx import documents
from hvtx.cli.page.markup import visible
from hvtx.cli.page.plan import page
from integration import lab
from integration.lab import browser, example_host
from integration.lab.program import Forked, preload
from tests.cli import hosts

# What a person would trip over: a page that scrolls sideways, text that reaches over its card's
# edge or lies on other text, text that is too faint, parts that a screen reader cannot name.
LOOK = """
const out = {wide: document.documentElement.scrollWidth - window.innerWidth, over: [], faint: [], dumb: []};
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const seen = (e) => e.getClientRects().length > 0 && e.checkVisibility();
for (const e of document.querySelectorAll("h1,h2,h3,p,td,th,dt,dd,li,small,summary,code,b")) {
  if (!seen(e) || !e.textContent.trim()) continue;
  const found = contrast(rgb(getComputedStyle(e).color), behind(e));
  if (found < 4.5) out.faint.push([e.tagName, e.textContent.slice(0, 20), found]);
}
for (const card of document.querySelectorAll(".drawing svg")) {
  const box = card.querySelector("rect");
  const fill = rgb(getComputedStyle(box).fill), edge = box.getBoundingClientRect();
  const texts = [...card.querySelectorAll("text")].filter(t => t.textContent);
  for (const text of texts) {
    const found = contrast(rgb(getComputedStyle(text).fill), fill);
    if (found < 4.5) out.faint.push(["text", text.textContent, found]);
    const at = text.getBoundingClientRect();
    if (at.bottom > edge.bottom || at.top < edge.top || at.left < edge.left) out.over.push(text.textContent);
    if (!WIDE && at.right > edge.right) out.over.push(text.textContent);
  }
  if (!card.querySelector("title")) out.dumb.push("card");
}
for (const text of document.querySelectorAll(".drawing > g > text")) {
  const at = text.getBoundingClientRect(), all = document.querySelector(".drawing").getBoundingClientRect();
  if (at.right > all.right + 1) out.over.push(text.textContent);
}
for (const e of document.querySelectorAll("section")) if (!e.getAttribute("aria-labelledby")) out.dumb.push("section");
for (const e of document.querySelectorAll("table")) if (!e.caption || e.querySelector("thead th:not([scope=col])")) out.dumb.push("table");
out.title = document.title;
out.scripts = document.scripts.length;
out.images = document.images.length;
out.headings = [...document.querySelectorAll("h1")].map(e => e.textContent);
out.signs = Object.fromEntries(["live", "dead", "unknown", "off", "foreign"].map(
  w => [w, [...new Set([...document.querySelectorAll(".sign." + w)].map(e => e.tagName + (e.getAttribute("points") || "").split(" ").length))]]));
out.folded = document.querySelectorAll("details:not([open])").length;
out.articles = document.querySelectorAll("article").length;
return out;
"""


def look(path: Path, *, clipped: bool = False, **how: Any) -> dict[str, Any]:
    """What a person would trip over; ``clipped``: names may be cut off at a card's right edge."""
    found: dict[str, Any] = browser.ask(path, LOOK.replace("WIDE", json.dumps(clipped)), **how)
    return found


def sound(seen: dict[str, Any]) -> bool:
    """Nothing to trip over, in words if there is."""
    assert seen["wide"] <= 0, "the page scrolls sideways"
    assert seen["over"] == []
    assert seen["faint"] == []
    assert seen["dumb"] == []
    return True


def test_hostile_names_in_a_narrow_window(tmp_path: Path) -> None:
    """They are text, in a browser too; and the page is as sound on a telephone as on a desk."""
    scene = hosts.scene(8, evil=True)
    hosts.plant(scene, *hosts.EVIL)
    document, picture = hosts.drawn(scene)
    path = tmp_path / "evil.html"
    path.write_text(page(document, picture, host=hosts.EVIL[0]), encoding="utf-8")
    seen = look(path, clipped=True, width=500, height=900)
    assert sound(seen)
    assert seen["title"] == f"hvtx gc: plan for {hosts.EVIL[0]}"
    assert seen["headings"] == [f"What gc would do on {hosts.EVIL[0]}"]
    assert (seen["scripts"], seen["images"]) == (1, 0)  # the probe's own


def test_a_thousand_vms_in_the_dark(tmp_path: Path) -> None:
    """Every sign has a shape of its own; who runs is folded; nothing overlaps or fades."""
    scene = hosts.scene(1000)
    hosts.plant(scene, "tap-foo")
    document, picture = hosts.drawn(scene)
    path = tmp_path / "thousand.html"
    path.write_text(page(document, picture, host="node7"), encoding="utf-8")
    seen = look(path, width=1200, height=900, scheme="dark")
    assert sound(seen)
    assert seen["articles"] == 100
    assert seen["folded"] > 900
    shapes = [shape for found in seen["signs"].values() for shape in found]
    assert all(len(found) == 1 for found in seen["signs"].values()), seen["signs"]
    assert shapes == ["circle1", "polygon12", "polygon3", "circle1", "polygon4"]  # disc and ring


def test_the_page_of_a_host(tmp_path: Path) -> None:
    """`gc --plan --html` on the example host: complete, as the JSON has it, and not blank."""
    preload()
    hvtx = Forked()
    example_host.plant_strangers()
    example_host.furnish(hvtx)
    try:
        path = tmp_path / "plan.html"
        printed = hvtx("gc", "--plan", "--json", "--html", str(path)).json()
    finally:
        example_host.end_all(hvtx)
    seen = browser.dom(path)
    text = html.unescape(re.sub(r"<[^>]+>", "", seen))
    for item in printed["items"]:
        for words in (item["key"], item["message"], item["reason"], *item["evidence"]):
            assert visible(words) in text, words
    assert printed["plan_id"] in text
    assert os.uname().nodename in text
    for name in (
        "web",
        "db",
        "cache",
        "build",
        "appliance",
        "spare",
        "docker0",
        "virbr0",
        "tap-foo",
    ):
        assert re.search(rf"<text[^>]*>(bridge |tap )?{name}</text>", seen), name
    picture = browser.screenshot(path, tmp_path / "plan.png", width=1000, height=700)
    assert len(_colours(picture)) > 20


def _colours(png: bytes) -> set[bytes]:
    """Different pixels of a PNG of 8 bits a sample, filtered as they are: a blank one has few."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, bits, kind = struct.unpack(">IIBB", png[16:26])
    assert (width, height, bits) == (1000, 700, 8)
    data, at = b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += size + 12
    raw, samples = zlib.decompress(data), {2: 3, 6: 4}[kind]
    return {raw[n : n + samples] for n in range(1, len(raw) - samples, samples * 7)}


def test_where_a_page_goes(tmp_path: Path) -> None:
    """With --plan only; a place that cannot be written is told; a refused plan leaves no page."""
    preload()
    hvtx = Forked()
    path = tmp_path / "plan.html"
    hvtx("gc", "--apply", "--html", str(path), code=2)
    hvtx("gc", "--heuristic", "--plan", "--html", str(path), code=2)
    told = hvtx("gc", "--plan", "--html", str(tmp_path / "no/such/place"), code=3).err
    assert "cannot be written" in told
    assert not path.exists()
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    with lab.private_network():
        hvtx("gc", "--plan", "--html", str(path), code=4)
    assert not path.exists()
    hvtx("gc", "--plan", "--html", str(path))
    assert "nothing would be changed" in path.read_text().lower()


def test_plans_load_what_they_show_and_no_more() -> None:
    """The page, its picture, the schema and the words of documents are loaded by who asks for them."""
    script = (
        "import sys; from hvtx.cli.main import run; code = run(sys.argv[1:]);"
        " print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    late = {
        *(f"hvtx.documents.{name}" for name in documents.__all__ if name not in ("plan", "plan_pieces")),
        "hvtx.cli.page", "hvtx.host.replica", "hvtx.commands.explain", "hvtx.model.reasons", "hvtx.model.diagram",
        "hvtx.planner.heuristic", "hvtx.planner.known_software", "hvtx.planner.diagram", "hvtx.planner.promises",
        "hvtx.planner.identify", "xml",
    }  # fmt: skip
    hvtx = Forked()
    hvtx("network", "create", "net", "--subnet", example_host.SUBNET)
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    for argv in (
        ("vm", "start", "web"),
        ("gc", "--plan"),
        ("gc", "--plan", "--json"),
        ("vm", "stop", "web"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert late.isdisjoint(done.stderr.split()), argv


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("debian", pytest.raises(AssertionError, match="chromium is missing")),
        ("ubuntu", pytest.raises(pytest.skip.Exception, match="no chromium")),
    ],
)
def test_ci_does_not_skip_where_there_is_a_browser(
    monkeypatch: pytest.MonkeyPatch, release: str, said: Any
) -> None:
    """Without one the tests above fail on CI, but for Ubuntu, which has no package of it."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": release})
    with said:
        browser.program()
