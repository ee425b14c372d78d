"""How soon a revoked certificate is worth nothing: `python -m benchmarks.revocation`."""
