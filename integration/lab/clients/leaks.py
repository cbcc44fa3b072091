"""How attachments are left behind: four ways, each made with a client as it is.

Each takes a host in which a network ``net`` is configured, and returns when the client has no more
to do with the container. What is left then is the plugin's.
"""

from __future__ import annotations

import json
from typing import Any

from integration.lab.clients import images
from integration.lab.clients.host import Host
from integration.lab.clients.libcni import CACHE, PLUGINS, Libcni
from integration.lab.clients.runtimes import CONFIGURATIONS, Containerd, Podman
from integration.lab.waiting import until

# A plugin that passes on what stands before it in the chain, and whose DEL does not succeed.
_STUBBORN = """#!/usr/bin/python3 -IS
import json, os, sys
asked = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
if command == "VERSION":
    versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    print(json.dumps({"cniVersion": asked["cniVersion"], "supportedVersions": versions}))
elif command == "ADD":
    print(json.dumps(asked["prevResult"]))
elif command == "DEL":
    print(json.dumps({"cniVersion": asked["cniVersion"], "code": 11, "msg": "not now"}))
    sys.exit(1)
"""


def configured(host: Host) -> dict[str, Any]:
    """The conflist of ``net``."""
    found = sorted(host.path(CONFIGURATIONS).glob("*.conflist"))
    lists = [json.loads(path.read_text()) for path in found]
    wanted: dict[str, Any] = next(one for one in lists if one["name"] == "net")
    return wanted


def never_asked(host: Host) -> None:
    """`ctr run -d --cni`: nobody sends a DEL for a task that was killed and removed."""
    containerd = Containerd(host)
    containerd.run("web")
    containerd.kill("web")
    containerd.stop()


def watcher_killed(host: Host) -> None:
    """podman: who would send the DEL, conmon, is killed before its container is.

    The namespace lives on as long as its file in /run/netns is mounted; `ip netns delete` ends it.
    """
    podman = Podman(host)
    podman.run("web", "--rm", "--network", "net", "-p", "8080:80")
    bereaved(host, podman, "web")
    for name in netns_files(host):
        host.run("ip", "netns", "delete", name)


def bereaved(host: Host, podman: Podman, name: str) -> None:
    """Kill conmon, then the container that it watched."""
    state = podman.inspect(name)["State"]
    for pid in (state["ConmonPid"], state["Pid"]):
        host.run("kill", "-KILL", str(pid))
        until("its end", lambda pid=pid: not host.path(f"/proc/{pid}").exists(), 30)


def netns_files(host: Host) -> list[str]:
    """Names of the namespaces that are kept by a file."""
    place = host.path("/run/netns")
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def chain_broken(host: Host) -> None:
    """A later plugin of the chain fails at DEL: those before it are not asked.

    `ctr run --rm --cni` in the foreground sends one DEL, and nobody another.
    """
    chained = configured(host)
    chained["plugins"].append({"type": "stubborn"})
    host.write(f"{PLUGINS}/stubborn", _STUBBORN, mode=0o755)
    for old in host.path(CONFIGURATIONS).iterdir():
        old.unlink()
    host.write(f"{CONFIGURATIONS}/10-net.conflist", json.dumps(chained))
    containerd = Containerd(host)
    argv = ("ctr", "run", "--rm", "--cni", "--snapshotter", "native", images.NAME, "web")
    done = host.ran(*argv, "/bin/busybox", "true")
    assert "not now" in done.stderr, done
    containerd.stop()


def cache_lost(host: Host) -> None:
    """The cache of libcni is gone: a GC finds nothing that it could send a DEL for."""
    containerd = Containerd(host)
    containerd.run("web")
    for cached in host.path(CACHE).iterdir():
        cached.unlink()
    containerd.kill("web")
    containerd.stop()


LEAKS = (never_asked, watcher_killed, chain_broken, cache_lost)


def collected(host: Host) -> None:
    """What a GC of libcni does with an empty list: that of a runtime which has no container."""
    failed = Libcni(host).collect(configured(host), [])
    assert failed == []
