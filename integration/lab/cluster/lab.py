"""Three members and two hosts on a switch; who is cut off from whom, and how."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from integration import lab
from integration.lab.program import Forked, Ran, preload

MEMBERS, HOSTS = ("e1", "e2", "e3"), ("h1", "h2")
NAMES = MEMBERS + HOSTS
ADDRESS = {name: f"192.0.2.{number}" for number, name in enumerate(NAMES, start=1)}
SUBNET = "10.64.0.0/10"


class _Elsewhere(Forked):
    """The program in the network namespace of a process."""

    def __init__(self, keeper: int, **environment: str) -> None:
        super().__init__(**environment)
        self._keeper = keeper

    def enter(self, out: int, err: int) -> tuple[int, int]:
        """Go where the process is."""
        there = os.open(f"/proc/{self._keeper}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        lab.setns(there)
        os.close(there)
        return out, err


class Lab:
    """Made by :func:`cluster_lab`, in a network namespace that is the switch."""

    def __init__(self, base: Path, program: Path, timeout: float, *, fsync: bool = False) -> None:
        self.base = base
        self.members: dict[str, subprocess.Popen[bytes]] = {}
        self.spaces = {name: lab.Namespace() for name in NAMES}
        self._program = program
        self._more = () if fsync else ("--unsafe-no-fsync",)
        lab.run("ip", "link", "add", "sw", "type", "bridge")
        lab.run("ip", "link", "set", "sw", "up")
        for name, space in self.spaces.items():
            lab.run(
                "ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(space.pid)
            )
            lab.run("ip", "link", "set", name, "master", "sw", "up")
            space.run("ip", "addr", "add", f"{ADDRESS[name]}/24", "dev", "eth0")
            space.run("ip", "link", "set", "eth0", "up")
        lab.run("nft", "add table bridge cut; add chain bridge cut f"
                " { type filter hook forward priority 0; policy accept; }")  # fmt: skip
        for name in MEMBERS:
            self.start(name)
        for name in HOSTS:
            self.configure(name, timeout)

    def start(self, name: str, token: str = "etcd-cluster") -> None:
        """Start a member; with another ``token`` it is another cluster's."""
        own = ADDRESS[name]
        every = ",".join(f"{one}=http://{ADDRESS[one]}:2380" for one in MEMBERS)
        argv = [
            str(self._program), "--name", name, "--data-dir", str(self.base / name),
            "--listen-client-urls", f"http://{own}:2379",
            "--advertise-client-urls", f"http://{own}:2379",
            "--listen-peer-urls", f"http://{own}:2380",
            "--initial-advertise-peer-urls", f"http://{own}:2380",
            "--initial-cluster", every, "--initial-cluster-state", "new",
            "--initial-cluster-token", token,
            *self._more,
        ]  # fmt: skip
        with (self.base / f"{name}.log").open("ab") as log:
            self.members[name] = subprocess.Popen(
                self.spaces[name].argv(*argv), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def configure(self, name: str, timeout: float) -> None:
        """A host's configuration."""
        endpoints = [f"http://{ADDRESS[one]}:2379" for one in MEMBERS]
        path = self.base / f"{name}.toml"
        path.write_text(
            f'dhcp = "off"\n[cluster]\nsource = "etcd"\nendpoints = {json.dumps(endpoints)}\n'
            f'address = "{ADDRESS[name]}"\ntimeout = {timeout}\n'
        )
        path.chmod(0o600)

    def environment(self, name: str, state: str | None = None) -> dict[str, str]:
        """What a host's commands are told."""
        return {
            "HVTX_STATE_DIR": str(self.base / f"{state or name}.state"),
            "HVTX_RUN_DIR": str(self.base / f"{name}.run"),
            "HVTX_CONFIG": str(self.base / f"{name}.toml"),
        }

    def hvtx(self, host: str, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run the program on a host."""
        preload()
        program = _Elsewhere(self.spaces[host].pid, **self.environment(host))
        ran = program(*arguments, code=None, **environment)
        if code is not None and ran.code != code:
            words = " ".join(arguments)
            raise AssertionError(
                f"{host}: hvtx {words}: exit {ran.code}, not {code}\n{ran.out}{ran.err}"
            )
        return ran

    def etcd(self, words: str, *arguments: str) -> str:
        """What a line of Python prints that asks ``etcd``, as whoever reaches it may."""
        endpoints = [f"http://{ADDRESS[one]}:2379" for one in MEMBERS]
        text = f"""
import sys
from hvtx.host import etcd as parts
class etcd:
    txn = staticmethod(parts.Etcd({endpoints!r}, timeout=5).txn)
    put, get, below, delete = map(staticmethod, (parts.put, parts.get, parts.below, parts.delete))
{words}
"""
        return self.spaces["h1"].run(sys.executable, "-c", text, *arguments)

    def status(self, host: str) -> dict[str, Any]:
        """`cluster status`, which ends with 0 where the cluster has told what it knows."""
        ran = self.hvtx(host, "cluster", "status", "--json", code=None)
        found = ran.json()
        assert (ran.code == 0) is (found["problem"] is None), (ran.code, found["problem"])
        return found

    # -- partitions --------------------------------------------------------------------------------

    def cut(self, *pairs: tuple[Sequence[str], Sequence[str]]) -> None:
        """Drop what goes from these ports of the switch to those."""
        for here, there in pairs:
            lab.run("nft", f"add rule bridge cut f iifname {{ {', '.join(here)} }}"
                    f" oifname {{ {', '.join(there)} }} drop")  # fmt: skip

    def isolate(self, name: str) -> None:
        """Cut one off from all, both ways."""
        rest = [other for other in NAMES if other != name]
        self.cut(([name], rest), (rest, [name]))

    def heal(self) -> None:
        """Let everything pass."""
        lab.run("nft", "flush chain bridge cut f")

    def await_quorum(self, host: str = "h1", seconds: float = 120) -> None:
        """Wait until a host's question is answered."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done = subprocess.run(
                self.spaces[host].argv(
                    sys.executable, "-c", _ASK, *[f"http://{ADDRESS[one]}:2379" for one in MEMBERS]
                ),
                check=False, timeout=60, capture_output=True,
            )  # fmt: skip
            if done.returncode == 0:
                return
            time.sleep(0.2)
        logs = {name: (self.base / f"{name}.log").read_text()[-1500:] for name in MEMBERS}
        words = "\n".join(f"--- {name}\n{text}" for name, text in logs.items())
        raise AssertionError(f"no etcd answers {host}: {done.stderr.decode()[-500:]}\n{words}")

    def close(self) -> None:
        """End the members and the namespaces."""
        for name, process in self.members.items():
            process.kill()
            process.wait()
            shutil.rmtree(self.base / name, ignore_errors=True)  # 64 MB each, whatever is in it
        for space in self.spaces.values():
            space.close()


_ASK = """
import sys
from hvtx.host import etcd
asked = etcd.Etcd(sys.argv[1:], timeout=2)
asked.txn([], [etcd.get("x")])
asked.close()
"""


@contextlib.contextmanager
def cluster_lab(base: Path, program: Path, *, timeout: float = 1.5) -> Iterator[Lab]:
    """Members and hosts; the caller's network namespace becomes the switch."""
    made = Lab(base, program, timeout)
    try:
        made.await_quorum()
        yield made
    finally:
        made.close()
