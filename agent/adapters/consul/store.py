"""KV as the command line uses it: rule documents, mesh settings, node statuses.

Synchronous; the daemon never imports this.

Every write is a check-and-set; several documents go in one transaction, all or nothing, up to Consul's limits. Knows
keys and bytes only: what is in a document is `agent.api`'s business.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import consul
import msgspec
import requests
from consul.exceptions import ConsulException
from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.kv import decode_values
from agent.adapters.consul.transport import refusal_of, unavailable
from agent.errors import ConflictError, ConsulRefused, ConsulUnavailable, HostmeshError, PartialWrite
from agent.mesh.names import KV_CONFIG, KV_MESH, KV_STATUS, status_key, ticket_key
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus

MAX_OPERATIONS = 64
MAX_REQUEST = 512 * 2**10
"""Consul's limits of one transaction (`/v1/txn`, `txn_max_req_len`), and of one value."""
NOT_FOUND, CONFLICT = 404, 409
PATIENCE = 5.0
"""Seconds for a connection, and then for an answer's next byte; a blocking query's wait comes on top."""
_T = TypeVar("_T")


class Stored(Struct, frozen=True, order=True):
    """A document as it stands in KV."""

    key: str
    value: bytes
    revision: int
    """Consul's ModifyIndex."""


class Written(Struct, frozen=True):
    """What became of one key."""

    key: str
    action: str
    """created, replaced, unchanged or deleted."""
    revision: int
    """Its ModifyIndex now; of a deleted one, the last it had."""


class KvConnection:
    """py-consul's synchronous client with hostmesh's errors and limits; token and TLS as the address says."""

    def __init__(self, address: ConsulAddress) -> None:
        self._url = address.url
        if address.scheme == "https":
            address.ssl_context()  # names a file that can't be used; requests would end in a bare OSError
        certificate = (address.client_cert, address.client_key) if address.client_key else address.client_cert or None
        verify = (address.ca_file or True) if address.verify else False
        self.api: Any = consul.Consul(
            host=address.host,
            port=address.port,
            scheme=address.scheme,
            verify=verify,
            cert=certificate,
            connections_timeout=PATIENCE,
        )
        self.api.http.session.trust_env = False  # Consul is never behind a web proxy
        self.api.token = address.token or None  # py-consul would prefer CONSUL_HTTP_TOKEN to what the caller says

    def call(self, request: Callable[[], _T]) -> _T:
        """Return what the py-consul call returns; raises ConsulUnavailable or ConsulRefused."""
        try:
            return request()
        except requests.ReadTimeout as error:
            silent = TimeoutError(f"it takes connections, but has not answered within {PATIENCE:g} s")
            raise unavailable(self._url, silent) from error
        except requests.RequestException as error:
            raise unavailable(self._url, _innermost(error)) from error
        except ConsulException as error:
            raise ConsulRefused(f"Consul at {self._url}: {str(error)[:300] or type(error).__name__}") from error

    def send(self, method: str, path: str, params: Iterable[tuple[str, Any]] = (), data: str | bytes = "") -> Any:
        """Return py-consul's Response (code, headers, body) of a status below 400, of 404 and of 409."""
        http = self.api.http
        extra = {} if method == "get" else {"data": data}
        headers = self.api.prepare_headers()
        answer = self.call(
            lambda: getattr(http, method)(lambda it: it, path, params=list(params), headers=headers, **extra)
        )
        refusal = refusal_of(answer.code, self._url + path, answer.body.encode())
        if refusal and answer.code != CONFLICT:
            raise refusal
        has_index = not path.startswith(("/v1/agent/", "/v1/status/"))
        if method == "get" and has_index and "X-Consul-Index" not in answer.headers:
            # Another server's 404 would read as "there are none".
            raise ConsulRefused(f"{self._url} answers, but not as Consul does (GET {path}: {answer.code})")
        return answer

    def read(self, prefix: str) -> list[Stored]:
        """Return every key under the prefix, sorted."""
        return _stored(self.send("get", f"/v1/kv/{prefix}", [("recurse", "true")]))

    def read_one(self, key: str) -> Stored | None:
        """Return one key, or None if there is none."""
        answer = self.send("get", f"/v1/kv/{key}")
        if answer.code == NOT_FOUND:
            return None
        values = decode_values(answer.body.encode())
        return Stored(key, values[key][1], values[key][0]) if key in values else None


def _stored(answer: Any) -> list[Stored]:
    values = decode_values(answer.body.encode() if answer.code != NOT_FOUND else b"[]")
    return sorted(Stored(key, value, revision) for key, (revision, value) in values.items())


