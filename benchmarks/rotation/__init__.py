"""Requests while certificates that last ten seconds rotate: `python -m benchmarks.rotation`."""
