"""A container with a real systemd, in a Docker of its own that lives in a network of its own.

The daemon gets a network and a mount namespace, a socket in a temporary directory, no bridge and no
firewall, so that nothing of it shows in the host. testcontainers does the rest.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from integration.lab.boot import image
from integration.lab.waiting import until

CAPABILITIES = ["NET_ADMIN", "SYS_ADMIN", "NET_RAW", "SYS_PTRACE"]
DAEMON_SECONDS, BOOT_SECONDS = 60, 90
_SAID = "/dev/shm/said"  # in the container: what a program has printed
_LOOKS = 5
# Docker makes /proc/sys read-only. The network's part of it belongs to the container's namespace;
# the rest is the machine's, and stays as it is.
SYSCTLS = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --bind /proc/sys/net /proc/sys/net
ExecStart=mount -o remount,bind,rw /proc/sys/net
[Install]
WantedBy=sysinit.target
"""


@contextlib.contextmanager
def daemon() -> Iterator[tuple[Any, str]]:
    """A Docker daemon: its client and address. Its images stay in the cache."""
    import docker

    path = image.docker_path()
    data = image.CACHE / "docker-data"
    place = Path(tempfile.mkdtemp(prefix="hvtx-docker-"))
    group = f"/{place.name}"
    log = (place / "log").open("wb")
    argv = [
        "unshare", "--net", "--mount", "--propagation", "private",
        "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh", "dockerd",
        "--data-root", str(data), "--exec-root", str(place / "x"), "--pidfile", str(place / "pid"),
        "-H", f"unix://{place}/s", "--bridge=none", "--iptables=false", "--ip6tables=false",
        "--ip-forward=false", "--ip-masq=false", f"--cgroup-parent={group}",
    ]  # fmt: skip
    process = subprocess.Popen(argv, env={**os.environ, "PATH": path}, stdout=log, stderr=log)
    try:
        until("dockerd's socket", lambda: _is_up(process, place), DAEMON_SECONDS)
        client = docker.DockerClient(base_url=f"unix://{place}/s", timeout=120)
        try:
            yield client, f"unix://{place}/s"
        finally:
            client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        for directory in Path("/sys/fs/cgroup").glob(f"**{group}"):
            with contextlib.suppress(OSError):
                directory.rmdir()
        shutil.rmtree(place, ignore_errors=True)


def _is_up(process: subprocess.Popen[bytes], place: Path) -> bool:
    import docker

    if process.poll() is not None:
        raise AssertionError(f"dockerd ended: {(place / 'log').read_text()[-3000:]}")
    try:
        with contextlib.closing(docker.DockerClient(base_url=f"unix://{place}/s")) as client:
            return bool(client.ping())
    except Exception:
        return False


def imported(client: Any) -> str:
    """The image's name in this Docker; imported from the root file system if it is not there."""
    name = f"hvtx-boot:{image.recipe()}"
    if not client.images.list(name=name):
        for old in client.images.list(name="hvtx-boot"):
            client.images.remove(old.id, force=True)
        repository, _, tag = name.partition(":")
        client.api.import_image_from_file(str(image.root_tar()), repository=repository, tag=tag)
    return name


class Host:
    """A booted container as a host: commands, and its power button."""

    def __init__(self, container: Any) -> None:
        self.container = container

    def run(self, *argv: str, code: int | None = 0) -> str:
        """Run a program in it; standard output and error. ``code`` None: any exit code."""
        status, text = self._exec(argv, "2>&1")
        if code is not None and status != code:
            journal = self.container.exec_run(["journalctl", "-b", "--no-pager", "-n", "60"]).output
            raise AssertionError(
                f"{shlex.join(argv)}: exit {status}, not {code}\n{text}\n{journal.decode()}"
            )
        return text

    def json(self, *argv: str) -> Any:
        """What a program prints on standard output, as JSON."""
        import json

        status, out = self._exec(argv, f"2>{_SAID}.err")
        assert status == 0, (argv, status, out, self._exec(["cat", f"{_SAID}.err"], "2>&1"))
        return json.loads(out)

    def _exec(self, argv: Sequence[str], err: str) -> tuple[int, str]:
        """Exit code and output of a program; ``err``: where its standard error goes, for a shell.

        Docker loses the whole output of a short command now and then, with exit code 0. So it goes
        to a file, and one that seems empty is looked at once more.
        """
        script = f'"$@" >{_SAID} {err}; code=$?; cat {_SAID}; exit $code'
        status, output = self.container.exec_run(["sh", "-c", script, "sh", *argv])
        for _ in range(_LOOKS):
            if output:
                break
            size = self.container.exec_run(["stat", "-c", "%s", _SAID]).output.strip()
            if size == b"0":
                break
            output = self.container.exec_run(["cat", _SAID]).output
        return status, (output or b"").decode(errors="replace")

    def boot(self) -> None:
        """Start it and wait until systemd has nothing left to do."""
        self.container.start()
        until("the boot", self._is_booted, BOOT_SECONDS)

    def _is_booted(self) -> bool:
        self.container.reload()
        if self.container.status != "running":
            raise AssertionError(f"it is {self.container.status}: {self.container.logs()[-2000:]}")
        try:
            words = self.run("systemctl", "is-system-running", code=None).strip()
        except Exception:
            return False
        return words in ("running", "degraded")

    def cut(self) -> None:
        """Kill it, as a power cut would."""
        self.container.kill("SIGKILL")
        until("the end", lambda: self.container.reload() or self.container.status == "exited", 30)

    def install(self) -> None:
        """Install the tree under test as a wheel, and what makes the container a host."""
        script = f"cat >/etc/systemd/system/sysctls.service <<'END'\n{SYSCTLS}END\n"
        self.run("sh", "-c", script)
        self.run("systemctl", "enable", "--now", "sysctls.service")
        assert self.container.put_archive("/", image.source_tar())
        self.run("sh", "-c", image.INSTALL)


@contextlib.contextmanager
def booted() -> Iterator[Host]:
    """A container that has booted systemd and has hvtx installed; gone at the end."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # it would have to be pulled; we remove our own
    with daemon() as (client, url):
        name = imported(client)
        made = DockerContainer(name, docker_client_kw={"environment": {"DOCKER_HOST": url}})
        made.with_command("/lib/systemd/systemd")
        made.with_env("container", "docker")
        made.with_volume_mapping("/sys/fs/cgroup", "/sys/fs/cgroup", "rw")
        for place in ("/run", "/tmp"):
            made.with_tmpfs_mount(place, "exec")
        made.with_kwargs(
            cap_add=CAPABILITIES,
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            devices=["/dev/net/tun"],
            network_mode="none",
            stop_signal="SIGRTMIN+3",
        )
        made.start()
        try:
            host = Host(made.get_wrapped_container())
            until("the boot", host._is_booted, BOOT_SECONDS)
            host.install()
            yield host
        finally:
            made.stop(force=True)
