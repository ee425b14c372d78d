"""The domain model: immutable types and pure rules about them. Imports nothing of hostmesh but errors."""
