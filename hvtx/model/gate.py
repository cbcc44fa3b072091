"""The gate: what a process runs before its identity is on record, as its command line shows it."""

SHELL = "/bin/sh"
SIGNATURE = "hvtx-gate"
SCRIPT = 'trap "" PIPE; IFS= read -r word <&3 && [ "$word" = go ] || exit 0; exec 3<&-; exec "$@"'
