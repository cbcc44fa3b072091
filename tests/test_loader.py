"""Modules of hvtx are the same whether Python's own finder finds them or hvtx's."""

from __future__ import annotations

import importlib.util
import inspect
import json
import marshal
import py_compile
import subprocess
import sys
import threading
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


@pytest.fixture
def importer(package: Path, monkeypatch: pytest.MonkeyPatch) -> loader.Importer:
    """For a package `hvtx` that is nobody else's: modules of that name are put aside."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "hvtx"]:
        monkeypatch.delitem(sys.modules, name)
    root = ModuleType("hvtx")
    root.__path__ = [str(package)]
    monkeypatch.setitem(sys.modules, "hvtx", root)
    importer = loader.Importer(loader.Finder(TAG), __import__)
    monkeypatch.setattr("builtins.__import__", importer.imported)
    return importer


def write(package: Path, name: str, text: str) -> None:
    path = package / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    py_compile.compile(str(path))


@pytest.fixture
def unaided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left to importlib is a failure."""
    monkeypatch.setattr("importlib._bootstrap._find_and_load", lambda *_: pytest.fail("left"))


def test_an_import_gives_what_importlib_gives(
    package: Path, importer: loader.Importer, unaided: None
) -> None:
    root = importer.imported("hvtx.two.three")
    assert root is sys.modules["hvtx"]
    module = root.two.three
    assert module is sys.modules["hvtx.two.three"]
    assert module is importer.imported("hvtx.two.three", fromlist=("told",))
    spec = module.__spec__
    assert (module.__name__, module.__package__) == ("hvtx.two.three", "hvtx.two")
    assert module.__file__ == spec.origin == str(package / "two/three.py")
    assert module.__cached__ == spec.cached
    assert module.__loader__ is spec.loader
    assert spec._initializing is False
    assert root.two.__path__ == [str(package / "two")]
    assert not hasattr(module, "__path__")
    assert inspect.getsource(module.told).startswith("def told():")


def test_names_and_modules_are_imported_from_a_package(
    package: Path, importer: loader.Importer, unaided: None
) -> None:
    space: dict[str, object] = {}
    exec("from hvtx.two import WHERE, three\nimport hvtx.one as one\nfrom hvtx import two", space)
    assert space["WHERE"] == "two/__init__.py"
    assert space["three"] is sys.modules["hvtx.two.three"]
    assert space["one"] is sys.modules["hvtx.one"]
    assert space["two"] is sys.modules["hvtx.two"]


def test_a_circle_is_closed_as_ever(
    package: Path, importer: loader.Importer, unaided: None
) -> None:
    write(package, "left.py", "import hvtx.right\nfrom hvtx import right\nDONE = right.SEEN\n")
    write(package, "right.py", "from hvtx import left\nSEEN = hasattr(left, 'DONE')\n")
    importer.imported("hvtx.left")
    assert sys.modules["hvtx.left"].DONE is False


def test_what_fails_is_told_and_can_be_tried_again(
    package: Path, importer: loader.Importer
) -> None:
    write(
        package,
        "bad.py",
        "import sys\nsys.tried += 1\nif sys.tried < 2:\n    raise OSError('no')\n",
    )
    sys.tried = 0  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="no"):
        importer.imported("hvtx.bad")
    assert "hvtx.bad" not in sys.modules
    importer.imported("hvtx.bad")
    assert sys.tried == 2  # type: ignore[attr-defined]
    del sys.tried  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("import hvtx.none", "No module named 'hvtx.none'"),
        ("import hvtx.one.none", "No module named 'hvtx.one.none'"),
        ("from hvtx.one import none", "cannot import name 'none' from 'hvtx.one'"),
        ("from hvtx.two import none", "cannot import name 'none' from 'hvtx.two'"),
    ],
)
def test_what_is_not_there_is_refused_in_pythons_words(
    package: Path, importer: loader.Importer, statement: str, words: str
) -> None:
    with pytest.raises(ImportError, match=words):
        exec(statement, {})


