"""What is asked of the rows that are alive costs nothing more for each that has been released."""

STATEMENTS = ("CREATE INDEX resource_live ON resource (id) WHERE state <> 'released'",)
