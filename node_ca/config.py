"""ca.yaml → a frozen, checked Config; every problem is reported at once. Reads one file, decides nothing."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml
from cryptography import x509
from msgspec import Struct

from node_ca.errors import ConfigError
from node_ca.identity import is_namespace, is_trust_domain
from node_ca.records import KEEP_ENDED
from node_ca.template import IpAddress

DEFAULT_CONFIG = Path("/etc/hostmesh/ca.yaml")
MIN_LIFETIME, MAX_LIFETIME = 2.0, 90 * 86400.0
MIN_JWT_LIFETIME, MAX_JWT_LIFETIME = 5.0, 3600.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+[smhd])+")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")


class Seconds(float):
    """A duration; written `10s`, `24h`, `1h30m`, `30d`."""

    @classmethod
    def from_text(cls, text: object) -> Seconds:
        """Parse a written duration; raises ValueError."""
        if not isinstance(text, str) or not _DURATION.fullmatch(text):
            raise ValueError(f"{text!r} is not a duration; write 10s, 30m, 24h or 7d")
        return cls(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text)))


class Listener(Struct, frozen=True, rename="camel"):
    """Where a port listens."""

    port: int
    address: str = "::"
    """An IP address; `::` is every address of both families."""

    @property
    def target(self) -> str:
        """Return it in gRPC's words."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class ServerNames(Struct, frozen=True, rename="camel"):
    """What the CA's own server certificate is for: the names and addresses that agents reach it by."""

    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()

    def needed(self) -> ServerNames:
        """Return these, or if there are none this machine's name."""
        return self if self.dns or self.ips else ServerNames((socket.gethostname().lower(),))

    def with_defaults(self) -> ServerNames:
        """Return those that are needed and the loopback ones, which always belong to it."""
        needed = self.needed()
        return ServerNames(
            dns=tuple(dict.fromkeys((*needed.dns, "localhost"))),
            ips=tuple(dict.fromkeys((*needed.ips, "127.0.0.1", "::1"))),
        )

    @property
    def general_names(self) -> tuple[x509.GeneralName, ...]:
        """Return them as certificates have them."""
        return (*(x509.DNSName(name) for name in self.dns), *(x509.IPAddress(ip) for ip in self.addresses))

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        """Return the IPs, parsed."""
        return tuple(ipaddress.ip_address(ip) for ip in self.ips)


class RateLimit(Struct, frozen=True, rename="camel"):
    """So many calls a second for long, and so many at once before that counts."""

    per_second: float = 20
    burst: int = 200


class RateLimits(Struct, frozen=True, rename="camel"):
    """Of the calls on the enrolment and the renewal port, each port for itself."""

    per_caller: RateLimit = RateLimit()
    """Of one address (in IPv6: one /64)."""
    total: RateLimit = RateLimit(2000, 20_000)


class ConsulAccess(Struct, frozen=True, rename="camel"):
    """A Consul agent, and what it is used for."""

    address: str = ""
    """Its HTTP API: http://127.0.0.1:8500; empty: Consul is not used."""
    token_file: str = ""
    """With the policy of `hostmesh consul-policy ca`; needed for shared records only."""
    ca_file: str = ""
    shared_records: bool = False
    """Keep the records in Consul's KV, for several CAs that have the same issuer plugged in."""
    entry_namespace: str = ""
    """Take Consul ACL tokens too: one with the service identity X may become ns/THIS/sa/X; empty: take none."""


class JwtConfig(Struct, frozen=True, rename="camel"):
    """JWT-SVIDs: tokens for local programs, for where mutual TLS doesn't reach."""

    key_file: str = ""
    """The private key that signs: ECDSA P-256 or P-384, or RSA, PEM; empty: no JWT-SVIDs are issued."""
    other_key_files: tuple[str, ...] = ()
    """Keys that are trusted and don't sign: the next one, before it does."""
    lifetime: Seconds = Seconds(300)
    issuer: str = ""
    """The claim `iss`, for those who want one; empty: none."""


