"""Findings across documents: what each of them says is right by itself, but not together or for this mesh. Pure."""
