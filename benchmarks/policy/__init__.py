"""What Mixer's rules cost a request, and how exactly quotas count: `python -m benchmarks.policy`."""