class RuleStore:
    """The rule documents under `hostmesh/config/`. Keys are `names.config_key(…)`.

    Every method raises ConsulUnavailable or ConsulRefused; writes also ConflictError (nothing was written) and
    PartialWrite (more documents than one transaction takes, and a later one failed).
    """

    def __init__(self, address: ConsulAddress) -> None:
        self._kv = KvConnection(address)

    def get(self, key: str) -> Stored | None:
        """Return a document, or None."""
        return self._kv.read_one(key)

    def list(self, prefix: str = KV_CONFIG) -> tuple[Stored, ...]:
        """Return all documents whose keys begin with the prefix, by key."""
        return tuple(self._kv.read(prefix))

    def create(self, documents: Mapping[str, bytes]) -> tuple[Written, ...]:
        """Write documents of which none may exist."""
        present = self._present(documents)
        if present:
            raise ConflictError(f"{object_name(min(present))} exists already; use replace or apply")
        return self._write([_Change(key, "created", 0, value) for key, value in documents.items()])

    def replace(
        self, documents: Mapping[str, bytes], revisions: Mapping[str, int] | None = None
    ) -> tuple[Written, ...]:
        """Write documents that all must exist, and at the given revisions where one is given."""
        present = self._present(documents)
        for key in documents:
            if key not in present:
                raise ConflictError(f"{object_name(key)} does not exist; use create or apply")
            expected = (revisions or {}).get(key, present[key].revision)
            if expected != present[key].revision:
                raise ConflictError(
                    f"{object_name(key)} was changed meanwhile "
                    f"(revision {present[key].revision}, not {expected}); get it again"
                )
        return self._write([_Change(key, "replaced", present[key].revision, value) for key, value in documents.items()])

    def apply(self, documents: Mapping[str, bytes]) -> tuple[Written, ...]:
        """Write documents whether they exist or not; what stands there already is left alone."""
        present = self._present(documents)
        changes, result = [], {}
        for key, value in documents.items():
            old = present.get(key)
            if old and old.value == value:
                result[key] = Written(key, "unchanged", old.revision)
            else:
                changes.append(_Change(key, "replaced" if old else "created", old.revision if old else 0, value))
        result |= {written.key: written for written in self._write(changes)}
        return tuple(result[key] for key in documents)

    def delete(self, keys: Iterable[str]) -> tuple[Written, ...]:
        """Delete documents that all must exist."""
        keys = list(dict.fromkeys(keys))
        present = self._present(keys)
        for key in keys:
            if key not in present:
                raise ConflictError(f"{object_name(key)} does not exist; look with get")
        return self._write([_Change(key, "deleted", present[key].revision, None) for key in keys])

    def _present(self, keys: Iterable[str]) -> dict[str, Stored]:
        found = (self._kv.read_one(key) for key in keys)
        return {stored.key: stored for stored in found if stored}

    def _write(self, changes: Sequence[_Change]) -> tuple[Written, ...]:
        done: list[Written] = []
        for chunk in chunks(changes):
            try:
                done += write_chunk(self._kv, chunk)
            except HostmeshError as error:
                if not done:
                    raise
                rest = [object_name(change.key) for change in changes[len(done) :]]
                left = f"not written: {', '.join(rest)}"
                text = f"{len(done)} of {len(changes)} documents were written, then: {error}; {left}"
                raise PartialWrite(text, tuple(written.key for written in done)) from error
        return tuple(done)


class SettingsStore:
    """The mesh settings document, `hostmesh/mesh`."""

    def __init__(self, address: ConsulAddress) -> None:
        self._kv = KvConnection(address)

    def get(self) -> Stored | None:
        """Return the document, or None: the defaults hold."""
        return self._kv.read_one(KV_MESH)

    def set(self, value: bytes, revision: int) -> int:
        """Write the document if it is at that revision (0: absent) and return the new one; raises ConflictError."""
        return write_chunk(self._kv, [_Change(KV_MESH, "replaced", revision, value)])[0].revision


class NodeStatuses:
    """What the agents say of themselves, under `hostmesh/status/`."""

    def __init__(self, address: ConsulAddress) -> None:
        self._kv = KvConnection(address)

    def read(self) -> tuple[list[NodeStatus], list[Fault]]:
        """Return the documents of all living agents by node, and the keys that hold something else."""
        return self._decode(self._kv.read(KV_STATUS))

    def get(self, node: str) -> NodeStatus | None:
        """Return a node's document, None if its agent does not report; raises ConsulRefused if it is none."""
        stored = self._kv.read_one(status_key(node))
        statuses, faults = self._decode([stored] if stored else [])
        if faults:
            raise ConsulRefused(f"{faults[0].subject} {faults[0].reason}")
        return statuses[0] if statuses else None

    def watch(self, index: int, seconds: float) -> tuple[int, list[NodeStatus]]:
        """Return (index, documents) once they are newer than `index`, or unchanged after about that long."""
        wait = [("index", str(index)), ("wait", f"{max(1, int(seconds * 1000))}ms")] if index else []
        answer = self._kv.send("get", f"/v1/kv/{KV_STATUS}", [("recurse", "true"), *wait])
        statuses, _ = self._decode(_stored(answer))
        return max(1, int(answer.headers["X-Consul-Index"])), statuses

    def _decode(self, found: Iterable[Stored]) -> tuple[list[NodeStatus], list[Fault]]:
        statuses, faults = [], []
        for stored in found:
            try:
                statuses.append(msgspec.json.decode(stored.value, type=NodeStatus))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                faults.append(Fault(stored.key, f"is no status document: {error}"))
        return statuses, faults


