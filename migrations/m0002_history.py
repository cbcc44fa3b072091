"""What was removed can be read again, and some of it had again: each line keeps what it speaks of.

``detail`` is a JSON object: of a resource its mark, its specification and what was observed of it;
of a VM that is forgotten its whole record.
"""

STATEMENTS = ("ALTER TABLE history ADD COLUMN detail TEXT",)
