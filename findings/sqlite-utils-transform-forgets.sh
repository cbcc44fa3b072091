#!/bin/bash
# sqlite-utils' transform of one column takes the collation of others, generated columns and more of the table, without an error.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    pip sqlite-utils==4.2.1
    enter
fi
cat >change.py <<'P'
"""A program's tables, of which one column is to be NOT NULL from now on."""
import sqlite3
from importlib.metadata import version

import sqlite_utils

TABLES = """
CREATE TABLE network (name TEXT PRIMARY KEY);
CREATE TABLE vm (
    name TEXT COLLATE NOCASE,
    mac TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'none',
    mtu INTEGER,
    tap TEXT GENERATED ALWAYS AS ('tap-' || name) STORED,
    network TEXT REFERENCES network(name) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO network VALUES ('lan');
INSERT INTO vm (name, mac, mtu, network) VALUES ('Web', '02:00:00:00:00:05', 1500, 'lan');
"""

def try_it(what, does):
    try:
        print(f"{what}:", does())
    except sqlite3.Error as problem:
        print(f"{what}:", problem)

def later():
    db.conn.execute("BEGIN")
    try:
        db.conn.execute("INSERT INTO vm (name, mac, mtu, network) VALUES ('db', '02:00:00:00:00:06', 1500, 'dmz')")
        db.conn.execute("INSERT INTO network VALUES ('dmz')")
        return "both are there"
    finally:
        db.conn.execute("ROLLBACK")

def ask(when):
    one = lambda words: db.conn.execute(words).fetchone()
    try_it(f"{when} nocase", lambda: one("SELECT count(*) FROM vm WHERE name = 'web'")[0])
    try_it(f"{when} tap", lambda: one("SELECT tap FROM vm WHERE name = 'Web'")[0])
    try_it(f"{when} later", later)

print("version: sqlite-utils", version("sqlite-utils"))
db = sqlite_utils.Database(sqlite3.connect(":memory:", isolation_level=None))
db.conn.executescript(TABLES)
db.conn.execute("PRAGMA foreign_keys = ON")
ask("before")
before = db["vm"].schema
db["vm"].transform(not_null={"mtu"})
print("columns:", *(column.name for column in db["vm"].columns))
ask("after")
for word in ("NOCASE", "ON CONFLICT", "GENERATED", "DEFERRABLE"):
    print(f"{word}:", word in before, word in db["vm"].schema)
P
"$PYTHON" change.py >said
line() { sed -n "s/^$1: //p" said; }
version "$(line version)" "sqlite-utils 4.2.1"
question "A migration makes one column NOT NULL: db['vm'].transform(not_null={'mtu'}). Others of that table have COLLATE NOCASE,
          ON CONFLICT REPLACE, a reference that is DEFERRABLE, and one is generated. What of these is left, and do queries
          find the same?"
expected "All of it, as types, defaults, checks and foreign keys are; or an error says what cannot be kept."
seen "before: VMs WHERE name = 'web', of one named Web" "$(line "before nocase")" "1"
seen "before: the generated name of its TAP" "$(line "before tap")" "tap-Web"
seen "before: a VM, then its network, in one transaction" "$(line "before later")" "both are there"
seen "columns after it" "$(line columns)" "name mac mtu network"
seen "after: VMs WHERE name = 'web'" "$(line "after nocase")" "0"
seen "after: the generated name of its TAP" "$(line "after tap")" "no such column: tap"
seen "after: a VM, then its network" "$(line "after later")" "FOREIGN KEY constraint failed"
for word in NOCASE "ON CONFLICT" GENERATED DEFERRABLE; do
    seen "$word is in the schema, before and after" "$(line "$word")" "True False"
done
finish
