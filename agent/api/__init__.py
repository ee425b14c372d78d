"""The user's side: YAML kinds of both Istio generations, services.d, mesh settings; pure: no Consul, no Envoy."""
