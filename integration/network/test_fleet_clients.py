"""docs/fleet.md: its lines for containerd and podman, typed on a host that has only their packages.

The long job `tox -e clients`. An image of the tests' own stands under the names of the page's, since
nothing is pulled here.
"""

from __future__ import annotations

import json
import shlex

import pytest

from integration import lab
from integration.lab.clients import attached, images, leaks
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


@pytest.mark.parametrize("way", ["podman rm", "ip netns"])
def test_what_podman_leaves_when_it_is_killed(installed: Host, way: str) -> None:
    """The file of its namespace holds it, until one of the page's two commands; then gc has it."""
    podman = Podman(installed, fleet_page.text("/etc/containers/containers.conf") + NESTED)
    (run,) = fleet_page.lines("podman", "podman run")
    podman("tag", images.NAME, run.split()[-1])
    asked = "podman run --ip 10.81.1.40 --mac-address 02:00:00:00:00:40"
    typed(installed, run.replace("podman run", asked))
    (vm,) = attached.vms(installed)
    (interface,) = vm["interfaces"]
    assert (interface["ipv4"], interface["mac"]) == ("10.81.1.40", "02:00:00:00:00:40")
    leaks.bereaved(installed, podman, "web")
    (gc,) = fleet_page.lines("podman", "hvtx gc")
    typed(installed, gc)
    assert len(attached.vms(installed)) == 1
    (file,) = leaks.netns_files(installed)
    (line,) = fleet_page.lines("podman", way)
    typed(installed, line.replace("NETNS", file))
    if way.startswith("ip"):
        assert len(attached.vms(installed)) == 1
        typed(installed, gc)
    assert attached.vms(installed) == []
    assert leaks.netns_files(installed) == []


def test_podman_prunes_other_networks(installed: Host) -> None:
    """Those in which no container of its own is, but not the one that the page makes its default."""
    Podman(installed, fleet_page.text("/etc/containers/containers.conf") + NESTED)
    (line,) = fleet_page.lines("containerd", "hvtx cni install")
    there, more = installed.path(INSTALLED), f"{CONFIGURATIONS}/20-more.conflist"
    again = f"{line.replace('lab', 'more').replace('10.81.1.', '10.81.2.')} --conf {more}"
    typed(installed, again)
    before, other = there.read_text(), installed.path(more).read_text()
    (prune,) = fleet_page.lines("podman", "podman network")
    typed(installed, f"{prune} --force")
    assert not installed.path(more).exists()
    assert there.read_text() == before
    typed(installed, again)
    assert installed.path(more).read_text() == other
