"""iptables and the routes of the virtual addresses, on this host."""
