#!/usr/bin/python
"""What dead VMs and interrupted operations of hvtx left on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gc
short_description: Collect what dead VMs and interrupted operations of hvtx left
version_added: 0.2.0
description:
  - Makes the plan of C(hvtx gc), and with O(apply=true) carries it out.
  - Only what is on record, carries its mark and belongs to a VM that is proven dead is removed; each item is verified
    again right before.
options:
  apply:
    description:
      - Carry the plan out. Without it, and in check mode, it is returned and shown as a diff.
      - Each item is looked at again right before. So what check mode tells may be skipped, as may all that O(unrecorded) names while
        a VM runs that is not on record.
    type: bool
    default: false
  unrecorded:
    description: With O(apply=true), remove as well what is marked by this installation but not on record.
    type: bool
    default: false
extends_documentation_fragment: [hvtx.host.host]
author: [hvtx maintainers (@hvtx)]
"""

EXAMPLES = r"""
- name: What would go?
  hvtx.host.gc:
  register: collected

- name: Let it go
  hvtx.host.gc:
    apply: true
"""

RETURN = r"""
items:
  description: What the plan does, and what became of it.
  returned: always
  type: list
  elements: dict
  contains:
    action: {description: "V(delete), V(commit) or V(forget).", type: str, returned: always}
    reason: {description: Why., type: str, returned: always}
    kind: {description: Kind of the resource., type: str, returned: always}
    key: {description: Its key., type: str, returned: always}
    vm: {description: Its VM., type: str, returned: always}
    message: {description: A sentence., type: str, returned: always}
    outcome: {description: "V(done), V(failed), V(skipped); none of a plan that was only made.", type: str, returned: always}
left:
  description: How many items are left as they are, by reason.
  returned: always
  type: dict
  sample: {"vm-alive": 7}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hvtx.host.plugins.module_utils import host as common

FIELDS = ("action", "reason", "kind", "key", "outcome")


def told(item):
    """What of an item is returned."""
    words = {
        name: None if (found := getattr(item, name)) is None else str(found) for name in FIELDS
    }
    return {**words, "vm": item.vm, "message": item.message}


def line(item):
    """An item in a diff."""
    return f"{item.action} {item.kind} {item.key} ({item.reason})\n"


def of_block(step):
    """What is done about a cluster's block, in a diff."""
    return f"{step.action} block {step.cidr or step.network or 'of the cluster'} ({step.reason})\n"


def foreseen(plan, unrecorded):
    """The items that would be carried out, in the plan's order, with what would be done of each."""
    found = []
    for item in plan.judged():
        if unrecorded and item.reason == "unrecorded":
            found.append(item._replace(action="delete"))
        elif item.action != "skip":
            found.append(item)
    return found


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **common.SETTINGS,
            "apply": {"type": "bool", "default": False},
            "unrecorded": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    nothing = {"changed": False, "items": [], "left": {}, "diff": {"before": "", "after": ""}}
    do = given["apply"] and not module.check_mode
    with common.opened(module, lambda: nothing) as host:
        report = host.gc.apply(unrecorded=given["unrecorded"]) if do else host.gc.plan()
        if report.refused is not None:
            raise report.refused
    steps = getattr(report, "blocks", ())  # of a cluster; an older hvtx on that host has none
    named = given["apply"] and given["unrecorded"]
    acting = report.plan.acting() if do else foreseen(report.plan, named)
    counts = report.plan.counts()
    items = [told(item) for item in acting]
    result = {
        "changed": bool(acting or steps) if given["apply"] and module.check_mode else False,
        "items": items,
        "left": {
            reason: n
            for (action, reason), n in counts.items()
            if action == "skip" and not (named and reason == "unrecorded")
        },
        "diff": {"before": "".join([*map(line, acting), *map(of_block, steps)]), "after": ""},
    }
    if do:
        blocks = [step.outcome for step in steps]
        result["changed"] = any(item["outcome"] == "done" for item in items) or "done" in blocks
        kept = [item for item in acting if str(item.outcome) != "done"]
        late = [step for step in steps if step.outcome != "done"]
        result["diff"]["after"] = "".join([*map(line, kept), *map(of_block, late)])
        failed = [item["message"] for item in items if item["outcome"] == "failed"]
        failed += [step.message for step in steps if step.outcome == "failed"]
        if failed:
            words = "; ".join(failed[:3])
            every = len(items) + len(blocks)
            told_ = f"{len(failed)} of {every} items failed, the others are done: {words}"
            common.stop(module, told_, "hvtx gc --plan", code="partial", exit_code=9, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
