"""Where Consul is and how to be let in; reads the same variables as Consul's own tools. Opens no connection."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import ConfigError

DEFAULT_PORT = 8500
_TRUE = {"1", "t", "true", "yes"}


@dataclass(frozen=True, slots=True)
class ConsulAddress:
    """One Consul HTTP API endpoint. A dataclass, not a Struct: the token must stay out of `repr` and so out of logs."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    scheme: str = "http"
    token: str = field(default="", repr=False)
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    verify: bool = True

    @property
    def url(self) -> str:
        """Return `scheme://host:port`, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback_v4(self) -> bool:
        """Tell whether Consul listens in 127.0.0.0/8, where any loopback address can be the source of a connection."""
        if self.host == "localhost":
            return True
        try:
            parsed = ip_address(self.host)
        except ValueError:
            return False
        return parsed.version == 4 and parsed.is_loopback

    def ssl_context(self) -> ssl.SSLContext:
        """Return the context for https; raises ConfigError when a certificate can't be loaded."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.client_cert:
                context.load_cert_chain(self.client_cert, self.client_key or None)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(name for name in (self.ca_file, self.client_cert, self.client_key) if name)
            raise ConfigError(
                [f"Consul's TLS files ({files}): {error}; check the paths and that they are PEM"]
            ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @classmethod
    def from_url(cls, text: str, token: str = "", source: str = "Consul address") -> ConsulAddress:
        """Return the address that `HOST:PORT` or `http(s)://HOST:PORT` means; raises ConfigError naming the source."""
        hint = "write HOST:PORT, http://HOST:PORT or https://HOST:PORT"
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError([f"{source}: {text!r}: {error}; {hint}"]) from error
        if parts.scheme == "unix":
            raise ConfigError(
                [f"{source}: {text!r}: Unix sockets are not supported (Consul allows 200 connections on one); {hint}"]
            )
        if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query or parts.username:
            raise ConfigError([f"{source}: {text!r} is no address of a Consul agent; {hint}"])
        return cls(host=host, port=port or DEFAULT_PORT, scheme=parts.scheme, token=token)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ConsulAddress:
        """Return the address the CONSUL_* variables mean (Consul's documentation, "Environment variables").

        CONSUL_NAMESPACE is ignored: it belongs to Consul Enterprise. Raises ConfigError naming the variable.
        """
        base = cls.from_url(
            environment.get("CONSUL_HTTP_ADDR") or f"127.0.0.1:{DEFAULT_PORT}", source="CONSUL_HTTP_ADDR"
        )
        https = base.scheme == "https" or environment.get("CONSUL_HTTP_SSL", "").lower() in _TRUE
        token = environment.get("CONSUL_HTTP_TOKEN", "")
        token_file = environment.get("CONSUL_HTTP_TOKEN_FILE", "")
        return cls(
            host=base.host,
            port=base.port,
            scheme="https" if https else "http",
            token=token or (read_token(token_file, "CONSUL_HTTP_TOKEN_FILE") if token_file else ""),
            ca_file=environment.get("CONSUL_CACERT", ""),
            client_cert=environment.get("CONSUL_CLIENT_CERT", ""),
            client_key=environment.get("CONSUL_CLIENT_KEY", ""),
            verify=environment.get("CONSUL_HTTP_SSL_VERIFY", "true").lower() in _TRUE,
        )


def read_token(path: str, source: str) -> str:
    """Return the token in a file, less white space; raises ConfigError naming the source and the file."""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{source}: {path}: {error}; give a readable file that holds only the token"]) from error
    if not token:
        raise ConfigError([f"{source}: {path} is empty; write the ACL token's secret ID into it"])
    if not token.isprintable() or " " in token:
        raise ConfigError([f"{source}: {path} holds more than one word; write the ACL token's secret ID alone into it"])
    return token
