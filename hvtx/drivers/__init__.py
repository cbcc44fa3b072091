"""The only place where the host is changed; one module per kind of resource."""
