"""The mesh as a graph of who calls whom, out of Prometheus: data, pictures and a live page.

`graph.py` and `dot.py` are pure; `prometheus.py` asks, `server.py` serves. Knows nothing of Consul, Envoy or rules.
"""
