"""Asks the agent of another host by its operator port. Reads only, but for the ticket it leaves in Consul.

Nothing is believed that Consul's ACLs do not vouch for: the agent is known by the certificate that its status document
names, we by a single-use ticket. How it is seen from the other side: agent/runtime/operator_port.py.
"""

from __future__ import annotations

import contextlib
import difflib
import hmac
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from hashlib import sha256

import msgspec

from agent.adapters.consul.store import NodeStatuses, TicketStore
from agent.api.checks.words import host as node_name
from agent.cli.connection import Connection
from agent.cli.fleet import read_nodes
from agent.errors import ConsulRefused, HostError, HostmeshError, UserError
from agent.mesh.names import KV_STATUS, KV_TICKETS, status_key
from agent.mesh.status import OperatorAccess
from agent.mesh.tickets import new_ticket

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 40.0
MAX_ANSWER = 64 * 2**20
"""Bytes."""


class RemoteAgent:
    """The agent of a node, found and believed by way of Consul; its errors are HostmeshErrors that say what to do."""

    def __init__(self, connection: Connection, node: str) -> None:
        if problem := node_name(node):
            raise UserError(f"NODE: {problem}")
        self._connection, self._node = connection, node
        self._access: OperatorAccess | None = None

    def view(self, name: str) -> bytes:
        """Return a view of its Envoy."""
        self._access = self._access or self._find()
        with contextlib.closing(self._connect(self._access)) as channel:
            return self._ask(channel, name)

    def _find(self) -> OperatorAccess:
        consul = self._connection.consul()
        with _needing(f'key_prefix "{KV_STATUS}" {{ policy = "read" }}'):
            status = NodeStatuses(consul).get(self._node)
        if status is None:
            raise self._absent()
        if status.operator is None:
            raise UserError(
                f"{self._node}: its agent has no operator port (agent.yaml: operator.enabled, a fault in `hostmesh "
                f"proxy-status {self._node}`, or an older version); run this there: ssh {self._node} hostmesh …"
            )
        return status.operator

    def _absent(self) -> UserError:
        reporting = [status.node for status in NodeStatuses(self._connection.consul()).read()[0]]
        if self._node in read_nodes(self._connection):
            return UserError(
                f"{self._node} is a node in Consul, but no agent reports from it (no key {status_key(self._node)}): "
                f"is hostmesh-agent running there, and connected to Consul?"
            )
        near = difflib.get_close_matches(self._node, reporting, 3, 0.5) or sorted(reporting)[:10]
        hint = f"did you mean {', '.join(near)}?" if near else "no agent reports; see `hostmesh proxy-status`"
        return UserError(f"no node {self._node!r} in the mesh ({hint})")

    def _connect(self, access: OperatorAccess) -> ssl.SSLSocket:
        """Return a connection to the agent that Consul names, and to nobody else."""
        where = f"{self._node}: {access.address} port {access.port}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # known by its fingerprint, before anything is sent
        try:
            plain = socket.create_connection((access.address, access.port), CONNECT_SECONDS)
        except OSError as error:
            raise HostError(
                f"{where} cannot be reached: {_reason(error)}; let TCP {access.port} through the firewalls on the way, "
                f"see that hostmesh-agent runs there, or run this there: ssh {self._node} hostmesh …"
            ) from error
        try:
            channel = context.wrap_socket(plain)
        except OSError as error:
            plain.close()
            raise HostError(
                f"{where} does not let us in: too many connections, or too many refused, from here? "
                "Try again in a few seconds"
            ) from error
        certificate = channel.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(sha256(certificate).hexdigest(), access.fingerprint):
            channel.close()
            raise HostError(
                f"{where}: what answers there is not {self._node}'s agent: its certificate is not the one that "
                f"{status_key(self._node)} names (if the agent has just restarted, try again)"
            )
        return channel

    def _ask(self, channel: ssl.SSLSocket, name: str) -> bytes:
        proof, ticket = new_ticket(name, time.time())
        tickets = TicketStore(self._connection.consul(), self._node)
        with _needing(f'key_prefix "{KV_TICKETS}" {{ policy = "write" }}'):
            tickets.put(proof.id, msgspec.json.encode(ticket))
        status = 0
        try:
            status, body = _get(channel, f"/envoy/{name}", proof.authorization)
        except (OSError, http.client.HTTPException) as error:
            raise HostError(f"{self._node}: the answer was cut off: {_reason(error)}") from error
        finally:
            if status != http.client.OK:
                with contextlib.suppress(HostmeshError):  # over in seconds, and swept by the agent
                    tickets.delete(proof.id)
        if status != http.client.OK:
            raise HostError(f"{self._node} refuses: {body.decode(errors='replace').strip()[:300]}")
        return body


def _get(channel: ssl.SSLSocket, path: str, authorization: str) -> tuple[int, bytes]:
    channel.settimeout(ANSWER_SECONDS)
    connection = http.client.HTTPConnection("agent")
    connection.sock = channel
    connection.request("GET", path, headers={"Authorization": authorization, "Connection": "close"})
    answer = connection.getresponse()
    body = answer.read(MAX_ANSWER)
    if answer.read(1):
        raise http.client.HTTPException(f"it is larger than {MAX_ANSWER} bytes")
    return answer.status, body


@contextlib.contextmanager
def _needing(rule: str) -> Iterator[None]:
    """Name the rule that the Consul token lacks when Consul says that something is not permitted."""
    try:
        yield
    except ConsulRefused as error:
        if "ermission denied" not in str(error):
            raise
        raise UserError(
            f"this Consul token may not do that: its policy needs the rule {rule} "
            "(the token is set by --token-file, CONSUL_HTTP_TOKEN or the context)"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
