"""One module per kind: what its spec may hold. Pure."""
