"""Documents of the first generation to networking.istio.io/v1. Pure."""
