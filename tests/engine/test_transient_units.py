"""What systemd is told to do outside of the sandbox of our units."""

from __future__ import annotations

from hvtx.engine.transient_units import collect_call, serve_call, start_call, start_unit


def test_systemd_starts_a_vm_apart_from_the_unit() -> None:
    call = start_call(("/usr/bin/hvtx",), ("--state-dir", "/s"), ["web"], {"HVTX_B": "2", "A": "1"})
    assert call[0] == "systemd-run"
    assert "--unit=hvtx-start-web" in call
    assert "--property=KillMode=process" in call
    assert call.index("--setenv=A=1") < call.index("--setenv=HVTX_B=2") < call.index("--")
    assert call[call.index("--") + 1 :] == (
        "/usr/bin/hvtx",
        "--state-dir",
        "/s",
        "vm",
        "start",
        "web",
    )


def test_several_are_started_in_one_service() -> None:
    """Named by the first and their number, which is no VM's name."""
    call = start_call(("/usr/bin/hvtx",), (), ["web", "db"], {})
    assert "--unit=hvtx-start-web.2" in call
    assert call[call.index("--") + 1 :] == ("/usr/bin/hvtx", "vm", "start", "web", "db")
    assert start_unit(["web"]) == "start-web"


def test_what_starts_networks_dnsmasq_is_outside_of_the_sandbox_too() -> None:
    call = serve_call(("/usr/bin/hvtx",), ("--state-dir", "/s"), {"A": "1"})
    assert call[call.index("--") :] == ("--", "/usr/bin/hvtx", "--state-dir", "/s", "repair")
    assert "--property=KillMode=process" in call
    assert "--unit=hvtx-serve" in call
    assert "--setenv=A=1" in call


def test_what_ends_networks_dnsmasq_is_outside_of_the_sandbox_too() -> None:
    call = collect_call(("/usr/bin/hvtx",), ("--state-dir", "/s"), {"A": "1"})
    assert call[call.index("--") :] == ("--", "/usr/bin/hvtx", "--state-dir", "/s", "gc", "--apply")
    assert "--unit=hvtx-collect" in call
    assert "--property=KillMode=process" in call
