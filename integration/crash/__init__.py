"""Killed, failing, starved: what a command leaves, and what recover makes of it."""
