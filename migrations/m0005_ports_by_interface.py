"""The ports of one VM are found by its interfaces, without a look at those of all others."""

STATEMENTS = ("CREATE INDEX port_interface ON port (interface)",)
