#!/usr/bin/python
"""A VM of hvtx: on record, up, down or absent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm
short_description: VMs of hvtx
version_added: 0.2.0
description:
  - Creates a VM, changes it to what is described, starts, stops, restarts or removes it.
  - What is described is the whole VM, as in a file of C(hvtx vm apply). Once one of the options from O(networks) to
    O(deny) is given, those that are not there have the default of C(hvtx vm create). With none of them a VM that is on
    record stays as it is, and only its O(state) is seen to; one that is not on record cannot be V(started), V(stopped) or
    V(restarted).
  - In check mode networks that are not there yet are taken for what an earlier task may make, with a warning; addresses
    that are asked for are not judged then.
  - What a running VM can be given at once (ports, egress, limits) it is given. The rest it hears of at its start.
options:
  name:
    description: Name of the VM.
    type: str
    required: true
  state:
    description:
      - V(present) is on record as described; it is neither started nor stopped.
      - V(started) runs. One that is on record and down, or crashed, is started.
      - V(stopped) is on record and down.
      - V(restarted) is stopped if it is up, and started.
      - V(absent) is forgotten, its addresses and ports are free; it is stopped first.
    type: str
    choices: [present, started, stopped, restarted, absent]
    default: started
  networks:
    description: Its networks, an interface each. The network C(default) is made where it is needed.
    type: list
    elements: str
    aliases: [network]
  ips:
    description: Its addresses; the nth of a family is for the nth network. Without one hvtx leases one.
    type: list
    elements: str
    aliases: [ip]
  macs:
    description: Its MAC addresses, in quotes (YAML reads some as numbers).
    type: list
    elements: str
    aliases: [mac]
  publish:
    description:
      - Host ports, C([NETWORK/][HOSTIP:]HOSTPORT[-LAST]:GUESTPORT[-LAST][/udp]).
      - Write them in quotes. YAML reads C(8080:22) as a number of base 60, which is refused.
    type: list
    elements: str
  memory:
    description: Memory in MiB.
    type: int
  cpus:
    description: Processors.
    type: int
  kernel:
    description: Kernel, a file.
    type: path
  initrd:
    description: Initial RAM disk, a file.
    type: path
  append:
    description: Command line of the kernel.
    type: str
  disks:
    description: Disk images.
    type: list
    elements: path
    aliases: [disk]
  hypervisor:
    description: What runs it.
    type: str
    choices: [qemu, firecracker, cloud-hypervisor, command, external]
  command:
    description: Program and arguments that are the VM's process (hypervisor V(command)).
    type: list
    elements: str
  autostart:
    description: Start it when the host has booted.
    type: bool
  limit:
    description: Limits of its traffic, such as C(in=100mbit,out=10mbit).
    type: str
  queues:
    description: Queues of each TAP device.
    type: int
  user_data:
    description: User data for cloud-init, a file.
    type: path
  ssh_keys:
    description: Public keys for cloud-init, files.
    type: list
    elements: path
    aliases: [ssh_key]
  user:
    description: User that the hypervisor runs as.
    type: str
  chdir:
    description: Directory of the managed host that paths begin at, and that the process of hypervisor V(command) runs in.
    type: path
    default: /
  allow_restart:
    description: With V(present) and V(started), let a VM that is up be stopped and started for what it hears of only at its start.
    type: bool
    default: false
  allow_replace:
    description: Let a VM be removed and created anew where it cannot be changed (hypervisor, networks, addresses).
    type: bool
    default: false
  timeout:
    description: How many seconds the guest has to power down, with V(stopped), V(restarted) and V(absent).
    type: float
    default: 30
  force:
    description: Do not wait for the guest, with V(stopped), V(restarted) and V(absent).
    type: bool
    default: false
extends_documentation_fragment: [hvtx.host.host, hvtx.host.host.policy]
notes:
  - A command, C(append) and what else is described are shown by C(--diff) and C(-v). C(no_log) on the task hides them.
author: [hvtx maintainers (@hvtx)]
"""

