"""The host's forwarding once more, in a network namespace of its own that is gone right after.

What the kernel does with a packet is told by the kernel only: links, addresses, routes, settings
and rules of the host are read, made again in a scratch namespace, and real frames go through them
there. Nothing of the host's own namespace is written, and no frame leaves the scratch.
"""
