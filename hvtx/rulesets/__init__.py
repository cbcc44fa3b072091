"""Rulesets: rules, elements and filter programs, as data. Pure.

Drivers put it into the kernel, by way of :mod:`hvtx.host`; nothing here asks the host anything.
"""
