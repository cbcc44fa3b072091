"""Whose the blocks on record are: a digest of the machine id of the host that they were given to.

NULL until the first block is had, and in a store of which an earlier program kept none: then the
cluster is asked which machine it is. A copy of the store on another machine is known by it.
"""

STATEMENTS = ("ALTER TABLE cluster ADD COLUMN machine TEXT",)
