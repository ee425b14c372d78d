"""How fast a rule reaches every Envoy: `python -m benchmarks.propagation`."""
