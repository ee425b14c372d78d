"""The agent as a running program: events in, one owner of the state, the desired state out to adapters."""