class Config(Struct, frozen=True, rename="camel"):
    """hostmesh-ca's configuration."""

    trust_domain: str = "cluster.local"
    lifetime: Seconds = Seconds(86400)
    """Of workload certificates."""
    min_lifetime: Seconds = Seconds(MIN_LIFETIME)
    max_lifetime: Seconds = Seconds(MAX_LIFETIME)
    """What others may ask for (`hostmesh ca cert issue`, Istio's clients)."""
    skew_margin: Seconds = Seconds(300)
    """How far in the past certificates begin."""
    server_lifetime: Seconds = Seconds(86400)
    """Of the CA's own server certificate, which renews itself at half of it."""
    state_dir: str = "/var/lib/hostmesh-ca"
    ca_files: str = ""
    """The folder of a plugged-in issuer; empty: the state directory."""
    ca_key_passphrase_file: str = ""
    """With the passphrase of encrypted CA keys; those that the CA writes are encrypted then."""
    admin_socket: str = "/run/hostmesh-ca/admin.sock"
    enrolment: Listener = Listener(15012)
    renewal: Listener = Listener(15013)
    server_names: ServerNames = ServerNames()
    metrics: Listener = Listener(15014)
    """Prometheus metrics and /healthz, by plain HTTP; nothing there is secret."""
    limits: RateLimits = RateLimits()
    consul: ConsulAccess = ConsulAccess()
    grace_renewal: Seconds = Seconds(86400)
    """How long after its end a certificate may still renew, once; 0s: never."""
    jwt: JwtConfig = JwtConfig()

    @property
    def listeners(self) -> dict[str, Listener]:
        """Return the ports by their settings' names."""
        return {"enrolment": self.enrolment, "renewal": self.renewal, "metrics": self.metrics}


