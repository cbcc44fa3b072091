"""VM processes: started through a gate, monitored, ended.

A hypervisor must never run without being on record. So what is spawned first is a gate: a shell in
a session of its own that waits for one word on a pipe and then becomes the hypervisor (exec keeps
pid and start time). The caller commits the gate's identity, then opens it. If the caller dies
before that, the pipe's write end closes with it, the gate reads end-of-file, and exits.

The gate is reached in steps, each of which becomes the next: a shell enters the working directory,
which the VM's user may not be able to reach; the way to a program in a shut directory is shown
(:mod:`hvtx.host.path_mounts`); ``unshare`` gives it a network namespace of its own, where the
hypervisor needs nothing of the host's; ``setpriv`` makes it the VM's user, without any capability
and without a way to get one. All that is done before the word comes.

The gate holds nothing else of ours: the read end, the way to the log, and what the hypervisor is
handed (its TAP devices, its disks). A lock or a write end that it kept open would make a dead
caller look alive. Nor does it keep its starter's limits, niceness and processors.

What a VM writes goes through a pipe to a logger of its own, which keeps a bounded part of it
(:mod:`hvtx.host.logger`). Should the logger be killed, writing fails with EPIPE; SIGPIPE is
ignored, as for services of systemd, so that nobody ends a VM by ending its logger.

What a start calls, in its order: :mod:`probe` (what is there), :mod:`prepare` (the run-time
directory), :mod:`spawn` (the gate is started), :mod:`gate` (it is opened, and its guest runs),
:mod:`scope` (under systemd). Then :mod:`console`, and :mod:`stop`.
"""
