"""What a VM's network does, with packets, beside rules, routes and programs of others."""
