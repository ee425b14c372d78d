"""hostmesh: the per-host agent of a service mesh for plain hosts, and the operator's command line."""

__version__ = "0.1.0"
