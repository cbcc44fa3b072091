"""Options that all modules of the collection have."""

from __future__ import annotations


class ModuleDocFragment:
    """What ansible-doc puts in the place of ``extends_documentation_fragment``."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description: Directory of the state store. Without it what the host's configuration says.
    type: path
  run_dir:
    description: Directory of locks and sockets. Without it what the host's configuration says.
    type: path
  config:
    description: The configuration; C(/etc/hvtx/config.toml) where there is one.
    type: path
  firewall:
    description: Backend of networks that are made; each keeps the one that it was made with.
    type: str
    choices: [auto, nftables, iptables]
  lock_timeout:
    description: How many seconds to wait for another operation on the same VM or network.
    type: float
requirements:
  - Python 3.11 or newer on the managed host, and hvtx importable by it
notes:
  - The module calls the library of hvtx in the Python of the managed host, as root. Where that Python has no hvtx, set
    C(ansible_python_interpreter) to the one that has it. The Debian package's is found by C(/usr/bin/python3).
  - A failure has RV(ignore:hint), RV(ignore:code) and RV(ignore:exit_code) beside its message, as the command line has them.
attributes:
  check_mode:
    description: Plans, and changes nothing. On a host without hvtx it says what would be made, with a warning.
    support: full
  diff_mode:
    description: Shows what differs.
    support: full
"""

    POLICY = r"""
options:
  egress:
    description: What guests may reach. Without one a VM has what its networks say, and a network what the host's configuration says.
    type: str
    choices: [open, internet, none]
  allow:
    description: What they may reach beside, C(DEST[:PORT[-PORT]][/PROTOCOL]); an address, a subnet or a name.
    type: list
    elements: str
  deny:
    description: What they may not reach, C(CIDR[:PORT[-PORT]][/PROTOCOL]).
    type: list
    elements: str
"""
