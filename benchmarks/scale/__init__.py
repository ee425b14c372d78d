"""How a large catalog in a real Consul on its default limits is followed: `python -m benchmarks.scale`."""
