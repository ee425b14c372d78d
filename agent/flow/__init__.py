"""What is computed from what, computed again only where something that was read has changed. Pure; knows no mesh.

`table`: mappings that know by which keys they differ from the one before. `stage`: functions of such mappings, by key.
"""
