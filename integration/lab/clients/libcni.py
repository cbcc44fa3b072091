"""libcni 1.3 as runtimes have it compiled in, for those of its requests that no client of Debian 12 makes.

The order of the calls, their environment and their configuration are those of
containernetworking/cni, libcni/api.go (3f51e88): the list's plugins one after another, a DEL
backwards and with the result of the cache; a GC that first sends a DEL for every attachment of the
cache that is not in the list, with the namespace that the cache has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from integration.lab.clients.host import CLEAN, Host

CACHE, PLUGINS = "/var/lib/cni/results", "/opt/cni/bin"
NEWEST = "1.1.0"


class Answer(NamedTuple):
    """How a plugin ended: its exit code, standard output as JSON if it is that, standard error."""

    code: int
    said: Any
    errors: str


class PluginFailed(AssertionError):
    """A plugin of the chain ended with an error."""

    def __init__(self, command: str, plugin: str, answer: Answer) -> None:
        super().__init__(f"{command} {plugin}: {answer}")
        self.answer = answer


class Runtime(NamedTuple):
    """RuntimeConf: which attachment, and what is asked for it."""

    container: str
    netns: str
    ifname: str = "eth0"
    args: str = ""
    capabilities: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Libcni:
    """A client in a host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def call(self, command: str, conf: dict[str, Any], runtime: Runtime | None = None) -> Answer:
        """Run one plugin once."""
        one = runtime or Runtime("", "", "")
        given = {
            **CLEAN, "CNI_COMMAND": command, "CNI_CONTAINERID": one.container,
            "CNI_NETNS": one.netns, "CNI_ARGS": one.args, "CNI_IFNAME": one.ifname,
            "CNI_PATH": PLUGINS,
        }  # fmt: skip
        words = [f"{name}={value}" for name, value in given.items()]
        plugin = f"{PLUGINS}/{conf['type']}"
        done = self.host.ran("env", "-i", *words, plugin, stdin=json.dumps(conf))
        try:
            said = json.loads(done.stdout) if done.stdout.strip() else None
        except ValueError:
            said = done.stdout
        return Answer(done.returncode, said, done.stderr)

    def add(self, conflist: dict[str, Any], runtime: Runtime) -> Any:
        """ADD of a list; the last result, which the cache gets too. PluginFailed."""
        result = None
        for plugin in conflist["plugins"]:
            result = self._must("ADD", _conf(conflist, plugin, runtime, result), runtime)
        self.host.write(self._cached(conflist["name"], runtime), json.dumps({
            "kind": "cniCacheV1", "containerId": runtime.container, "ifName": runtime.ifname,
            "networkName": conflist["name"], "netns": runtime.netns,
            "capabilityArgs": runtime.capabilities, "result": result,
        }))  # fmt: skip
        return result

    def delete(self, conflist: dict[str, Any], runtime: Runtime) -> None:
        """DEL of a list. PluginFailed, and then the plugins before it have not been asked."""
        cached = self.host.path(self._cached(conflist["name"], runtime))
        result = json.loads(cached.read_text()).get("result") if cached.exists() else None
        for plugin in reversed(conflist["plugins"]):
            self._must("DEL", _conf(conflist, plugin, runtime, result), runtime)
        cached.unlink(missing_ok=True)

    def check(self, conflist: dict[str, Any], runtime: Runtime) -> None:
        """CHECK of a list, with the result of the cache. PluginFailed."""
        cached = self.host.path(self._cached(conflist["name"], runtime))
        result = json.loads(cached.read_text())["result"]
        for plugin in conflist["plugins"]:
            self._must("CHECK", _conf(conflist, plugin, runtime, result), runtime)

    def collect(
        self, conflist: dict[str, Any], valid: Iterable[tuple[str, str]] | None
    ) -> list[PluginFailed]:
        """GC of a list, as GCNetworkList does it; ``valid``: container ids and names of interfaces.

        None is a nil argument, with which neither key is in the request.
        """
        if conflist.get("disableGC"):
            return []
        failed = []
        listed = set(valid or ())
        for one in self._attachments(conflist["name"]):
            if (one.container, one.ifname) not in listed:
                try:
                    self.delete(conflist, one)
                except PluginFailed as problem:
                    failed.append(problem)
        if _version(conflist) != NEWEST:
            return failed
        more: dict[str, Any] = {}
        if valid is not None:
            entries = [{"containerID": c, "ifname": i} for c, i in sorted(listed)]
            more = {"cni.dev/valid-attachments": entries, "cni.dev/attachments": entries}
        for plugin in conflist["plugins"]:
            try:
                self._must("GC", {**_conf(conflist, plugin), **more})
            except PluginFailed as problem:
                failed.append(problem)
        return failed

    def status(self, conflist: dict[str, Any]) -> None:
        """STATUS of a list. PluginFailed."""
        if _version(conflist) == NEWEST:
            for plugin in conflist["plugins"]:
                self._must("STATUS", _conf(conflist, plugin))

    def _must(self, command: str, conf: dict[str, Any], runtime: Runtime | None = None) -> Any:
        answer = self.call(command, conf, runtime)
        if answer.code != 0:
            raise PluginFailed(command, conf["type"], answer)
        return answer.said

    @staticmethod
    def _cached(network: str, runtime: Runtime) -> str:
        return f"{CACHE}/{network}-{runtime.container}-{runtime.ifname}"

    def _attachments(self, network: str) -> list[Runtime]:
        found = []
        for path in sorted(self.host.path(CACHE).glob("*")):
            cached = json.loads(path.read_text())
            if cached["networkName"] == network:
                args = ";".join("=".join(pair) for pair in cached.get("cniArgs") or ())
                found.append(
                    Runtime(cached["containerId"], cached.get("netns", ""), cached["ifName"], args,
                            cached.get("capabilityArgs") or {})
                )  # fmt: skip
        return found


def _version(conflist: dict[str, Any]) -> str:
    """The version that libcni speaks: the highest of those that the list names and it knows."""
    named = [conflist["cniVersion"], *conflist.get("cniVersions", ())]
    return max((v for v in named if _number(v) <= _number(NEWEST)), key=_number)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _conf(
    conflist: dict[str, Any],
    plugin: dict[str, Any],
    runtime: Runtime | None = None,
    result: Any = None,
) -> dict[str, Any]:
    """The configuration that one plugin gets (pure)."""
    conf = {**plugin, "name": conflist["name"], "cniVersion": _version(conflist)}
    if result is not None:
        conf["prevResult"] = result
    if runtime is not None:
        wanted = {n for n, supported in plugin.get("capabilities", {}).items() if supported}
        asked = {n: value for n, value in runtime.capabilities.items() if n in wanted}
        if asked:
            conf["runtimeConfig"] = asked
    return conf
