"""Laws of the source itself: what decides nothing, what is never asked for, what is never compared."""

from __future__ import annotations

import ast
import builtins
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hvtx.host.links import Links
from hvtx.host.netlink import Channel, attributes
from hvtx.model.mark import make_mark, parse_mark
from hvtx.rulesets import nftables_base, nftables_layout
from tests.structure.source import program

ROOT = Path(__file__).resolve().parent.parent / "hvtx"
# Where the wall clock is read: for people, in the history and in what is asked of it.
CLOCKS = {
    "store/history.py",
    "commands/show_history.py",
    "loader.py: st_mtime",  # as importlib compares it: is what is compiled of this source
}
ORDERED = {
    "ifindex",
    "handle",
    "generation",
    "genid",
    "inode",
    "netns",
    "cookie",
    "master",
    "lower",
}


def names_in(node: ast.AST) -> set[str]:
    """The last names of what a node speaks of: `row.handle` is `handle`."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
    return found


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind in the program, with its file and line."""
    for module in program():
        for node in module.nodes(kind):
            yield module.path, node


def test_no_decision_reads_the_wall_clock() -> None:
    """An age is no evidence: time.time() and datetime are for what people read."""
    readers = set()
    for where, node in nodes(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        whose = node.value.id if isinstance(node.value, ast.Name) else ""
        if (whose, node.attr) in {("time", "time"), ("time", "time_ns"), ("datetime", "now"),
                                  ("datetime", "today"), ("date", "today")}:  # fmt: skip
            readers.add(where)
        if node.attr in ("st_mtime", "st_ctime", "st_atime", "getmtime", "getctime"):
            readers.add(f"{where}: {node.attr}")
    assert readers <= CLOCKS


def test_directories_are_made_and_named_files_opened_in_one_place() -> None:
    """A mode whatever the umask, no link and no pipe of others': `host/paths.py`, `host/output.py`.

    What a VM's run-time directory holds is made in a directory that only hvtx writes to.
    """
    makers, readers = set(), set()
    for where, node in nodes(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        if node.attr in ("makedirs", "mkdir"):
            makers.add(where)
        if node.attr in ("read_text", "read_bytes", "write_text", "write_bytes"):
            readers.add(where)
    assert makers <= {"host/paths.py", "drivers/file.py"}
    assert readers <= {"drivers/file.py", "drivers/sysctl.py", "drivers/bridge.py"}


def test_numbers_of_the_kernel_are_never_ordered() -> None:
    """Indexes, handles and generations wrap around: they are equal, or they are not."""
    wrong = []
    for where, node in nodes(ast.Compare):
        assert isinstance(node, ast.Compare)
        if any(isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in node.ops):
            sides = [node.left, *node.comparators]
            named = {
                s.attr if isinstance(s, ast.Attribute) else getattr(s, "id", "") for s in sides
            }
            if named & ORDERED:
                wrong.append(f"{where}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def test_no_namespace_is_made_that_could_leak() -> None:
    """None with a name; in one place a thread's own, which ends with it, and others' entered."""
    names = ("unshare", "setns")
    calls = [where for where, node in nodes(ast.Attribute) if node.attr in names]
    calls += [  # asked for by its name: hvtx/host/system_call.py
        where
        for where, node in nodes(ast.Call)
        if ast.unparse(node.func).endswith("found")
        and any(isinstance(word, ast.Constant) and word.value in names for word in node.args)
    ]
    assert sorted(calls) == [
        "host/network_namespace.py",
        "host/network_namespace.py",
    ]


def test_no_event_is_waited_for() -> None:
    """No multicast group is joined: an event that was missed can make nothing stale.

    But for nf_tables' traces, which name what a frame of ours met in a namespace of ours: one that
    is missed makes the answer unknown.
    """
    joins = re.compile(r"ADD_MEMBERSHIP|RTMGRP|RTNLGRP|\.bind\(\(0, [^0]")
    found = [module.path for module in program() if joins.search(module.text)]
    assert found == ["host/replica/trace.py"]


def test_what_is_ours_is_never_an_interval() -> None:
    """Elements of intervals may be merged with their neighbours; ours are exact, and stay.

    What is looked up by several fields is never merged, by the kernel or by nft (nft_set_pipapo).
    """
    for family in nftables_layout.FAMILIES:
        passing = [name for where, name in nftables_layout.PASSING if where == family]
        lines = nftables_base.declarations(family).splitlines()
        several = re.compile(r"\{ type \S+( \. \S+)+; flags interval; \}")
        kept = (line for line in lines if line.split()[1] not in passing)
        text = "\n".join(several.sub("", line) for line in kept)
        assert not re.search(r"interval|auto-merge|timeout|dynamic|size ", text)
    wanted = [where for where, node in nodes(ast.Constant)
              if isinstance(node.value, str) and "auto-merge" in node.value]  # fmt: skip
    assert wanted == []


@pytest.mark.parametrize("row", [1, 10, 2**63 - 1])
def test_a_mark_fits_wherever_it_is_written(row: int) -> None:
    """128 bytes for nft, 255 for iptables and aliases; nothing in it needs a quote."""
    mark = make_mark("abcdefghij", row, bytes(range(10)))
    assert len(mark) <= 64
    assert re.fullmatch(r"[a-z0-9:.]+", mark)
    assert str(parse_mark(mark)) == mark


def test_marks_that_begin_alike_are_not_alike() -> None:
    """Row 1 and row 10, and a mark with something behind it: the whole text counts."""
    one, ten = (make_mark("abcdefghij", row, bytes(10)) for row in (1, 10))
    assert parse_mark(one) != parse_mark(ten)
    for longer in (one + "0", one + " ", one + "\n", " " + one, one[:-1]):
        assert str(parse_mark(longer)) != one


class Recorder:
    """Takes the place of a netlink channel and keeps what would be sent."""

    def __init__(self) -> None:
        """Nothing was sent yet."""
        self.sent: list[tuple[int, int, bytes]] = []

    def refusals(self, wanted: list[tuple[int, int, bytes]]) -> dict[int, OSError]:
        """Keep it; nothing is refused."""
        self.sent += wanted
        return {}


def test_a_change_never_renames() -> None:
    """A message with an index and a name renames the device: there is never a name in it."""
    links = object.__new__(Links)
    recorder = Recorder()
    links._channel = recorder  # type: ignore[assignment]
    links.change(7, alias="a", master=3, mac="02:00:00:00:00:01", mtu=1500, up=True, quiet6=True,
                 hairpin=True)  # fmt: skip
    kinds, creating = set(), 0
    for _, flags, body in recorder.sent:
        creating |= flags & 0x400
        kinds |= {kind for kind, _, _ in attributes(body, 16, len(body))}
    assert {4, 10, 20} <= kinds  # MTU, master, alias
    assert 3 not in kinds  # IFLA_IFNAME
    assert not creating  # nor would it make a device


def test_an_answer_is_waited_for_however_long_it_takes() -> None:
    """A kernel that is busy for seconds is waited for: a time limit would make a wrong answer."""
    channel = Channel(socket.NETLINK_ROUTE)
    try:
        assert channel._socket.gettimeout() is None
        limit = channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
        assert limit == bytes(16)
    finally:
        channel.close()


def test_with_alone_closes_no_connection() -> None:
    """sqlite3's own `with` ends a transaction; Python 3.13 and later tell of what is left open."""
    texts = {
        source: source.read_text()
        for place in ("hvtx", "tests", "integration", "bench", "scripts")
        for source in (ROOT.parent / place).rglob("*.py")
    }
    assert [
        f"{source}:{node.lineno}"
        for source, text in texts.items()
        if "sqlite3.connect" in text
        for node in ast.walk(ast.parse(text))
        for item in (node.items if isinstance(node, ast.With) else ())
        if ast.unparse(item.context_expr).startswith("sqlite3.connect(")
    ] == []


# -- answers of netlink are told apart by errno ----------------------------------------------------

# Subclasses of OSError that stand for an errno. An error of the kernel's over netlink is never one
# of them (KernelError, and pyroute2's NetlinkError): Python makes them of plain OSErrors only.
_BY_ERRNO = {
    cls.__name__ for cls in vars(builtins).values()
    if isinstance(cls, type) and issubclass(cls, OSError) and cls is not OSError
}  # fmt: skip
_NETLINK = {"hvtx.host.netlink", "pyroute2"}
_PLACES = ("hvtx", "bench", "scripts", "integration", "tests")
# Methods of files, sockets, processes, paths, text and containers: none asks netlink anything.
_PLAIN_METHODS = frozenset(
    {
        *("accept", "append", "bind", "close", "communicate", "connect", "decode", "encode", "exists"),
        *("fileno", "flush", "get", "is_dir", "is_file", "iterdir", "items", "join", "kill", "lstat"),
        *("mkdir", "open", "partition", "poll", "read", "read_bytes", "read_text", "readline"),
        *("readlines", "readlink", "recv", "recvmsg", "removeprefix", "rename", "replace", "rpartition"),
        *("rsplit", "samefile", "send", "sendall", "sendmsg", "sendto", "setsockopt", "split"),
        *("splitlines", "startswith", "stat", "strip", "symlink_to", "terminate", "touch", "unlink"),
        *("update", "wait", "write", "write_bytes", "write_text", "setblocking", "rstrip", "upper"),
        *("add", "endswith", "enter_context", "pop", "readall", "recvfrom", "register", "search"),
        *("settimeout", "casefold"),
    }
)  # fmt: skip
# Calls that ask no netlink either, each looked at: files, QMP, ptrace, legacy tables, standard output.
_PLAIN_CALLS = {
    # a reader of standard output has gone, and nothing else is EPIPE; and a constant's own letters
    "hvtx/cli/main.py": {
        *("PROGRAM.upper", "command", "quick.command", "root.main", "command.get_command"),
        *("command.make_parser", "command.make_parser(context).parse_args", "name.lstrip"),
        *("group.list_commands", "vms.list_commands"),
        *("o.lstrip", "problem.format_message", "words[:1].lower"),
        *("Settings", "context.find_root", "text.isprintable", "word.lower"),  # of the settings
    },
    "hvtx/cli/described.py": {"read_set"},
    "hvtx/drivers/vm_process/stop.py": {"ask", "ending.tell"},
    "hvtx/commands/gc_installation.py": {"file.any_held"},
    "hvtx/engine/privileges.py": {"tun.open_device"},
    "hvtx/commands/published_view.py": {"ViewSource"},
    "hvtx/host/openfiles.py": {"syscall", "last_error"},
    "hvtx/host/qmp.py": {"self._talk.receive"},
    "hvtx/host/xtables.py": {"self._table.delete"},
    "integration/lab/stepper.py": {"_LIBC.ptrace"},
    "integration/commands/test_vm_log.py": {"room.said"},
    "tests/fake/host.py": {"self._kernel.open_gate"},
}


def _name_of(path: Path) -> str:
    return path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".")


class _Module:
    """A source file: what it imports, and the functions that it defines."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.tree = ast.parse(text)
        self.imported: dict[str, str] = {}  # local name -> module (or module.name)
        self.functions: dict[str, list[ast.AST]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported[(alias.asname or alias.name).split(".")[0]] = alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.functions.setdefault(node.name, []).append(node)


WRONG = """
from hvtx.host.links import Links
from hvtx.host.retry import persistently
def _look():
    return Links().all()
def f(self, ask):
    try:
        {}
    except (ValueError, FileNotFoundError):
        pass
"""


class _Calls:
    """Which code may ask netlink, as far as imports and names tell; in doubt, it may."""

    def __init__(self) -> None:
        paths = [p for place in _PLACES for p in (ROOT.parent / place).rglob("*.py")]
        self._paths = {_name_of(path): path for path in paths}
        self._asks: dict[str, bool] = {}
        self._read: dict[Path, _Module] = {}

    def _module(self, path: Path) -> _Module:
        """A file as a value; each is read and parsed once."""
        if path not in self._read:
            self._read[path] = _Module(path, path.read_text())
        return self._read[path]

    def naming_classes(self) -> Iterator[_Module]:
        """The modules that name one of the classes at all."""
        names = re.compile("|".join(_BY_ERRNO))
        for path in self._paths.values():
            if names.search(path.read_text()):
                yield self._module(path)

    def asks(self, name: str) -> bool:
        """Whether a module imports one that speaks netlink, by however many others."""
        if name in self._asks:
            return self._asks[name]
        self._asks[name] = False  # a circle adds nothing
        if any(name == one or name.startswith(one + ".") for one in _NETLINK):
            self._asks[name] = True
        else:
            path = self._paths.get(name) or self._paths.get(name.rpartition(".")[0])
            told = self._module(path).imported.values() if path else ()
            self._asks[name] = any(self.asks(other) for other in told)
        return self._asks[name]

    def suspects(self, module: _Module, body: Sequence[ast.AST], seen: set[str]) -> list[str]:
        """What a piece of code calls that may ask netlink."""
        found = []
        for node in (n for part in body for n in ast.walk(part) if isinstance(n, ast.Call)):
            words = ast.unparse(node.func)
            root = node.func
            while isinstance(root, (ast.Attribute, ast.Call, ast.Subscript)):
                root = root.func if isinstance(root, ast.Call) else root.value
            first = root.id if isinstance(root, ast.Name) else ""
            last = node.func.attr if isinstance(node.func, ast.Attribute) else first
            bare = isinstance(node.func, ast.Name)
            own = bare or first in ("self", "cls")
            if own and last in module.functions:
                if last not in seen:
                    seen.add(last)
                    found += self.suspects(module, module.functions[last], seen)
            elif first in module.imported:
                if self.asks(module.imported[first]):
                    found += self._elsewhere(module.imported[first], words, seen)
            elif not (bare and hasattr(builtins, last)) and last not in _PLAIN_METHODS:
                found.append(words)
        return found

    def _elsewhere(self, imported: str, words: str, seen: set[str]) -> list[str]:
        """What an imported function calls that may ask; anything else may by itself."""
        home, _, function = imported.rpartition(".")
        path = self._paths.get(home)
        there = self._module(path) if path and function == words else None
        if there is None or function not in there.functions:
            return [words]
        return self.suspects(there, there.functions[function], seen)

    def breaches(self, module: _Module) -> Iterator[str]:
        """Where a subclass is looked for in what may have come from netlink."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Try):
                classes = {n for h in node.handlers if h.type for n in names_in(h.type)} & _BY_ERRNO
                body: Sequence[ast.AST] = node.body
            elif isinstance(node, ast.With):
                calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
                quiet = [c for c in calls if "suppress" in names_in(c.func)]
                classes = {n for c in quiet for a in c.args for n in names_in(a)} & _BY_ERRNO
                body = node.body
            else:
                continue
            where = module.path.relative_to(ROOT.parent).as_posix()
            known = _PLAIN_CALLS.get(where, set())
            suspects = set(self.suspects(module, body, set())) - known if classes else ()
            if suspects:
                what = f"{', '.join(sorted(classes))} of {', '.join(sorted(suspects))}"
                yield f"{where}:{node.lineno} {what}"


@pytest.mark.slow
def test_an_answer_of_netlink_is_told_by_its_errno() -> None:
    """Never by a class that it is not: where netlink may be asked, none of these is caught."""
    calls = _Calls()
    assert calls.asks("hvtx.engine.snapshot")
    assert not calls.asks("hvtx.host.procfs")
    for wrong in ("self._links.all()", "_look()", "Links().get(1)", "persistently(ask)"):
        assert list(calls.breaches(_Module(ROOT / "x.py", WRONG.format(wrong)))) != [], wrong
    found = [words for module in calls.naming_classes() for words in calls.breaches(module)]
    assert found == []
