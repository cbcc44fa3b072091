"""Each configuration of docs/fleet.md is read by a parser of its language, and says what it must."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine.cni_files import configuration_text
from tests.fleet_page import FILES, PAGE, template, text

CONFLIST, TEMPLATE = "/etc/cni/net.d/10-hvtx.conflist", "/etc/cni/hvtx.template"
CRI = "io.containerd.grpc.v1.cri"


def plugin(conflist: dict[str, Any]) -> dict[str, Any]:
    """hvtx's own part of a network configuration."""
    [found] = conflist["plugins"]
    assert found["type"] == "hvtx"
    assert set(found["capabilities"].values()) == {True}
    return found


def test_every_block_with_a_language_is_a_file_or_a_command() -> None:
    fenced = [line for line in PAGE.splitlines() if line.startswith("```") and line != "```"]
    assert len(fenced) - fenced.count("```sh") == len(FILES)
    assert {language for language, _ in FILES.values()} == {
        "json",
        "toml",
        "yaml",
        "hcl",
        "bird",
        "frr",
    }


def test_the_network_configuration_is_what_the_command_beside_it_writes() -> None:
    written = configuration_text("lab", ("10.81.1.0/24",), {})
    assert json.loads(text(CONFLIST)) == json.loads(written)
    assert "`hvtx cni install --network lab --subnet 10.81.1.0/24`" in PAGE


@pytest.mark.parametrize("blocks", [["10.244.3.0/24"], ["10.244.3.0/24", "fd00:3::/64"]])
def test_containerd_makes_a_network_configuration_of_the_template(blocks: list[str]) -> None:
    made = json.loads(template(TEMPLATE, blocks))
    assert plugin(made)["subnets"] == blocks
    assert plugin(made)["nat"] is False


def test_each_program_finds_the_plugin_where_it_is_installed() -> None:
    cri = tomllib.loads(text("/etc/containerd/config.toml"))["plugins"][CRI]["cni"]
    podman = tomllib.loads(text("/etc/containers/containers.conf"))["network"]
    assert cri["bin_dir"] in podman["cni_plugin_dirs"] == ["/opt/cni/bin"]
    assert cri["conf_dir"] == podman["network_config_dir"] == CONFLIST.rpartition("/")[0]
    assert cri["conf_template"] == TEMPLATE
    name = json.loads(text(CONFLIST))["name"]
    assert podman["default_network"] == name
    assert f"--network {name} " in PAGE


def test_the_collection_has_the_version_of_the_package() -> None:
    top = Path(__file__).resolve().parents[1]
    wanted = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["setuptools_scm"]
    version = wanted["fallback_version"]
    galaxy = (top / "scripts/ansible/hvtx/host/galaxy.yml").read_text()
    assert re.findall(r"(?m)^version: (\S+)", galaxy) == [version]
    assert re.findall(r"hvtx-host-(\S+)\.tar\.gz", PAGE) == [version]


def test_nomad_names_the_network() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="pip install -e '.[fleet]'")
    options = hcl2.SerializationOptions(strip_string_quotes=True, explicit_blocks=False)
    [client] = hcl2.loads(text("/etc/nomad.d/client.hcl"), serialization_options=options)["client"]
    assert client["cni_path"] == "/opt/cni/bin"
    assert client["cni_config_dir"] == CONFLIST.rpartition("/")[0]
    [job] = hcl2.loads(text("web.nomad.hcl"), serialization_options=options)["job"]
    [group] = job["web"]["group"]
    [network] = group["web"]["network"]
    assert network["mode"] == f"cni/{json.loads(text(CONFLIST))['name']}"
    assert network["port"][0]["http"] == {"static": 8080, "to": 80}


def test_kubernetes_objects_name_each_other() -> None:
    yaml = pytest.importorskip("yaml", reason="pip install -e '.[fleet]'")
    runtime, pod = yaml.safe_load_all(text("kata.yaml"))
    assert pod["spec"]["runtimeClassName"] == runtime["metadata"]["name"]
    runtimes = tomllib.loads(text("/etc/containerd/config.toml"))["plugins"][CRI]["containerd"]
    assert runtime["handler"] in runtimes["runtimes"]
    spec = yaml.safe_load(text("kubevirt.yaml"))["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["networks"]] == [
        each["name"] for each in spec["domain"]["devices"]["interfaces"]
    ]
    assert [each["name"] for each in spec["volumes"]] == [
        each["name"] for each in spec["domain"]["devices"]["disks"]
    ]
