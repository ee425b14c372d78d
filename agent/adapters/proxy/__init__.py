"""The supervised Envoy as a process: started, adopted, watched, drained and ended."""
