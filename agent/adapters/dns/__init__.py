"""What dnsmasq reads of hostmesh, and what this host's resolver is told to ask."""
