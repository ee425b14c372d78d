"""What is computed from what, computed again only where something that was read has changed. Pure; knows no mesh.

`table`: mappings that know by which keys they differ from the one before. `ordered`: mappings in order of keys, in
blocks that versions share. `stage`: functions of such mappings, by key.
"""
