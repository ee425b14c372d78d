"""The SPIFFE Workload API: local programs get their own identity, by their Unix user, from the agent."""

from agent.adapters.workload_api.messages import LocalIdentities, Svid
from agent.adapters.workload_api.server import WorkloadApi
from agent.adapters.workload_api.tokens import IssuedJwt

__all__ = ["IssuedJwt", "LocalIdentities", "Svid", "WorkloadApi"]
