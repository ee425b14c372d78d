"""hostmesh-ca: the mesh's certificate authority. Stands alone; the agent knows its protocol (proto/) only."""

__version__ = "0.1.0"
