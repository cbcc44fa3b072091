"""The fields of the JSON objects, a line each: path, types, meaning.

``?`` before the types: the field may be left out. ``@PREFIX NAME``: the fields of another table,
below a prefix. Tables without ``/`` in their name are parts of several objects.
"""

from __future__ import annotations

_TEXT = """
# resource
kind | string | the kind of resource (reference.md, Words)
key | string | the name of the resource: device, address, port, rule …
state | string | the state of its row (reference.md, Words)
mark | string null | the mark that it carries; null: its kind has none, or a published view was read
# view
view | ?object | only where the published view was read (privileges.md):
view.as_of | string | the time of the view, RFC 3339 in UTC
view.stale | boolean | whether the store has changed since, or the host has booted
# egress
egress | object | what guests may reach:
egress.mode | string | `open`, `internet` or `none`
egress.from | string | who says the mode: `vm`, `network`, or `default`: nobody, so it is `open`
egress.rules[] | string | `allow` or `deny`, and what, in the order in which they are asked
# line
time | string | RFC 3339, UTC
operation | integer null | the operation's number
verb | string | what the operation was: `start`, `stop`, `gc` …
vm | string null | the VM's name
kind | string null | the kind of resource
key | string null | the name of the resource
event | string | `made`, `removed`, `kept`, `began`, `ended`, `failed` …: the words of `log --event`
reason | string null | a plan's reason (reference.md)
message | string | a sentence for a person
# taken
kind | string | the kind of resource
key | string | the name of the resource
outcome | string | `imported`, `already`, `skipped` or `failed`
reason | string null | why it was skipped, as a word; null: it was not
message | string | the same for a person
evidence[] | string | what was seen
# own
network | string | the network
cidr | string null | the block; null: it was asked for, and no answer is on record
state | string | `intended` (asked for), `committed`, `releasing`, or `lost` (another host has it)
since | string | when it was asked for, RFC 3339 in UTC
kept | boolean | whether it is kept for guests that an older copy of the store may not know
used | integer | the addresses in use
addresses | integer | all addresses of the block
# held
network | string | the network
cidr | string | the block
installation | string | the installation whose block it is
host | string | the name of that host
address | string null | the address by which other hosts reach its guests; null: none is told
# file
path | string | the file's path
state | ?string | `written`, `unchanged`, `removed`, `absent`, `packaged` or `kept`
text | ?string | of `print`: its content
# vm/1
name | string | the VM's name
id | string | the VM's id, which no other VM of the store ever has
state | string | the VM's state (reference.md, Words)
guest | string null | what the hypervisor says of the guest (reference.md, Words); null: not up
accelerator | string null | `kvm` or `tcg`; null where no QEMU runs
accelerator_reason | string null | why that accelerator; null where no QEMU runs
hypervisor | string | `qemu`, `firecracker`, `cloud-hypervisor`, `command`, `external`, or `cni`
attachment | object null | of a container's interface (cni.md); null for every other VM
attachment.network | string | the name of the runtime's network configuration
attachment.container | string | CNI_CONTAINERID
attachment.ifname | string | CNI_IFNAME
attachment.netns | string | CNI_NETNS, as it was given
attachment.pod | string | the pod, container or job, as the runtime calls it; may be empty
attachment.pod_namespace | string | the pod's name space; may be empty
attachment.pod_uid | string | the pod's uid; may be empty
attachment.tap | string null | the TAP device in the container's network namespace; null: none
pid | integer null | the process id; null: no process is known
user | integer string null | whom the process runs as; null: as `vm_user` will say at the start
vhost | boolean null | whether QEMU was given vhost-net; null where no QEMU runs
autostart | boolean | whether it is started again after a boot
memory | integer | the memory, in MiB
cpus | integer | the number of virtual CPUs
queues | integer | the queues of each TAP device
kernel | string null | the path of the kernel image
initrd | string null | the path of the initial RAM disk
append | string null | the kernel's command line, with its placeholders
disks[] | string | the paths of the disk images
user_data | string null | the path of the file for cloud-init
ssh_keys[] | string | public keys for cloud-init
command[] | string | the program and its arguments (`command`)
directory | string null | the working directory of a `command` VM
limit | object null | the limits of each interface; null: none
limit.in | ?integer | into the guest, in bits a second
limit.out | ?integer | out of the guest, in bits a second
limit.in-packets | ?integer | into the guest, in packets a second
limit.out-packets | ?integer | out of the guest, in packets a second
interfaces[] | object | the VM's interfaces, in their order:
interfaces[].network | string | the name of the network
interfaces[].device | string null | the host's device: TAP, or a veth's end; null: it is not made
interfaces[].mac | string | the MAC address
interfaces[].ipv4 | string null | the first IPv4 address; null: none
interfaces[].ipv6 | string null | the first IPv6 address; null: none
interfaces[].prefix | integer null | the prefix length for `ipv4`
interfaces[].gateway | string null | the gateway for `ipv4`
interfaces[].prefix6 | integer null | the prefix length for `ipv6`
interfaces[].gateway6 | string null | the gateway for `ipv6`
interfaces[].addresses[] | string | all addresses, the first ones of each family before the others
interfaces[].mtu | integer null | the MTU; null: the network is not known
interfaces[].publish[] | object | published ports:
interfaces[].publish[].protocol | string | `tcp` or `udp`
interfaces[].publish[].host_ip | string null | the host's address; null: every one
interfaces[].publish[].host_port | integer | the port of the host
interfaces[].publish[].guest_port | integer | the port of the guest
@interfaces[] egress
interfaces[].egress.dropped | object null | what it refused; null: not counted, or not readable
interfaces[].egress.dropped.packets | integer | packets since the start
interfaces[].egress.dropped.bytes | integer | bytes since the start
resources[] | object | what the record has of the VM:
@resources[] resource
notes[] | string | sentences for a person: what does not work as one may expect
@ view
# vms/1
vms[] | object | each VM: an object of `hvtx/vm/1`
@ view
# network/1
name | string | the network's name
id | string | the network's id, which no other network of the store ever has
bridge | string | the bridge device
subnets[] | string | the subnets in CIDR notation, at most one of each family
gateway[] | string | the gateway's address in each subnet, in the same order
nat | boolean | whether guests leave the host behind its addresses
isolate | boolean | whether guests are kept from each other
uplink | string null | the only device by which guests leave the host; null: any
source[] | string | the host's addresses that guests have outside, at most one of each family
dhcp | boolean | whether a dnsmasq of its own serves DHCP, router advertisements and DNS
block_size | integer null | the prefix length of its blocks of a cluster; null: it has none
mtu | integer | the MTU of the bridge and its devices
firewall | string | `nftables` or `iptables`
passage | boolean | whether other firewalls that drop by default get an accept of hvtx
@ egress
vms[] | string | the names of VMs in the network
resources[] | object | what the record has of the network:
@resources[] resource
@ view
# networks/1
networks[] | object | each network: an object of `hvtx/network/1`
@ view
# routes/1
routes[] | object | a route for each block of a cluster:
routes[].network | string | the network
routes[].cidr | string | the block
routes[].installation | string | the installation whose block it is
routes[].host | string | the name of that host
routes[].via | string null | the next hop; null: that host told none, or the block is this host's
routes[].local | boolean | whether the block is this host's
# removed/1
vm | ?string | the name of the VM that was removed
network | ?string | the name of the network that was removed
# several/1
verb | string | `start`, `stop` or `rm`
vms[] | object | what was done: an object of `hvtx/vm/1`, or of `hvtx/removed/1`
failed[] | object | what was not:
failed[].vm | string | the VM's name
failed[].code | string | the error's word
failed[].message | string | a sentence
failed[].hint | string | what to do
# logs/1
vm | string | the VM's name
path | string | the file that the VM writes to now
lines[] | string | what the VM and its hypervisor wrote, the last 8 MiB at most, without line ends
# console/1
vm | string | the VM's name
socket | string | the path of the UNIX socket to connect to
# apply/1
plan_id | string | plans that would do the same have the same id
files[] | string | the files that were read
applied | boolean | whether it was carried out
refused | string null | why hvtx draws no conclusions (reference.md); such a plan has no items
items[] | object | the steps, in their order:
items[].action | string | `create`, `change`, `stop`, `remove`, `start`, `refuse` or `skip`
items[].reason | string | a word for why; `message` says it for a person
items[].kind | string | `network` or `vm`
items[].name | string | its name
items[].changes | object | what differs, by the name of its option:
items[].changes.*.from | any | as it is on record
items[].changes.*.to | any | as it is described
items[].message | string | a sentence for a person
items[].hint | string null | what would allow a step that is refused
items[].outcome | string null | `done`, `failed`, `skipped` (what it needs failed); null: not tried
items[].error | object null | why it failed: `code`, `message` and `hint` as of an error
items[].error.code | string | the error's word
items[].error.message | string | a sentence
items[].error.hint | string null | what to do
summary | object | how many items have each action:
summary.* | integer | the number
options | ?object | in a saved plan: what it was allowed to do
options.* | boolean | whether it was
described | ?any | in a saved plan: what the files said; hvtx reads it again
reviewed | ?any | in a saved plan: what a person reviewed; hvtx compares it
# recover/1
refused | string null | why hvtx draws no conclusions (reference.md); such an answer has empty lists
resolved[] | object | what interrupted operations left, and what became of it:
resolved[].action | string | as of a plan (reference.md)
resolved[].reason | string | as of a plan (reference.md)
resolved[].kind | string | the kind of resource
resolved[].key | string | the name of the resource
resolved[].vm | string null | the VM's name
resolved[].message | string | a sentence for a person
resolved[].outcome | string null | `done`, `failed` or `skipped`
networks[] | string | networks that were made again after a boot
started[] | string | VMs that were started
failed[] | object | what could not be done:
failed[].what | string | what
failed[].why | string | why
# repair/1
refused | string null | why hvtx draws no conclusions (reference.md); such an answer has empty lists
repaired[] | object | what was put back:
repaired[].kind | string | the kind of resource
repaired[].key | string | the name of the resource
repaired[].missing | string | what was wrong
failed[] | object | what could not be put back:
failed[].kind | string | the kind of resource
failed[].key | string | the name of the resource
failed[].missing | ?string | what is wrong, where that is known
failed[].why | string | why it could not
# explain/1
object | string | what was asked for
kind | string | the kind of resource, or of a foreign thing
key | string | its name
owner | string | `hvtx`, `foreign`, `other-installation` or `unknown`
vm | string null | the VM that it belongs to
network | string null | the network that it belongs to
since | string null | when it was recorded, RFC 3339 in UTC
record | object null | its row; null: it is not on record
record.id | integer | the row's number
record.state | string | the row's state
record.mark | string | the mark that it should carry
record.operation | integer | the operation that wrote the row
record.verb | string null | what that was; null, as the next two: it is not kept any more
record.since | string null | when that began, RFC 3339 in UTC
record.result | string null | how that ended; null, too: it has not ended
evidence[] | string | what was seen
gc | object | what `hvtx gc` would do with it:
gc.action | string | as of a plan (reference.md)
gc.reason | string | as of a plan (reference.md)
why | string | why gc would do so
message | string | the answer in a sentence
history[] | object | lines of the history about it:
history[].time | string | RFC 3339, UTC
history[].operation | integer null | the operation's number
history[].verb | string | what the operation was
history[].event | string | what became of it
history[].reason | string null | a plan's reason
history[].message | string | a sentence for a person
also[] | object | further things of that name:
also[].kind | string | the kind
also[].key | string | the name
also[].owner | string | as `owner`
also[].vm | string null | the VM's name
also[].message | string | a sentence
# intents/1
operations[] | object | operations that have not ended, or left something half done:
operations[].id | integer | the operation's number
operations[].verb | string | what it is: `start`, `stop` …
operations[].vm | string null | the VM's name
operations[].network | string null | the network's name
operations[].state | string | `running` or `interrupted`
operations[].since | string | when it began, RFC 3339 in UTC
operations[].resources[] | object | what it wrote down:
@operations[].resources[] resource
# log/1
entries[] | object | lines of the history, the oldest first:
@entries[] line
entries[].detail | ?any | with `--detail`: what the thing was; null: nothing more is known
@ view
# doctor/1
findings[] | object | what the checks found:
findings[].check | string | the check's name (troubleshooting.md)
findings[].level | string | `ok`, `warning` or `error`
findings[].message | string | a sentence
findings[].evidence[] | string | what was seen
findings[].hint | string null | what to do
# metrics/1
metrics[] | object | the numbers:
metrics[].name | string | the name, as Prometheus has it
metrics[].help | string | what it is
metrics[].values[] | object | a value for each combination of labels:
metrics[].values[].labels | object | the labels; empty: one value without labels
metrics[].values[].labels.* | string | a label's value
metrics[].values[].value | number | the value
# store-backup/1
file | string | the path of the backup
installation | string | the installation that the store is of
change | integer | how often that store had been changed
vms | integer | how many VMs are in it
networks | integer | how many networks are in it
# store-restore/1
@ store-backup/1
kept | string null | where the store is that was there before; null: there was none
next | string | the command that goes on from here
why | string | why that one
# cluster/1
source | string | `static` or `etcd`
installation | string | this installation
endpoints[] | object | the endpoints of etcd:
endpoints[].endpoint | string | the URL
endpoints[].reached | boolean | whether it answers
endpoints[].problem | string null | why it does not
problem | string null | why the cluster's answer is not known; then the last three are null
doubted | boolean | whether the store is an older copy that the cluster was not compared with yet
blocks[] | object | the blocks on record:
@blocks[] own
holders | array null | blocks of all hosts, as the cluster has them:
@holders[] held
unrecorded | array null | blocks that the cluster has as this host's, and the record has not:
@unrecorded[] held
hosts | array null | the hosts that registered:
hosts[].installation | string | the host's installation
hosts[].host | string | the host's name
hosts[].address | string null | the address by which other hosts reach its guests
hosts[].forgotten | boolean | whether it was given up (`cluster forget`)
# cluster-forget/1
installation | string | the installation that was given up
host | string | that host's name
blocks[] | object | the blocks that were freed:
@blocks[] held
# cluster-register/1
installation | string | this installation
another_machine | boolean | whether it was registered from another machine before
another_etcd | boolean | whether the blocks were of another etcd before
blocks[] | object | the blocks that are this host's:
@blocks[] own
lost[] | object | blocks without guests on record that are not this host's any more:
@lost[] own
# import/1
tool | string | the tool that the VMs are taken from
applied | boolean | false: `--dry-run`
vms[] | object | each VM that was found:
vms[].path | string | the file that speaks of it
vms[].id | string null | its id there
vms[].name | string null | its name there
vms[].status | string null | its state there
vms[].vm | string null | its name on record; null: nothing of it was taken over
vms[].liveness | string null | `alive`, `dead` or `unknown`; null: nobody looked
vms[].outcome | string | `imported`, `already`, `skipped` or `failed`
vms[].reason | string null | why it was skipped, as a word
vms[].message | string | the same for a person
vms[].spelling | object | where each value stood in the file:
vms[].spelling.* | string | the keys that lead to it
vms[].items[] | object | its devices and rules:
@vms[].items[] taken
summary | object | how many VMs, devices and rules have each outcome:
summary.* | integer | the number
# adopt/1
object | string | what was named
applied | boolean | false: `--dry-run`
vm | string | the VM's name
liveness | string | `alive`, `dead` or `unknown`
process | string | why that, in words
item | object | the device or rule:
@item taken
# completion/1
shell | string | `bash`, `zsh` or `fish`
script | string | what the shell is to read
# cni/1
files[] | object | the executable and the network configuration:
@files[] file
files[].mode | ?string | of `print`: its mode, in octal
note | ?string null | what a person should know; left out by `print`
# systemd/1
units[] | object | the units, and files for other programs:
units[].name | string | its name
@units[] file
files[] | ?object | of `print`: the files for other programs:
files[].name | string | its name
files[].path | string | the file's path
files[].text | string | its content
running | ?boolean | whether a running systemd was told; left out by `print`
note | ?string null | what a person should know; left out by `print`
"""
TABLES = {
    name: table.strip()
    for part in _TEXT.removeprefix("\n# ").split("\n# ")
    for name, _, table in [part.partition("\n")]
}
