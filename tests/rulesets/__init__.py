"""What the host is asked for: tables, elements, rules, filters of devices."""
