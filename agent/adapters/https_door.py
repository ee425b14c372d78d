"""Answers single questions by HTTPS: one to a connection, all of it bounded in number, time and size.

Nobody outside can make it take more than these bounds from the agent, whose event loop it shares. The certificate is
made at the start and lives in memory only. Knows nothing of what is asked or who may.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from ipaddress import ip_address, ip_network

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

from agent.errors import HostError

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
HEAD_SECONDS = 10.0
"""From the handshake to the end of the question."""
ANSWER_SECONDS = 60.0
MAX_HEAD = 8 * 2**10
MAX_CONNECTIONS = 32
MAX_OF_SOURCE = 8
BURST, PER_SECOND = 20.0, 2.0
"""Connections that one source may open: at once, and then."""
BURST_OF_ALL, PER_SECOND_OF_ALL = 200.0, 50.0
REFUSAL_COST = 5.0
"""What a refused question takes from the source's allowance: guessing ends after a few."""
MAX_SOURCES = 1024
_CERTIFICATE_DAYS = 3650
"""It is believed for its fingerprint alone, and gone with the process."""


class Question(Struct, frozen=True):
    """What was asked."""

    path: str
    authorization: str
    source: str
    """The address it comes from."""


class Reply:
    """The answer to one question, written whole or piece by piece."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.status = 0

    async def say(self, status: HTTPStatus, text: str) -> None:
        """Answer with one line."""
        await self.begin(status, "text/plain; charset=utf-8")
        await self.write(f"{text}\n".encode())
        await self.end()

    async def begin(self, status: HTTPStatus, content_type: str) -> None:
        """Begin an answer in pieces."""
        self.status = status
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        self._writer.write(f"{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await self._writer.drain()

    async def write(self, piece: bytes) -> None:
        """Write a piece and wait until there is room for another."""
        if piece:
            self._writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await self._writer.drain()

    async def end(self) -> None:
        """End the answer; one that is not ended tells the reader that it was cut off."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


class HttpsDoor:
    """Listens on one address; `answer` gets each question."""

    def __init__(self, answer: Callable[[Question, Reply], Awaitable[None]]) -> None:
        self._answer = answer
        self._tls, self.fingerprint = _new_identity()
        self._listener: socket.socket | None = None
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._allowances: dict[str, Allowance] = {}
        self._allowance_of_all = Allowance(BURST_OF_ALL, PER_SECOND_OF_ALL)

    def listen(self, address: str, port: int) -> None:
        """Begin to listen; raises HostError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(MAX_CONNECTIONS)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise HostError(f"cannot listen on {address} port {port}: {error.strerror or error}") from error
        self._listener = listener

    async def run(self) -> None:
        """Take connections until cancelled."""
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("operator port: no connection can be taken: %s", error)
                await asyncio.sleep(1.0)
                continue
            source = _source(str(peer[0]))
            if not self._admits(source, loop.time()):
                connection.close()
                continue
            self._open[source] += 1
            task = asyncio.create_task(self._serve(connection, str(peer[0]), source), name=f"operator {source}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _admits(self, source: str, now: float) -> bool:
        if self._open[source] >= MAX_OF_SOURCE or self._open.total() >= MAX_CONNECTIONS:
            return False
        return self._allowance(source).spend(1.0, now) and self._allowance_of_all.spend(1.0, now)

    def _allowance(self, source: str) -> Allowance:
        found = self._allowances.pop(source, None) or Allowance(BURST, PER_SECOND)
        self._allowances[source] = found  # the last in order: whom we have not heard of for longest is forgotten first
        if len(self._allowances) > MAX_SOURCES:
            del self._allowances[next(iter(self._allowances))]
        return found

    async def _serve(self, connection: socket.socket, address: str, source: str) -> None:
        transport = None
        reader = asyncio.StreamReader(limit=MAX_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._reply(head, address, source, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("operator port: %s: %r", address, error)
        except Exception:
            # A flaw of ours must cost this answer only: the agent goes on.
            log.exception("operator port: the answer to %s failed", address)
        finally:
            if transport is not None:
                transport.abort()
            self._open -= Counter({source: 1})

    async def _reply(self, head: bytes, address: str, source: str, writer: asyncio.StreamWriter) -> None:
        reply = Reply(writer)
        question = _parse(head, address)
        if question is None:
            await reply.say(HTTPStatus.BAD_REQUEST, "this port answers `hostmesh proxy-config` and its like only")
        else:
            await self._answer(question, reply)
        if reply.status in (HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST):
            self._allowance(source).charge(REFUSAL_COST, asyncio.get_running_loop().time())


class Allowance:
    """How much somebody may do: a burst at once, and then so much per second."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left = burst
        self._since: float | None = None

    def spend(self, amount: float, now: float) -> bool:
        """Take that much if it is there, and tell whether it was; times in seconds."""
        self._refill(now)
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def charge(self, amount: float, now: float) -> None:
        """Take that much, whether it is there or not."""
        self._refill(now)
        self._left = max(-self._burst, self._left - amount)

    def _refill(self, now: float) -> None:
        if self._since is not None:
            self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now


def _parse(head: bytes, address: str) -> Question | None:
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        method, path, version = first.split(" ")
    except ValueError:
        return None
    if method != "GET" or not version.startswith("HTTP/1.") or not path.startswith("/"):
        return None
    fields = (line.partition(":") for line in lines)
    found = [value.strip() for name, _, value in fields if name.lower() == "authorization"]
    return Question(path, found[0] if len(found) == 1 else "", address)


def _source(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or the network of an IPv6 host, which has many addresses."""
    parsed = ip_address(address.partition("%")[0])
    return str(parsed) if parsed.version == 4 else str(ip_network((parsed, 64), strict=False))


def _new_identity() -> tuple[ssl.SSLContext, str]:
    """Return a server's context with a fresh key and certificate, and the certificate's SHA-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostmesh-agent")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # one question a connection: nobody comes back
    # Python's ssl reads files only; this one has no name on any disk.
    file = os.memfd_create("hostmesh-operator")
    try:
        os.write(file, pem)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context, sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
