"""Random sequences of commands, crashes and strangers' acts, on a fake kernel and on the real one."""
