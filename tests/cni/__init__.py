"""The CNI plugin: what runtimes send, and what they are answered."""