def load_config(path: Path) -> Config:
    """Read and check the file; raises ConfigError with one line for each fault."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
    return parse_config({} if document is None else document, str(path))


def parse_config(document: object, source: str) -> Config:
    """Check a parsed document; raises ConfigError with one line for each fault, `source` in front."""
    problems: list[str] = []
    config = _convert(Config, document, "", problems)
    assert isinstance(config, Config)
    problems += _faults(config)
    if problems:
        raise ConfigError([f"{source}: {problem}" for problem in problems])
    return config


def _convert(kind: type[Struct], document: object, where: str, problems: list[str]) -> Struct:
    """Convert field by field, so that one wrong field does not hide the others; a wrong field gets its default."""
    if not isinstance(document, Mapping):
        problems.append(f"{where.rstrip('.') or 'the file'}: must be a mapping of settings")
        document = {}
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    problems += [
        f"{where}{name}: unknown setting (known here: {', '.join(known)})" for name in document if name not in known
    ]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, field in known.items():
        field_type = types[field.name]
        if name not in document:
            continue
        if isinstance(field_type, type) and issubclass(field_type, Struct):
            values[field.name] = _convert(field_type, document[name], f"{where}{name}.", problems)
            continue
        try:
            values[field.name] = msgspec.convert(document[name], field_type, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{where}{name}: {str(error).replace(' - at `$', ' at `')}")
    if kind is Listener and "port" not in values:
        if "port" not in document:
            problems.append(f"{where}port: is missing")
        values["port"] = 0
    return kind(**values)


def _decode(kind: type, value: object) -> object:
    if kind is Seconds:
        return Seconds.from_text(value)
    raise NotImplementedError(kind)


def _faults(config: Config) -> list[str]:
    faults = []
    if not is_trust_domain(config.trust_domain):
        faults.append(f"trustDomain: {config.trust_domain!r} may have small letters, digits, dots, dashes, underscores")
    faults += _lifetime_faults(config)
    if config.skew_margin > 3600:
        faults.append("skewMargin: must be at most 1h")
    for name, listener in config.listeners.items():
        if not 0 <= listener.port <= 65535:
            faults.append(f"{name}.port: {listener.port} is not a port (0-65535; 0 takes any free one)")
        if not _is_ip(listener.address):
            faults.append(f"{name}.address: {listener.address!r} is not an IP address")
    ports = [listener.port for listener in config.listeners.values() if listener.port]
    if len(ports) != len(set(ports)):
        faults.append(f"{', '.join(f'{name}.port' for name in config.listeners)}: must differ from each other")
    for name, rate in (("perCaller", config.limits.per_caller), ("total", config.limits.total)):
        if not (rate.per_second > 0 and rate.burst >= 1):
            faults.append(f"limits.{name}: perSecond must be more than 0 and burst at least 1")
    faults += _consul_faults(config.consul)
    faults += _jwt_faults(config.jwt)
    if config.grace_renewal > KEEP_ENDED:
        faults.append(f"graceRenewal: must be at most {KEEP_ENDED // 86400}d: so long records are kept")
    faults += [f"serverNames.dns: {name!r} is not a DNS name" for name in config.server_names.dns if not _is_dns(name)]
    faults += [f"serverNames.ips: {ip!r} is not an IP address" for ip in config.server_names.ips if not _is_ip(ip)]
    paths = {
        "stateDir": config.state_dir,
        "adminSocket": config.admin_socket,
        "caFiles": config.ca_files or "/",
        "caKeyPassphraseFile": config.ca_key_passphrase_file or "/",
    }
    for name, path in paths.items():
        if not path.startswith("/"):
            faults.append(f"{name}: {path!r} must be an absolute path")
    return faults


def _lifetime_faults(config: Config) -> list[str]:
    faults = []
    shortest, longest = config.min_lifetime, config.max_lifetime
    if not MIN_LIFETIME <= shortest <= longest <= MAX_LIFETIME:
        faults.append(
            f"minLifetime, maxLifetime: must be from {MIN_LIFETIME:.0f}s to {MAX_LIFETIME / 86400:.0f}d, in this order"
        )
        shortest, longest = Seconds(MIN_LIFETIME), Seconds(MAX_LIFETIME)
    if not shortest <= config.lifetime <= longest:
        faults.append(f"lifetime: must be from {shortest:.0f}s to {longest / 86400:g}d (minLifetime, maxLifetime)")
    if not MIN_LIFETIME <= config.server_lifetime <= MAX_LIFETIME:
        faults.append(f"serverLifetime: must be from {MIN_LIFETIME:.0f}s to {MAX_LIFETIME / 86400:.0f}d")
    return faults


def _consul_faults(consul: ConsulAccess) -> list[str]:
    faults = []
    if consul.address and not consul.address.startswith(("http://", "https://")):
        faults.append(f"consul.address: {consul.address!r} must begin with http:// or https://")
    if not consul.address and (consul.shared_records or consul.entry_namespace):
        faults.append("consul.address: is missing, but sharedRecords or entryNamespace need it")
    if consul.entry_namespace and not is_namespace(consul.entry_namespace):
        faults.append(f"consul.entryNamespace: {consul.entry_namespace!r} is not a namespace")
    return faults


def _jwt_faults(jwt: JwtConfig) -> list[str]:
    faults = []
    if not MIN_JWT_LIFETIME <= jwt.lifetime <= MAX_JWT_LIFETIME:
        limits = f"{MIN_JWT_LIFETIME:.0f}s to {MAX_JWT_LIFETIME / 3600:.0f}h"
        faults.append(f"jwt.lifetime: must be from {limits}: a token can't be revoked, only end")
    for path in (*((jwt.key_file,) if jwt.key_file else ()), *jwt.other_key_files):
        if not path.startswith("/"):
            faults.append(f"jwt.keyFile, jwt.otherKeyFiles: {path!r} must be an absolute path")
    if len(jwt.issuer) > 255 or not jwt.issuer.isprintable():
        faults.append("jwt.issuer: must be at most 255 printable characters")
    return faults


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_dns(text: str) -> bool:
    return _DNS_NAME.fullmatch(text) is not None
