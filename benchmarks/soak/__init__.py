"""Does an agent grow while everything around it changes all the time? `python -m benchmarks.soak` (needs root)."""
