"""Who has a port, and the command that ends it: nothing in it is another user's word."""

from __future__ import annotations

import shlex

import pytest

from hvtx.host.portowner import Owner, ended_by, unit_in


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
        ("0::/system.slice/nginx.service/below/other.service\n", "nginx.service"),
        ("0::/nginx.service\n", "nginx.service"),
        ("12:pids:/system.slice/a.service\n1:name=systemd:/system.slice/b.service\n", "a.service"),
        ("3:cpu,cpuacct:/\n1:name=systemd:/system.slice/b.service\n", "b.service"),
        ("0::/system.slice/dev-disk\\x2dby.service\n", "dev-disk\\x2dby.service"),
        ("0::/\n", ""),
        ("", ""),
        ("nonsense", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n", ""),
        # a container's own manager, and what has been given to others
        ("0::/system.slice/docker-0a1b.scope/system.slice/nginx.service\n", ""),
        ("0::/machine.slice/libpod-0a1b.scope/container/system.slice/nginx.service\n", ""),
        ("0::/lxc.payload.web/system.slice/nginx.service\n", ""),
        ("0::/system.slice/theirs.scope/ssh.service\n", ""),
        ("0::/../system.slice/nginx.service\n", ""),
        # a colon in a name of a user's
        ("0::/user.slice/user-1000.slice/user@1000.service/x:/ssh.service\n", ""),
        ("0::/user.slice/x:/$(id).service\n", ""),
        ("1:name=systemd:/user.slice/x:/y:/ssh.service\n", ""),
        ("0::/system.slice/theirs.service/x:/ssh.service\n", "theirs.service"),
        ("0::/system.slice/a:b.service\n", "a:b.service"),
        # what is no name of a unit
        ("0::/system.slice/$(id).service\n", ""),
        ("0::/system.slice/a b.service\n", ""),
        ("0::/system.slice/-H.service\n", ""),
        ("0::/system.slice/é.service\n", ""),
        ("0::/system.slice/a\rb.service\n", ""),
        ("0::/system.slice/.service\n", ""),
    ],
)
def test_the_unit_is_the_systems_own(cgroups: str, unit: str) -> None:
    assert unit_in(cgroups) == unit


def owner(unit: str, *, own: bool = True) -> Owner:
    return Owner(7, "name", "user", unit, "::", own)


def test_what_ends_it_is_for_a_shell() -> None:
    assert ended_by([owner("nginx.service")]) == ["systemctl stop nginx.service"]
    assert ended_by([owner("nginx.service", own=False)]) == ["kill 7"]
    assert ended_by([owner("")]) == ["kill 7"]
    for unit in ("dev-disk\\x2dby.service", "$(id).service", "a;b.service", "it's.service"):
        (command,) = ended_by([owner(unit)])
        assert shlex.split(command) == ["systemctl", "stop", unit]
