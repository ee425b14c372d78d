"""The lab: a mesh of hosts on one machine, each host a set of namespaces. For `make lab` and the integration tests."""
