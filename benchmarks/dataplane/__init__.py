"""What the mesh costs a request: `python -m benchmarks.dataplane`."""