def test_a_source_that_changed_is_left_to_python(package: Path, importer: loader.Importer) -> None:
    (package / "one.py").write_text("WHERE = 'elsewhere'\n")
    sys.meta_path.insert(0, loader.Finder(TAG))
    try:
        importer.imported("hvtx.one")
    finally:
        del sys.meta_path[0]
    assert sys.modules["hvtx.one"].WHERE == "elsewhere"


def test_modules_of_others_are_left_to_python(importer: loader.Importer) -> None:
    assert importer.imported("json.decoder") is json
    assert importer.imported("json", fromlist=("decoder",)) is json


def test_a_thread_waits_until_a_module_is_whole(package: Path, importer: loader.Importer) -> None:
    write(
        package,
        "slow.py",
        "import sys\nsys.begun.set()\nsys.go.wait(30)\nfrom hvtx import one\nEND = 1\n",
    )
    sys.begun, sys.go = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    seen: list[object] = []

    def use() -> None:
        seen.append(getattr(importer.imported("hvtx.slow", fromlist=("END",)), "END", None))

    threads = [threading.Thread(target=use) for _ in range(2)]
    threads[0].start()
    assert sys.begun.wait(30)  # type: ignore[attr-defined]
    threads[1].start()
    threads[1].join(0.2)
    waits = threads[1].is_alive()
    sys.go.set()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(30)
    del sys.begun, sys.go  # type: ignore[attr-defined]
    assert waits
    assert seen == [1, 1]


def test_a_source_without_its_compiled_file_is_loaded_under_the_same_lock(
    package: Path, importer: loader.Importer
) -> None:
    """Two locks in two orders: each thread would wait for the other for ever."""
    text = "import sys\nsys.begun.set()\nsys.go.wait(30)\nimport hvtx.one\nEND = 1\n"
    write(package, "raw.py", text)
    (package / f"__pycache__/raw.{TAG}.pyc").unlink()
    write(package, "ready.py", "from hvtx.raw import END\n")
    sys.begun, sys.go = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    threads = [
        threading.Thread(target=importer.imported, args=(name,), daemon=True)
        for name in ("hvtx.raw", "hvtx.ready")
    ]
    threads[0].start()
    assert sys.begun.wait(30)  # type: ignore[attr-defined]
    threads[1].start()
    threads[1].join(0.2)
    sys.go.set()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(5)
    del sys.begun, sys.go  # type: ignore[attr-defined]
    assert not [thread for thread in threads if thread.is_alive()]
    assert sys.modules["hvtx.ready"].END == 1


def test_a_compiled_file_that_is_no_code_is_refused_as_ever(
    package: Path, importer: loader.Importer
) -> None:
    compiled = package / f"__pycache__/one.{TAG}.pyc"
    compiled.write_bytes(compiled.read_bytes()[:16] + marshal.dumps("no code"))
    with pytest.raises(ImportError, match="Non-code object"):
        importer.imported("hvtx.one")
    assert "hvtx.one" not in sys.modules


_PROGRAM = """
import sys
import hvtx
hvtx.__path__.append(sys.argv[1])  # where the migrations are, in a checkout
from hvtx import loader
loader.install()
from hvtx import commands, documents
from hvtx.cli import main, quick
import hvtx.store.database, hvtx.engine.runtime
print(type(quick.__spec__.loader).__name__, commands.cni_add.__name__)
print(sorted({"enum", "re", "json", "socket", "signal", "sqlite3", "importlib"} & set(sys.modules)))
"""


def test_a_program_loads_its_modules_so() -> None:
    """And of Python's those that cost much only where they are used."""
    script = f"import sys; sys.path += {sys.path!r}\n{_PROGRAM}"
    top = str(Path(loader.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, top],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["_Loader hvtx.commands.cni_add", "[]"]


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
