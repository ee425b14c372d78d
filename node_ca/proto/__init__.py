"""The CA's protocol: ca.proto, the stubs that `generate` makes of it, and the join token. All the agent may import."""
