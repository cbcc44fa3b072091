"""Drivers and readers of the kernel, against the real one."""
