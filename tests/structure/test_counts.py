"""Each count sees what it is for, and nothing beside it: a law that cannot fail is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.structure import counts
from tests.structure.counts import Counts
from tests.structure.laws import Law, breaches, lowered, unshown
from tests.structure.source import Module

SEEN: list[tuple[Callable[[Module], Counts], str, str, int]] = [
    (counts.sql_calls, "engine/a.py", "sql.execute('x'); many.executemany('x', ())", 2),
    (counts.sql_calls, "drivers/a.py", "qemu.execute('system_powerdown')", 0),
    (counts.sql_calls, "store/a.py", "sql.execute('x')", 0),
    (counts.sql_words, "engine/a.py", "f'UPDATE vm SET {x} = NULL'; run('SELECT a FROM vm')", 2),
    (counts.sql_words, "engine/a.py", "rows('vm IS NULL AND network = ?', 1)", 1),
    (counts.sql_words, "engine/a.py", "'''SELECT a FROM vm'''\n'Select one of them from here.'", 0),
    (counts.kernel_files, "engine/a.py", "open(f'/proc/{pid}/comm'); Path('/sys', x)", 2),
    (counts.kernel_files, "engine/a.py", "'''/proc/1'''\n'cannot read /proc/1'; '/system'", 0),
    (counts.kernel_files, "host/a.py", "open('/proc/1/comm')", 0),
    (counts.place_splits, "planner/a.py", "e.place.split(' '); place.rpartition(' ')", 2),
    (counts.place_splits, "planner/a.py", "replaced.split(' '); e.text.split(e.place)", 0),
    (counts.families_by_colon, "host/a.py", "':' in a; ':' not in a", 2),
    (counts.families_by_colon, "host/a.py", "a == ':'; ': ' in a", 0),
    (counts.families_by_colon, "model/address.py", "':' in a", 0),
    (counts.lazy_imports, "cli/a.py", "def f():\n from hvtx.a import b\n def g(): import hvtx.c", 2),
    (counts.lazy_imports, "cli/a.py", "import hvtx.c\ndef f():\n import json", 0),
    (counts.command_arrows, "commands/vm_start.py", "def f(): from hvtx.commands.gc import x", 1),
    (counts.command_arrows, "commands/vm_start.py", "from hvtx.commands import gc, show", 2),
    (counts.command_arrows, "commands/vm_start.py", "from hvtx.engine import notice", 0),
    (counts.host_changes, "engine/a.py", "self._links.change(1); conntrack.delete(a)", 2),
    (counts.host_changes, "engine/a.py", "conntrack.delete(a, b); links.rename(a)", 2),
    (counts.host_changes, "engine/a.py", "links.all(); os.rename(a, b); file.flush()", 0),
    (counts.host_changes, "drivers/a.py", "links.change(1)", 0),
    (counts.driver_calls, "engine/a.py", "runtime.driver(x).create(r); firewall.release(r)", 2),
    (counts.driver_calls, "engine/a.py", "operation.release(r); lock.release()", 0),
    (counts.documents, "engine/a.py", "{'schema': 'hvtx/vm/1'}; S = 'hvtx/store-backup/1'", 2),
    (counts.documents, "engine/a.py", "'hvtx/view'; 'see hvtx/vm/1'", 0),
    (counts.documents, "documents/a.py", "{'schema': 'hvtx/vm/1'}; {'schema': 'hvtx/vm/1'}", 0),
    (counts.documents, "documents/a.py", "{'schema': 'hvtx/vm/1'}; {'schema': 'hvtx/vms/1'}", 1),
    (counts.impure_calls, "planner/a.py", "open(x); print(x)", 2),
    (counts.impure_calls, "engine/a.py", "open(x)", 0),
    (counts.spec_keys, "drivers/a.py", "row.spec['mac']; seen.observed.get('x')", 2),
    (counts.spec_keys, "model/a.py", "row.spec['mac']; seen.observed.get('x')", 0),
    (counts.spec_keys, "drivers/a.py", "def f(spec: dict[str, Any]): spec['mac']; spec.get('x')", 2),
    (counts.spec_keys, "drivers/a.py", "def f(spec: TapSpec): spec['mac']; spec.get('x')", 0),
    (counts.spec_keys, "drivers/a.py", "spec = tap_spec(row); spec['mac']", 0),
    (counts.spec_keys, "drivers/a.py", "specs['mac']; get(spec)", 0),
]  # fmt: skip


@pytest.mark.parametrize(("count", "path", "text", "found"), SEEN)
def test_a_count_sees(count: Callable[[Module], Counts], path: str, text: str, found: int) -> None:
    assert sum(count(Module(path, text)).values()) == found


def test_functions_that_take_runtime_are_added_up_by_room() -> None:
    text = "def f(runtime): ...\nclass A:\n def g(self, *, runtime=None): ...\ndef h(time): ..."
    assert counts.runtime_parameters(Module("engine/a.py", text)) == {"engine": 2}


@pytest.mark.parametrize("more", [0, 1])
def test_lengths_are_counted_from_the_definition_to_its_last_line(more: int) -> None:
    body = "    x = 1\n" * (counts.FUNCTION_LINES - 1 + more)
    module = Module("engine/a.py", f"class A:\n  @cached\n  def f(self):\n{body}")
    expected = {"engine/a.py:A.f": counts.FUNCTION_LINES + 1} if more else {}
    assert counts.function_lines(module) == expected
    inside = "    x = 1\n" * (counts.CLASS_LINES - 1 + more)
    expected = {"engine/a.py:B": counts.CLASS_LINES + 1} if more else {}
    assert counts.class_lines(Module("engine/a.py", f"class B:\n{inside}")) == expected
    lines = "x = 1\n" * (counts.MODULE_LINES + more)
    expected = {"engine/a.py": counts.MODULE_LINES + 1} if more else {}
    assert counts.module_lines(Module("engine/a.py", lines)) == expected


def test_the_test_of_a_module_stands_in_the_room_of_its_name() -> None:
    assert counts.test_of("commands/vm_start.py") == "tests/commands/test_vm_start.py"
    assert counts.test_of("host/replica/nat.py") == "tests/host/replica/test_nat.py"
    assert counts.test_of("errors.py") == "tests/test_errors.py"


LAW = Law("things", counts.sql_calls, "make none")


def test_more_than_is_listed_is_a_breach_and_less_is_one_too() -> None:
    assert list(breaches(LAW, {"a": 1, "b": 2}, {"a": 1, "b": 2})) == []
    assert list(breaches(LAW, {"a": 1}, {})) == ["a: 1, and 0 allowed (things): make none"]
    assert list(breaches(LAW, {"a": 3}, {"a": 2})) == ["a: 3, and 2 allowed (things): make none"]
    for found in ({}, {"a": 1}):
        (told,) = breaches(LAW, found, {"a": 2})
        assert told.endswith("2 listed (things): run scripts/measure --lower")


def test_lowering_takes_out_what_is_gone_and_raises_nothing() -> None:
    text = '# why\n[things]\n"a" = 3 # a reason\n"b" = 1\n"c" = 1\n\n[other]\n"a" = 9\n'
    expected = '# why\n[things]\n"a" = 2 # a reason\n"c" = 1\n\n[other]\n"a" = 9\n'
    assert lowered(text, {"things": {"a": 2, "c": 5, "d": 1}}) == expected


def test_a_module_needs_a_test_or_one_line_that_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "shows.py").touch()
    assert list(unshown(["a.py"], {"a.py": "shows.py"}, tmp_path)) == []
    for untested, shown in ((["a.py"], {}), ([], {"a.py": "shows.py"}), (["a.py"], {"a.py": "no"})):
        assert len(list(unshown(untested, shown, tmp_path))) == 1
