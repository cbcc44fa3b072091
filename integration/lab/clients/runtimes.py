"""containerd and podman of Debian, set up for a host of the tests."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from integration.lab.clients import image, images
from integration.lab.clients.cri import Runtime
from integration.lab.clients.host import Host
from integration.lab.waiting import until

PLUGINS, CONFIGURATIONS = "/opt/cni/bin", "/etc/cni/net.d"
_CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.NAME}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{CONFIGURATIONS}"
"""
_NETWORK = f"""[network]
network_backend = "cni"
cni_plugin_dirs = ["{PLUGINS}"]
network_config_dir = "{CONFIGURATIONS}"
"""
# What podman needs where it is root of a host that is a container itself.
NESTED = """[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
apparmor_profile = ""
"""
PODMAN = _NETWORK + NESTED
_STORAGE = """[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'
# The reference plugins as podman and containerd are used with them; {name} of the network.
REFERENCE = """{{
  "cniVersion": "0.4.0",
  "name": "{name}",
  "plugins": [
    {{"type": "bridge", "bridge": "br-{name}", "isGateway": true, "ipMasq": true,
      "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "10.89.0.0/24"}}]],
               "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"""


def reference_plugins(host: Host) -> None:
    """Debian's plugins where runtimes look for plugins."""
    host.run("sh", "-ec", f"mkdir -p {PLUGINS}; ln -s {image.PLUGINS}/* {PLUGINS}/")


def conflist(host: Host, name: str, text: str) -> None:
    """The configuration of a network where all runtimes look for it."""
    host.write(f"{CONFIGURATIONS}/10-{name}.conflist", text)


def _saved_image(host: Host) -> str:
    """The image of containers as a file of the host's."""
    path = "/tmp/page.tar"
    if not host.path(path).exists():
        host.path(path).write_bytes(images.archive(host.path("/bin/busybox").read_bytes()))
    return path


class Containerd:
    """A daemon in a host; `ctr` and CRI speak to it."""

    def __init__(self, host: Host, template: str = "") -> None:
        """Start it, and import the image into both of its namespaces.

        ``template`` is a file that it makes a network configuration of, once it has the subnet.
        """
        self.host = host
        more = f'    conf_template = "{template}"\n' if template else ""
        host.write("/etc/containerd/config.toml", _CONTAINERD + more)
        self.process = host.start("/tmp/containerd.log", "containerd", "--log-level", "warn")
        until("containerd's socket", lambda: host.ran("ctr", "version").returncode == 0, 30)
        for namespace in ("default", "k8s.io"):
            self.ctr("-n", namespace, "images", "import", "--snapshotter", "native",
                     _saved_image(host))  # fmt: skip

    def ctr(self, *argv: str) -> str:
        """Run `ctr`; its standard output."""
        return self.host.run("ctr", *argv)

    def run(self, name: str) -> None:
        """`ctr run --cni` of the image in the background."""
        self.ctr("run", "-d", "--cni", "--snapshotter", "native", images.NAME, name)

    def kill(self, name: str) -> None:
        """End a task and remove its container, as people do it by `ctr`."""
        with contextlib.suppress(AssertionError):  # it may have ended by itself
            self.ctr("task", "kill", "-s", "SIGKILL", name)
        until("the end of the task", lambda: self._stopped(name), 30)
        self.ctr("task", "rm", name)
        self.ctr("container", "rm", name)

    def _stopped(self, name: str) -> bool:
        lines = [line.split() for line in self.ctr("task", "ls").splitlines()]
        return not any(line[0] == name and line[2] == "RUNNING" for line in lines)

    def pid(self, name: str) -> int:
        """The process of a task, as the host numbers it."""
        lines = [line.split() for line in self.ctr("task", "ls").splitlines()]
        return next(int(line[1]) for line in lines if line[0] == name)

    @contextlib.contextmanager
    def cri(self) -> Any:
        """The CRI service."""
        runtime = Runtime(Path(f"/proc/{self.host.pid}/root/run/containerd/containerd.sock"))
        try:
            yield runtime
        finally:
            runtime.close()

    def log(self) -> str:
        """The end of what it said."""
        return self.host.path("/tmp/containerd.log").read_text()[-3000:]

    def stop(self) -> None:
        """End the daemon; containers go on."""
        self.process.terminate()
        self.process.wait(20)


class Podman:
    """podman with its CNI backend in a host."""

    def __init__(self, host: Host, configuration: str = PODMAN) -> None:
        """Set it up, and load the image."""
        self.host = host
        host.write("/etc/containers/containers.conf", configuration)
        host.write("/etc/containers/storage.conf", _STORAGE)
        host.write("/etc/containers/policy.json", _POLICY)
        self("load", "-q", "-i", _saved_image(host))

    def __call__(self, *argv: str, code: int = 0) -> str:
        """Run podman; its standard output."""
        return self.host.run("podman", *argv, code=code)

    def run(self, name: str, *options: str) -> str:
        """`podman run -d` of the image; the id of the container."""
        return self("run", "-d", "--name", name, *options, images.NAME).strip()

    def inspect(self, name: str) -> Any:
        """What podman knows of a container."""
        return json.loads(self("inspect", name))[0]
