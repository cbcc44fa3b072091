"""Units, packages, reboots and power cuts, on a host that boots."""
