"""A callback plugin of Ansible: each result as a line of JSON, in the file that HVTX_RESULTS names."""

from __future__ import annotations

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: aggregate
short_description: results as lines of JSON
description: Each result as a line of JSON.
"""


class CallbackModule(CallbackBase):
    """Told of each result by Ansible."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"

    def _write(self, result, outcome):
        host = getattr(result, "_host", None) or result.host
        found = getattr(result, "_result", None) or result.result
        line = {"host": host.get_name(), "outcome": outcome, "result": dict(found)}
        with open(os.environ["HVTX_RESULTS"], "a") as file:
            file.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result):
        """It has worked."""
        self._write(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """It has not."""
        self._write(result, "failed")

    def v2_runner_on_unreachable(self, result):
        """The host could not be had."""
        self._write(result, "unreachable")
