"""The CA under load: `python -m benchmarks.ca`."""
