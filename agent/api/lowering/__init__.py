"""Validated documents of both generations to the mesh's own types. Pure."""
