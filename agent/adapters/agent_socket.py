"""One agent asked by its Unix socket, by tools on the same machine. Decides nothing."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

from agent.errors import HostError, UserError

_TIMEOUT = 40.0
_PROBE_TIMEOUT = 2.0
"""Seconds to ask an agent who it is."""


class AgentSocket:
    """Asks one agent by its Unix socket; every error is a HostError or UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def view(self, name: str) -> bytes:
        """Return a view of its Envoy."""
        return self.ask(f"/envoy/{name}")

    def node(self) -> str:
        """Return the node's name."""
        return str(json.loads(self.ask("/status", _PROBE_TIMEOUT))["node"])

    def ask(self, path: str, timeout: float = _TIMEOUT, method: str = "GET") -> bytes:
        """Return what the agent answers."""
        connection = _UnixConnection(str(self._path), timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except PermissionError as error:
            raise UserError(f"{self._path}: permission denied; run it as root or as the user hostmesh") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise HostError(
                f"{self._path}: no agent answers there: {reason} (does hostmesh-agent run? Of another host give NODE)"
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise HostError(f"{self._path}: {path}: {body.decode(errors='replace').strip()[:300]}")
        return body


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)
