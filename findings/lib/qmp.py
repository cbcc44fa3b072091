"""qmp.py COMMAND...: sends them to the VM whose QMP socket is ./qmp, prints the last one's answer.

A command is QMP's JSON, or a line for the human monitor behind a '='.
"""

import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as wire:
    wire.settimeout(10)
    wire.connect("qmp")
    lines = wire.makefile("rw")
    lines.readline()
    for asked in ['{"execute": "qmp_capabilities"}', *sys.argv[1:]]:
        line = {"command-line": asked.removeprefix("=")}
        monitor = json.dumps({"execute": "human-monitor-command", "arguments": line})
        print(monitor if asked.startswith("=") else asked, file=lines, flush=True)
        while "event" in (answer := json.loads(lines.readline())):
            pass
    said = answer.get("return", answer)
    print(" / ".join(said.splitlines()) if isinstance(said, str) else said)
