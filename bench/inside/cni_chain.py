"""A chain of CNI plugins in a namespace of its own, called as a runtime calls it; whole processes.

``given``: ``directory``, ``plugins`` (where each plugin's executable is, by its type), ``conflist``
and ``environment``. Namespaces of the containers are made beforehand and not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from .namespaces import run
from .peers import Peer, _processor, port

CAPABILITIES = {
    "portMappings": lambda number: [
        {"hostPort": port(number), "containerPort": 80, "protocol": "tcp"}
    ],
    "bandwidth": lambda number: {
        "ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7,
    },
}  # fmt: skip


class Chain(Peer):
    """Attachments, which here are counted as VMs are."""

    def prepare(self) -> None:
        self.results: dict[int, Any] = {}
        conflist = self.given["conflist"]
        self.plugins: list[dict[str, Any]] = [
            {**plugin, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
            for plugin in conflist["plugins"]
        ]

    def before(self, number: int) -> None:
        run("ip", "netns", "add", f"n{number}")

    def after(self, number: int) -> None:
        run("ip", "netns", "del", f"n{number}")

    def start(self, number: int) -> None:
        result = None
        for plugin in self.plugins:
            result = self._call("ADD", plugin, number, result)
        self.results[number] = result

    def stop(self, number: int) -> None:
        for plugin in reversed(self.plugins):
            self._call("DEL", plugin, number, self.results[number])
        del self.results[number]

    def one_vm(self) -> dict[str, Any]:
        """VERSION of the first plugin, STATUS where it is answered, ADD and DEL of one more."""
        found: dict[str, Any] = {}
        for command in ("VERSION", "STATUS"):
            if command == "VERSION" or self.given.get("status"):
                self._timed(found, command)
        return {**found, **super().one_vm()}

    def _timed(self, found: dict[str, Any], command: str) -> None:
        begun, used = time.perf_counter(), _processor()
        self._call(command, self.plugins[0], None, None)
        found[command] = time.perf_counter() - begun
        found[f"{command}, processor"] = _processor() - used

    def _call(self, command: str, plugin: dict[str, Any], number: int | None, result: Any) -> Any:
        asked = dict(plugin)
        if result is not None:
            asked["prevResult"] = result
        if number is not None:
            wanted = plugin.get("capabilities", {})
            asked["runtimeConfig"] = {name: CAPABILITIES[name](number) for name in wanted}
        environment = {
            **os.environ, **self.given.get("environment", {}), "CNI_COMMAND": command,
            "CNI_CONTAINERID": "" if number is None else f"vm{number}",
            "CNI_NETNS": "" if number is None else f"/run/netns/n{number}",
            "CNI_IFNAME": "" if number is None else "eth0",
            "CNI_PATH": ":".join(sorted(set(self.given["plugins"].values()))),
        }  # fmt: skip
        program = f"{self.given['plugins'][plugin['type']]}/{plugin['type']}"
        done = subprocess.run(
            [program], input=json.dumps(asked), env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{command} {program}: {done.stdout} {done.stderr}")
        return json.loads(done.stdout) if command == "ADD" else None
