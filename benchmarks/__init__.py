"""Benchmarks: each prints its figures with units, compared within one run."""
