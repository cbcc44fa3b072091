"""Doors to the kernel: netlink, ioctls, /proc, locks, small programs."""
