"""What the modules share: their settings, a `hvtx.Host` of them, and its errors as Ansible's.

This runs on the managed host, also on a Python that is too old for hvtx: then it says so.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

OLDEST = (3, 11)
PACKAGED = "/usr/lib/hvtx"  # where the Debian package has hvtx and all that it needs

SETTINGS = {
    "state_dir": {"type": "path"},
    "run_dir": {"type": "path"},
    "config": {"type": "path"},
    "firewall": {"type": "str", "choices": ["auto", "nftables", "iptables"]},
    "lock_timeout": {"type": "float"},
}
MANY = {"type": "list", "elements": "str"}
POLICY = {  # what both a network and a VM may be told of what guests reach
    "egress": {"type": "str", "choices": ["open", "internet", "none"]},
    "allow": MANY,
    "deny": MANY,
}
OWN = {  # of a thing with a name, and not of what is described
    "name": {"type": "str", "required": True},
    "allow_replace": {"type": "bool", "default": False},
}
CALLED = {  # what an option of `hvtx vm create` is called here, where it is called otherwise
    **{name: f"{name}s" for name in ("subnet", "source", "network", "ip", "mac", "disk")},
    "ssh-key": "ssh_keys",
    "user-data": "user_data",
    "block-size": "block_size",
}
MEND = {  # what an option of `hvtx vm apply` is here, by the reason of the refusal
    "needs-restart": "allow_restart: true",
    "needs-replace": "allow_replace: true",
}


def load(module, without):
    """The package. Fails, naming the interpreter and how to set another.

    In check mode an earlier task may be to install it: with a warning the task ends as ``without`` says.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    where = (
        "set ansible_python_interpreter to the Python that has it (/usr/bin/python3 with the Debian package, "
        "/opt/hvtx/bin/python with the role's virtual environment), or install it by the role hvtx.host.install"
    )
    if sys.version_info < OLDEST:
        told = f"hvtx needs Python 3.11; the modules run in {sys.executable}, which is {version}"
        module.fail_json(msg=f"{told}; hint: {where}", hint=where, code="interpreter")
    try:
        try:
            import hvtx
        except ModuleNotFoundError as problem:
            if problem.name != "hvtx" or not os.path.isdir(os.path.join(PACKAGED, "hvtx")):
                raise
            sys.path.insert(0, PACKAGED)
            import hvtx
        hvtx.Host, hvtx.HvtxError  # noqa: B018 - they are loaded now, with what they need
    except ImportError as problem:
        told = f"hvtx cannot be imported by {sys.executable} ({version}): {problem}"
        if module.check_mode and getattr(problem, "name", None) == "hvtx":
            module.warn(f"{told}, which an earlier task may install; else {where}")
            module.exit_json(**without())
        module.fail_json(msg=f"{told}; hint: {where}", hint=where, code="interpreter")
    return hvtx


@contextmanager
def opened(module, without):
    """A host with the task's settings; what goes wrong in it fails the task.

    ``without`` gives what check mode returns of a host on which nothing of hvtx is yet.
    """
    hvtx = load(module, without)
    given = {name: module.params[name] for name in SETTINGS if module.params[name] is not None}
    try:
        with hvtx.Host(notices=lambda level, words: _hear(module, level, words), **given) as host:
            yield host
    except hvtx.HvtxError as problem:
        fail(module, problem)


def _hear(module, level, words):
    if level == "warning":
        module.warn(words)
    else:
        module.debug(words)


def fail(module, problem, **more):
    """End the task with an error of the library: its hint, its code, the command's exit code."""
    hint = problem.hint or getattr(problem, "default_hint", None)
    stop(module, str(problem), hint, code=problem.code, exit_code=problem.exit_code, **more)


def stop(module, told, hint, **more):
    """End the task with words and what to do; people see the message alone."""
    module.fail_json(msg=f"{told}; hint: {hint}" if hint else told, hint=hint, **more)


def refuse(module, report):
    """End the task if its plan has a step that would take more than was allowed."""
    for step in report.refusals:
        own = MEND.get(str(step.reason))
        hint = f"{own} lets it be; or describe it as it is" if own else step.hint
        stop(module, step.message, f"{hint}; nothing was changed", code="conflict", exit_code=4)


def apply(module, host, request, **allowed):
    """Carry out a described set: what was done, as sentences. A step that failed fails the task."""
    report = host.sets.apply(request, **allowed)
    refuse(module, report)
    done = [item.step for item in report.items if item.outcome == "done"]
    words = [step.message for step in done]
    for item in report.items:
        if item.problem is not None:
            fail(module, item.problem, changed=bool(done), actions=words)
    return words


def asked(module, names):
    """The options of these names that were given, once those that YAML has spoilt are refused."""
    given = {name: module.params[name] for name in names if module.params[name] is not None}
    for name in ("publish", "macs"):
        for word in given.get(name, ()):
            if word.isdigit():
                hint = (
                    f'write it in quotes: {name}: ["8080:22"]'
                    if name == "publish"
                    else "write it in quotes"
                )
                told = f"{name} has the number {word}: YAML reads digits with colons as a number of base 60"
                stop(module, told, hint, code="usage", exit_code=2)
    return given


def differing(steps, before, after):
    """Put what the steps change into two dictionaries, for a diff."""
    for step in steps:
        for each in step.differences:
            option = CALLED.get(each.option, each.option)
            before[option], after[option] = each.old, each.new