EXAMPLES = r"""
- name: A VM that runs
  hvtx.host.vm:
    name: web
    networks: [lab]
    disks: [/var/lib/images/web.qcow2]
    memory: 1024
    publish: ["8080:80"]
    autostart: true

- name: One more port, and the rest as above; it runs on
  hvtx.host.vm:
    name: web
    networks: [lab]
    disks: [/var/lib/images/web.qcow2]
    memory: 1024
    publish: ["8080:80", "8443:443"]
    autostart: true

- name: Down, whatever it is
  hvtx.host.vm:
    name: web
    state: stopped

- name: Gone
  hvtx.host.vm:
    name: web
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, a sentence each.
  returned: always
  type: list
  elements: str
  sample: ["create VM web (qemu, in lab)", "start VM web"]
vm:
  description: The VM as it is now.
  returned: when it is on record
  type: dict
  contains:
    name: {description: Its name., type: str, returned: always}
    state: {description: "C(defined), C(running), C(crashed), …", type: str, returned: always}
    hypervisor: {description: What runs it., type: str, returned: always}
    pid: {description: Its process., type: int, returned: when it runs}
    interfaces:
      description: Its interfaces.
      type: list
      elements: dict
      returned: always
      contains:
        network: {description: Its network., type: str, returned: always}
        device: {description: Its TAP device., type: str, returned: when it runs}
        mac: {description: Its MAC address., type: str, returned: always}
        ipv4: {description: Its address., type: str, returned: always}
        ipv6: {description: Its address., type: str, returned: always}
        publish: {description: Its host ports., type: list, elements: dict, returned: always}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hvtx.host.plugins.module_utils import host as common

PATHS = {"type": "list", "elements": "path"}
OPTIONS = {
    "networks": {**common.MANY, "aliases": ["network"]},
    "ips": {**common.MANY, "aliases": ["ip"]},
    "macs": {**common.MANY, "aliases": ["mac"]},
    "publish": common.MANY,
    "memory": {"type": "int"},
    "cpus": {"type": "int"},
    "kernel": {"type": "path"},
    "initrd": {"type": "path"},
    "append": {"type": "str"},
    "disks": {**PATHS, "aliases": ["disk"]},
    "hypervisor": {
        "type": "str",
        "choices": ["qemu", "firecracker", "cloud-hypervisor", "command", "external"],
    },
    "command": common.MANY,
    "autostart": {"type": "bool"},
    "limit": {"type": "str"},
    "queues": {"type": "int"},
    "user_data": {"type": "path"},
    "ssh_keys": {**PATHS, "aliases": ["ssh_key"]},
    "user": {"type": "str"},
    **common.POLICY,
}
STATES = ["present", "started", "stopped", "restarted", "absent"]
UP = ("running", "starting", "unknown")
AFTER = {"create": "defined", "stop": "defined", "remove": "absent", "start": "running"}
# In check mode, of networks that are not there: for benchmarks (RFC 2544), and a random prefix (RFC 4193).
STAND_IN4, STAND_IN6 = "198.18", "fdd3:9e1b:77c4"
INTERFACE = ("network", "device", "mac", "ipv4", "ipv6")


def told(shown):
    """What of a VM is returned."""
    return {
        "name": shown.vm.name,
        "state": str(shown.state),
        "hypervisor": shown.vm.hypervisor,
        "pid": shown.pid,
        "interfaces": [
            {
                **{name: getattr(each, name) for name in INTERFACE},
                "publish": [
                    {
                        name: getattr(port, name)
                        for name in ("protocol", "host_ip", "host_port", "guest_port")
                    }
                    for port in each.publish
                ],
            }
            for each in shown.interfaces
        ],
    }


def find(host, name):
    """The VM, or None."""
    return host.vm.show(name) if name in host.vm.names() else None


class Wish:
    """What the task asks for."""

    def __init__(self, module, host):
        """Take it from the task; what was spoilt on the way is refused."""
        given = module.params
        self.module, self.host = module, host
        self.name, self.state = given["name"], given["state"]
        self.options = common.asked(module, OPTIONS)
        self.patience = {"timeout": given["timeout"], "force": given["force"]}
        self.allowed = {
            "restart": given["allow_restart"] or self.state in ("stopped", "restarted"),
            "replace": given["allow_replace"],
        }
        self.found = find(host, name=self.name)
        self.was = "absent" if self.found is None else str(self.found.state)

    @property
    def down_first(self):
        """Whether it is stopped before anything else."""
        stops = self.state in ("stopped", "restarted")
        return stops and self.was not in ("absent", "defined")

    def refuse_stop(self):
        """In check mode, end the task where `hvtx vm stop` would refuse: it knows whose the process is."""
        vm = self.found.vm
        if not self.module.check_mode or self.was == "defined":
            return
        if vm.hypervisor == "cni":
            common.stop(
                self.module, f"VM {self.name!r} stands for an interface of a container, which only its runtime changes",
                f"let its runtime do it (CNI ADD, DEL); hvtx vm rm {self.name} --force releases it",
                code="conflict", exit_code=4,
            )  # fmt: skip
        if (
            vm.hypervisor == "external"
            and self.found.pid is not None
            and not self.patience["force"]
        ):
            common.stop(
                self.module, f"the process of VM {self.name!r} runs, and hvtx did not start it",
                "end it yourself first, or let it be ended (TERM, then KILL): force: true",
                code="conflict", exit_code=4,
            )  # fmt: skip

    def awaited_networks(self):
        """Networks that it is to be in and that are not there: in check mode nobody has made them."""
        if not self.module.check_mode:
            return []
        there = {"default", *self.host.network.names()}
        missing = [name for name in self.options.get("networks", ()) if name not in there]
        if missing:
            told_ = f"there is no network {', '.join(missing)}, which an earlier task may make"
            self.module.warn(f"VM {self.name}: {told_}")
        return list(dict.fromkeys(missing))

    def described_vm(self, start, missing):
        """The described set and its plan; of networks that are missing as if they were there.

        Nobody knows their subnets: others stand for them, and addresses are not asked for in these.
        """
        options = dict(self.options)
        if missing:
            options.pop("ips", None)
        networks = {
            name: {"subnets": [f"{STAND_IN4}.{number}.0/24", f"{STAND_IN6}:{number}::/64"]}
            for number, name in enumerate(missing)
        }
        request = self.host.sets.described(
            networks=networks, vms={self.name: {**options, "start": start}}
        )
        return request, self.host.sets.plan(request, **self.allowed)

    def bare(self):
        """Of a VM that is on record and not described: only its state is seen to."""
        actions, before, after = [], {"state": self.was}, {"state": self.was}
        if self.down_first:
            self.refuse_stop()
            actions.append(f"stop VM {self.name}")
            after["state"] = "defined"
        if self.state == "restarted" or (self.state == "started" and self.was not in UP):
            actions.append(f"start VM {self.name}")
            after["state"] = "running"
        if actions and not self.module.check_mode:
            if self.state == "started":
                self.host.vm.start(self.name)
            elif self.state == "restarted":
                self.host.vm.restart(self.name, **self.patience)
            else:
                self.host.vm.stop(self.name, **self.patience)
        return actions, before, after

    def described(self):
        """Make it what is described."""
        start = self.state in ("started", "restarted")
        missing = self.awaited_networks()
        request, plan = self.described_vm(start, missing)
        common.refuse(self.module, plan)
        planned = [
            s for s in plan.steps if (s.kind, s.name) not in {("network", n) for n in missing}
        ]
        before, after = {"state": self.was}, {"state": self.was}
        if self.found is None:
            after.update(self.options)
        common.differing(planned, before, after)
        steps = [
            step
            for step in planned
            if not (self.state == "stopped" and step.action in ("stop", "start"))
        ]
        if self.down_first or any(step.action == "stop" for step in steps):
            self.refuse_stop()
        actions = [step.message for step in steps]
        states = [
            AFTER[step.action] for step in steps if step.kind == "vm" and step.action in AFTER
        ]
        if self.down_first:
            actions = [
                f"stop VM {self.name}",
                *(
                    w
                    for w, s in zip(actions, steps, strict=True)
                    if s.action not in ("stop", "start")
                ),
            ]
            states.append("defined")
            if start:
                actions.append(f"start VM {self.name}")
                states.append("running")
        after["state"] = states[-1] if states else self.was
        if actions and not self.module.check_mode:
            stopped = []
            if self.down_first:
                self.host.vm.stop(self.name, **self.patience)
                stopped.append(f"stop VM {self.name}")
            actions = stopped + common.apply(self.module, self.host, request, **self.allowed)
        return actions, before, after

    def absent(self):
        """Forget it, unless it is gone."""
        if self.found is None:
            return [], {"state": "absent"}, {"state": "absent"}
        up = self.was != "defined"
        self.refuse_stop()
        if not self.module.check_mode:
            if up:
                self.host.vm.stop(self.name, **self.patience)
            self.host.vm.rm(self.name)
        actions = [f"stop VM {self.name}"] if up else []
        return [*actions, f"remove VM {self.name}"], told(self.found), {"state": "absent"}

    def fulfil(self):
        """What the module returns."""
        if self.state == "absent":
            actions, before, after = self.absent()
        elif self.found is None and not self.options and self.state != "present":
            common.stop(
                self.module, f"there is no VM {self.name!r}, and nothing is described of it",
                "hvtx vm ls lists them; or describe it: hypervisor, disks or command, networks",
                code="not-found", exit_code=3,
            )  # fmt: skip
        elif self.options or self.found is None:
            actions, before, after = self.described()
        else:
            actions, before, after = self.bare()
        now = find(self.host, self.name)
        return {
            "changed": bool(actions),
            "actions": actions,
            "diff": {"before": before, "after": after},
            **({"vm": told(now)} if now else {}),
        }


def without(module):
    """What check mode foresees of a host without hvtx."""
    name, state = module.params["name"], module.params["state"]
    before, after = {"state": "absent"}, {"state": "absent"}
    if state == "absent":
        return {"changed": False, "actions": [], "diff": {"before": before, "after": after}}
    start = state in ("started", "restarted")
    after = {**common.asked(module, OPTIONS), "state": "running" if start else "defined"}
    actions = [f"create VM {name}", *([f"start VM {name}"] if start else [])]
    return {"changed": True, "actions": actions, "diff": {"before": before, "after": after}}


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **common.SETTINGS,
            **OPTIONS,
            **common.OWN,
            "state": {"type": "str", "choices": STATES, "default": "started"},
            "chdir": {"type": "path", "default": "/"},
            "allow_restart": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 30.0},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        os.chdir(module.params["chdir"])  # Ansible's own differs from connection to connection
    except OSError as problem:
        told_ = f"chdir {module.params['chdir']} cannot be entered: {problem.strerror}"
        common.stop(
            module, told_, "name a directory of the managed host", code="not-found", exit_code=3
        )
    with common.opened(module, lambda: without(module)) as host:
        result = Wish(module, host).fulfil()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
