"""What a plan depends on beside the mesh itself: how this host captures traffic and where its listeners are. No I/O."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.ports import INBOUND_PORT, OUTBOUND_PORT
from agent.mesh.service import Labels
from agent.translate.netfilter import NetfilterOptions, OutboundMode


class KeySetSockets(Struct, frozen=True):
    """Unix sockets by which key sets come to Envoy."""

    agent: str
    """The agent's, where Envoy gets them."""
    envoy: str
    """Envoy's, by which the agent fetches them."""


class PlanOptions(Struct, frozen=True):
    """This host's part in a plan. Without `interception` no iptables text is made (`hostmesh render`)."""

    interception: NetfilterOptions | None = None
    """Its `inbound_ports` stand if `capture_inbound` is False or they are not empty."""
    capture_inbound: bool = True
    """Capture the ports of this host's proxied workloads where `interception.inbound_ports` is empty."""
    ipv6: bool = True
    """Listen on IPv6 too; False on a host whose kernel has none, where such a listener would be refused."""
    intercepted: bool = True
    """Connections come by iptables: their original destination counts. False: listeners bind as below says."""
    bind_outbound: str | None = None
    """Only without interception: each service port is bound here; None: there are no outbound listeners."""
    bind_inbound: str | None = None
    """Only without interception: each workload port is bound here; None: there are no inbound listeners."""
    dns_upstreams: tuple[str, ...] = ()
    """DNS servers (ADDRESS, or with :PORT) that Envoy asks for hosts outside of the mesh; the host's own answers with
    virtual addresses. None: without interception Envoy asks as any program does."""

    key_sets: KeySetSockets | None = None
    """How key sets come to Envoy; None: it fetches them itself."""
    decision_log: str = ""
    """File to which Envoy writes what AUDIT policies and dry runs tell; empty: its standard output."""
    entry_log: str = ""
    """File to which Envoy writes what Mixer's rules log; empty: its standard output."""
    access_log: str = ""
    """File to which Envoy writes access logs; empty: its standard output."""
    log_sockets: str = ""
    """Folder of the Unix sockets by which the agent reaches the servers of logs; empty: there is no agent."""
    peer_log: str = ""
    """File to which inbound connections can say whose they are (translate/peer_log); empty: they can't."""
    counts: bool = False
    """Envoy counts requests and connections for the agent's metrics (translate/counting)."""
    gateway: Labels | None = None
    """This host is a gateway with these labels: it listens for what Gateway objects that select them say, and for
    nothing else."""

    @property
    def captures_foreign(self) -> bool:
        """Tell whether connections to other than virtual addresses come to Envoy: all of them, or those of a list."""
        capture = self.interception
        return capture is not None and (
            capture.outbound is OutboundMode.ALL
            or (
                capture.outbound is OutboundMode.MESH and bool(capture.included_cidrs + capture.included_outbound_ports)
            )
        )

    @property
    def outbound_port(self) -> int:
        """Return the port that captured outbound connections come to."""
        return self.interception.outbound_port if self.interception else OUTBOUND_PORT

    @property
    def inbound_port(self) -> int:
        """Return the port that captured inbound connections come to."""
        return self.interception.inbound_port if self.interception else INBOUND_PORT
