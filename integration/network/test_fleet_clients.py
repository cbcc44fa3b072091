"""docs/fleet.md: its lines for containerd and podman, typed on a host that has only their packages.

The long job `tox -e clients`. An image of the tests' own stands under the names of the page's, since
nothing is pulled here.
"""

from __future__ import annotations

import json
import shlex

import pytest

from integration import lab
from integration.lab.clients import attached, images
from integration.lab.clients.attached import page
from integration.lab.clients.fixtures import here, layers, only_in_the_long_job
from integration.lab.clients.host import Host
from integration.lab.clients.runtimes import CONFIGURATIONS, NESTED, Containerd, Podman
from tests import fleet_page

__all__ = ["here", "layers"]
pytestmark = only_in_the_long_job

INSTALLED = f"{CONFIGURATIONS}/10-hvtx.conflist"


def typed(host: Host, line: str) -> str:
    """Run a line of the page; its standard output."""
    return host.run(*shlex.split(line))


@pytest.fixture
def installed(here: Host) -> Host:
    """A host on which the page's line for the plugin was typed."""
    (line,) = fleet_page.lines("containerd", "hvtx cni install")
    typed(here, line)
    written = json.loads(here.path(INSTALLED).read_text())
    assert written == json.loads(fleet_page.text(INSTALLED))
    return here


def test_the_lines_for_containerd(installed: Host) -> None:
    """A container by `ctr run --cni` answers the host; killed and removed, gc collects the rest."""
    containerd = Containerd(installed)
    (pull,) = fleet_page.lines("containerd", "ctr image pull")
    (run,) = fleet_page.lines("containerd", "ctr run")
    image = pull.split()[-1]
    assert image in run
    containerd.ctr("image", "tag", images.NAME, image)
    installed.run("env", "CONTAINERD_SNAPSHOTTER=native", *shlex.split(run))
    (vm,) = attached.vms(installed)
    installed.run("busybox", "ping", "-c1", "-W5", vm["interfaces"][0]["ipv4"])
    containerd.kill("web")
    assert len(attached.vms(installed)) == 1
    (gc,) = dict.fromkeys(fleet_page.lines("containerd", "hvtx gc"))
    typed(installed, gc)
    assert attached.vms(installed) == []


def test_the_lines_for_podman(installed: Host, world: lab.Namespace) -> None:
    """`podman run -p 8080:80` on the configuration of the page is reached from outside."""
    configuration = fleet_page.text("/etc/containers/containers.conf")
    podman = Podman(installed, configuration + NESTED)
    (run,) = fleet_page.lines("podman", "podman run")
    podman("tag", images.NAME, run.split()[-1])
    typed(installed, run)
    assert page(lab.HOST4, 8080, *world.argv()) == images.PAGE
    podman("rm", "-f", "-t", "0", "web")
    assert attached.vms(installed) == []
