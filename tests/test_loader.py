"""Modules of hvtx are the same whether Python's own finder finds them or hvtx's."""

from __future__ import annotations

import importlib.util
import inspect
import py_compile
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from hvtx import loader

TAG = str(sys.implementation.cache_tag)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `hvtx` with a module and a package in it, compiled."""
    for name in ("one.py", "two/__init__.py", "two/three.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"WHERE = {name!r}\n\n\ndef told():\n    return WHERE\n")
        py_compile.compile(str(path))
    return tmp_path


def found(package: Path, name: str) -> ModuleSpec:
    below, _, _ = name.rpartition(".")
    directory = package.joinpath(*below.split(".")[1:])
    spec = loader.Finder(TAG).find_spec(name, [str(directory)])
    assert spec is not None
    return spec


def loaded(package: Path, name: str = "hvtx.one") -> ModuleType:
    spec = found(package, name)
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["hvtx.one", "hvtx.two", "hvtx.two.three"])
def test_a_spec_says_what_importlib_would_say(package: Path, name: str) -> None:
    spec = found(package, name)
    assert spec.origin is not None
    inside = [str(package / "two")] if name == "hvtx.two" else None
    usual = importlib.util.spec_from_file_location(
        name, spec.origin, submodule_search_locations=inside
    )
    assert usual is not None
    for field in ("name", "origin", "cached", "has_location", "parent"):
        assert getattr(spec, field) == getattr(usual, field), field
    assert spec.submodule_search_locations == usual.submodule_search_locations
    module = loaded(package, name)
    assert module.told() == Path(spec.origin).relative_to(package).as_posix()
    assert module.__file__ == spec.origin
    assert inspect.getsource(module.told).startswith("def told():")
    assert module.told.__code__.co_filename == spec.origin


def test_what_is_compiled_is_what_is_run(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own loader is not asked for it."""
    monkeypatch.setattr(loader.SourceFileLoader, "get_code", lambda *_: pytest.fail("was asked"))
    assert loaded(package).WHERE == "one.py"


def test_a_source_that_changed_is_compiled_anew(package: Path) -> None:
    path = package / "one.py"
    path.write_text("WHERE = 'elsewhere'\n")
    assert loaded(package).WHERE == "elsewhere"


def _other_python(compiled: Path) -> None:
    compiled.write_bytes(b"\0\0\0\0" + compiled.read_bytes()[4:])


def _cut_off(compiled: Path) -> None:
    compiled.write_bytes(compiled.read_bytes()[:8])


def _checked_by_hash(compiled: Path) -> None:
    source = compiled.parent.parent / "one.py"
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def _compiled_elsewhere(compiled: Path) -> None:
    source = compiled.parent.parent / "one.py"
    py_compile.compile(str(source), dfile="/somewhere/one.py")


@pytest.mark.parametrize(
    "spoil", [_other_python, _cut_off, _checked_by_hash, _compiled_elsewhere, Path.unlink]
)
def test_any_other_compiled_file_is_left_to_pythons_own_loader(
    package: Path, spoil: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = package / "__pycache__" / f"one.{TAG}.pyc"
    assert callable(spoil)
    spoil(compiled)
    asked = []
    usual = loader.SourceFileLoader.get_code

    def get_code(self: loader.SourceFileLoader, name: str) -> object:
        asked.append(name)
        return usual(self, name)

    monkeypatch.setattr(loader.SourceFileLoader, "get_code", get_code)
    module = loaded(package)
    assert module.WHERE == "one.py"
    assert asked == ["hvtx.one"]
    assert module.told.__code__.co_filename == str(package / "one.py")


def test_a_source_that_is_no_python_is_refused_as_ever(package: Path) -> None:
    (package / "one.py").write_text("def\n")
    with pytest.raises(SyntaxError):
        loaded(package)


@pytest.mark.parametrize("name", ["click", "json.decoder", "hvtxx.one", "hvtx.none", "hvtx"])
def test_others_are_sought_as_ever(package: Path, name: str) -> None:
    assert loader.Finder(TAG).find_spec(name, [str(package)]) is None
    assert loader.Finder(TAG).find_spec(name, None) is None


_SCRIPT = """
import sys
from hvtx import loader
loader.install()
print(sum(type(finder).__name__ == "Finder" for finder in sys.meta_path))
from hvtx.cli import quick
print(type(quick.__spec__.loader).__name__)
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ["1", "_Loader"]),
        (("-O",), ["0", "SourceFileLoader"]),
        (("-X", "pycache_prefix=/nowhere"), ["0", "SourceFileLoader"]),
    ],
)
def test_it_is_used_where_compiled_files_are_where_they_usually_are(
    options: tuple[str, ...], told: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-B", *options, "-c", _SCRIPT],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == told
