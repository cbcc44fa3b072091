"""The list of settings is that of the program, and their keys are those of the plugin."""

import inspect

from hvtx import Host
from hvtx.engine.runtime import Settings
from hvtx.model.setting import EVERY, cni_key


def test_every_setting_is_in_the_list_once() -> None:
    of_host = set(inspect.signature(Host).parameters) - {"notices", "events"}
    assert sorted(EVERY) == sorted(of_host)
    of_program = {name.replace("directory", "dir") for name in Settings._fields}
    assert of_program == {*EVERY, "cluster"} - {"config"}


def test_keys_of_the_plugin() -> None:
    keys = {name: cni_key(name) for name in ("state_dir", "config", "history_lines", "tap_user")}
    assert keys == {
        "state_dir": "stateDir",
        "config": "config",
        "history_lines": "historyLines",
        "tap_user": "tapUser",
    }
