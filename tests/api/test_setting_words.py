"""The tables of docs/reference.md beside what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hvtx.api import cluster_settings, setting_words, settings
from hvtx.api.setting_words import CLUSTER, CNI, GIVEN, READ, SETTINGS
from hvtx.cni import configuration, environment
from hvtx.errors import UsageError
from hvtx.hypervisors import base
from hvtx.model.block import SOURCES, Cluster
from hvtx.model.setting import EVERY, NUMBERS, PATHS
from tests.structure.source import program


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EVERY:
        monkeypatch.delenv(f"HVTX_{name.upper()}", raising=False)


def test_every_setting_has_its_line_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults of a program without options, environment and configuration."""
    plain(monkeypatch)
    monkeypatch.setattr(settings, "DEFAULT_CONFIG", "/nonexistent/config.toml")
    found = settings.settings({})
    assert sorted(one.name for one in SETTINGS) == sorted(EVERY)
    for one in SETTINGS:
        if one.name == "config":
            continue
        value = getattr(found, one.name.replace("_dir", "_directory"))
        assert value == (type(value)(one.default) if one.default else None), one.name


def test_types_and_bounds_are_those_that_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each word of an enumeration is taken, and what lies beyond a bound is not."""
    plain(monkeypatch)

    def given(name: str, text: str) -> None:
        settings.settings({"config": "/dev/null", name: text})

    for one in SETTINGS:
        if one.name in ("firewall", "egress", "dhcp"):
            for word in re.findall(r"`(\w+)`", one.type):
                given(one.name, word)
            with pytest.raises(UsageError):
                given(one.name, "other")
        assert (one.type == "path") == (one.name in PATHS), one.name
        if one.name in NUMBERS:
            least, most = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", one.type))
            given(one.name, str(least))
            given(one.name, str(most))
            for beyond in (least - 1, most + 1):
                with pytest.raises(UsageError):
                    given(one.name, str(beyond))


def test_every_key_of_cluster_has_its_line_with_its_default() -> None:
    assert sorted(one.name for one in CLUSTER) == sorted({"source", *Cluster._fields})
    assert {one.name for one in CLUSTER} == cluster_settings._KEYS
    found = cluster_settings.parse({"source": "static"}, "f")
    for one in CLUSTER:
        value = getattr(found, one.name)
        if one.name != "source":
            assert (str(value).removesuffix(".0") if value else "") == one.default
    assert CLUSTER[0].type == setting_words._one_of(SOURCES)
    for timeout in (0, 60.5):
        with pytest.raises(UsageError):
            cluster_settings.parse({"source": "static", "timeout": timeout}, "f")


def test_every_variable_that_the_program_names_has_its_line() -> None:
    """Strings of the source that are such names, and all that is asked of `os.environ`."""
    known = {one.name for one in (*READ, *GIVEN, *CNI)} | {f"HVTX_{name.upper()}" for name in EVERY}
    asked = re.compile(r"environ(?:\.get\(|\[|: )(?:b?\")(\w+)\"|\"(\w+)\" (?:not )?in os\.environ")
    named = set()
    for module in program():
        if module.path == "api/setting_words.py":
            continue
        named |= {
            text for text in module.strings() if re.fullmatch(r"(HVTX|CNI)_[A-Z_]+[A-Z]", text)
        }
        named |= {name for found in asked.findall(module.text) for name in found if name}
    assert named - known == set()
    assert {one.name for one in READ} - {"_HVTX_COMPLETE"} <= named  # its name is put together


def test_keys_of_the_plugin_are_on_its_page() -> None:
    """Settings by their keys, and what the plugin knows besides."""
    page = (Path(__file__).parents[2] / "docs/cni.md").read_text()
    (keys,) = re.findall(r"^\| key \| what it is \|.*?\n\n", page, re.MULTILINE | re.DOTALL)
    named = {
        name
        for line in keys.strip().splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == configuration._OWN | {"dns"}


def test_variables_of_a_program_and_of_a_runtime() -> None:
    """Those of docs/reference.md are what is set, and what a runtime is asked for."""
    words = {f"HVTX_{word.upper()}" for word in base.PLACEHOLDERS}
    assert {one.name for one in GIVEN} == words | {"HVTX_SEED"}
    needed = {name for names in environment._NEEDS.values() for name in names}
    assert {one.name for one in CNI} == needed | {"CNI_COMMAND", "CNI_ARGS"}
    assert CNI[0].type == setting_words._one_of(environment.COMMANDS)
