"""What the host is asked for: rules, elements, programs of filters. Pure.

Drivers put it into the kernel, by way of :mod:`hvtx.host`; nothing here asks the host anything.
"""