class TicketStore:
    """An operator's tickets for a node's agent, under `hostmesh/tickets/<node>/`."""

    def __init__(self, address: ConsulAddress, node: str) -> None:
        self._kv, self._node = KvConnection(address), node

    def put(self, ticket: str, value: bytes) -> None:
        """Write a ticket."""
        self._kv.send("put", f"/v1/kv/{ticket_key(self._node, ticket)}", data=value)

    def delete(self, ticket: str) -> None:
        """Take a ticket away, whether it is there or not."""
        self._kv.send("delete", f"/v1/kv/{ticket_key(self._node, ticket)}")


class _Change(Struct, frozen=True):
    key: str
    action: str
    revision: int
    value: bytes | None

    @property
    def operation(self) -> dict[str, Any]:
        body: dict[str, Any] = {"Key": self.key, "Index": self.revision}
        if self.value is None:
            return {"KV": {"Verb": "delete-cas", **body}}
        return {"KV": {"Verb": "cas", **body, "Value": base64.b64encode(self.value).decode("ascii")}}


def chunks(changes: Sequence[_Change]) -> list[list[_Change]]:
    """Return the changes in order, cut where Consul's limits of operations or bytes per transaction need it."""
    result: list[list[_Change]] = []
    size = 0
    for change in changes:
        length = len(json.dumps(change.operation)) + 2
        if not result or len(result[-1]) == MAX_OPERATIONS or size + length > MAX_REQUEST - 2:
            result.append([])
            size = 0
        result[-1].append(change)
        size += length
    return result


def write_chunk(kv: KvConnection, chunk: list[_Change]) -> tuple[Written, ...]:
    """Write one transaction; raises ConflictError naming the object whose check-and-set failed."""
    body = json.dumps([change.operation for change in chunk])
    if len(body) > MAX_REQUEST:
        return (_write_large(kv, chunk[0]),)
    answer = kv.send("put", "/v1/txn", data=body)
    content = json.loads(answer.body)
    if answer.code == CONFLICT:
        failure = content["Errors"][0]
        raise _conflict(chunk[failure["OpIndex"]], failure["What"])
    revisions = {item["KV"]["Key"]: item["KV"]["ModifyIndex"] for item in content["Results"] or ()}
    return tuple(Written(change.key, change.action, revisions.get(change.key, change.revision)) for change in chunk)


def _write_large(kv: KvConnection, change: _Change) -> Written:
    """Write one document whose base64 form is past the transaction's limit; its own limit is Consul's for a value."""
    value = change.value or b""
    if len(value) > MAX_REQUEST:
        raise ConsulRefused(f"{object_name(change.key)} has {len(value)} bytes; Consul takes {MAX_REQUEST}: shorten it")
    answer = kv.send("put", f"/v1/kv/{change.key}", [("cas", change.revision)], data=value)
    if answer.body.strip() != "true":
        raise _conflict(change, "the check-and-set failed")
    stored = kv.read_one(change.key)
    if stored is None:
        raise ConsulUnavailable(f"{object_name(change.key)} was deleted by somebody else right after it was written")
    return Written(change.key, change.action, stored.revision)


def _conflict(change: _Change, what: str) -> ConflictError:
    return ConflictError(
        f"{object_name(change.key)} was changed by somebody else meanwhile ({what}); look and try again"
    )


def _innermost(error: BaseException) -> BaseException:
    """Return the operating system's own error under requests' and urllib3's, whose texts repeat it thrice."""
    inner = error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.strerror:
        return OSError(error.strerror)
    return error if inner is None else _innermost(inner)


def object_name(key: str) -> str:
    """Return a rule object's name for messages: `routerule/x.default`; any other key is its own name."""
    parts = key.removeprefix(KV_CONFIG).split("/")
    if not key.startswith(KV_CONFIG) or len(parts) != 3:
        return key
    return f"{parts[1]}/{parts[2]}.{parts[0]}"
