"""Consul: the catalog, health, KV and sessions that all of hostmesh's shared state lives in.

`address`, `client`, `transport`, `polling` are the way to Consul; `catalog` and `kv` read, `registration` and
`status` write for the agent, `store` and `external` for the command line; `meta` and `decode` are pure and own the
shape of a catalog entry.
"""
