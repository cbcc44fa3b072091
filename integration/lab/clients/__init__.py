"""Container runtimes of Debian as they are, each in a host of its own made of namespaces."""
