"""Metrics: what Envoy has counted (mesh/raw_stats), with the labels that operators know from Istio.

Envoy is asked now and then and at each scrape. What has been added since the last time gets the labels that its atoms
have by the present catalog, and is added to series that the agent keeps: so they outlive Envoy and its instances.
"""
