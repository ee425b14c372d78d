"""What is valid becomes something that a real Envoy accepts: real files with parts of others, or odd values, in them.

Hundreds of documents at once, each with a namespace of its own; what Envoy refuses is looked for by halves.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from msgspec import structs

from agent.api.document import Document, read_documents
from agent.api.validate import validate
from agent.mesh.gateway import Credential
from agent.mesh.snapshot import Certificate
from agent.mesh.trust import TrustBundle
from agent.translate.plan import Planner
from agent.translate.static import static_bootstrap
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY
from tests.unit.fuzzed_mesh import HOSTS, snapshot
from tests.unit.mutations import documents, mutated_document

COUNT = 400
"""Valid documents that are looked at in one run."""
SEED = 20261120
_FILES = {
    "clientCertificate": "cert-chain.pem",
    "serverCertificate": "cert-chain.pem",
    "privateKey": "key.pem",
    "caCertificates": "root-cert.pem",
}


@pytest.fixture(scope="module")
def valid() -> list[Document]:
    """Return every valid real document, and as many more that are so with something in them changed."""
    random = Random(SEED)
    found = [one for number, plain in enumerate(documents()) if (one := _valid(plain, number)) is not None]
    number = len(found)
    while len(found) < 2 * COUNT:
        number += 1
        if (one := _valid(mutated_document(random, most=2), 10_000 + number)) is not None:
            found.append(one)
    return random.sample(found, COUNT)


@pytest.mark.parametrize("host", HOSTS)
def test_envoy_accepts_what_is_valid(host: str, valid: list[Document], tmp_path: Path) -> None:
    authority = TestAuthority()
    folder = authority.write_for_host(tmp_path / "certificates", "host")
    pems = [(folder / name).read_bytes() for name in ("key.pem", "cert-chain.pem", "root-cert.pem")]

    def refused(some: Sequence[Document]) -> str:
        """Return why Envoy refuses what these documents come to, or nothing."""
        credentials = {name: Credential(*pems) for one in some for name in _credentials(one.spec)}
        mesh = snapshot([structs.replace(one, spec=_with_files(one.spec, folder)) for one in some], credentials)
        own = dict.fromkeys(mesh.certificates, Certificate(pems[0], pems[1]))
        mesh = structs.replace(mesh, certificates=own, trust=TrustBundle(pems[2]))
        desired = Planner().plan(mesh, HOSTS[host])
        assert desired.dangling == ()
        path = tmp_path / "envoy.json"
        path.write_bytes(static_bootstrap(desired, "n"))
        return _verdict(path)

    if reason := refused(valid):
        culprit = _culprit(valid, refused)
        pytest.fail(f"{reason}\n{[(one.kind, dict(one.spec)) for one in culprit]}")


def _valid(plain: Any, number: int) -> Document | None:
    """Return the document, under its own name in its own namespace, if all of it can be enforced."""
    text = yaml.safe_dump(plain, allow_unicode=True)
    found, problems = read_documents(text, "x.yaml", f"n{number}")
    if problems or len(found) != 1:
        return None
    return None if validate(found[0]) else structs.replace(found[0], namespace=f"n{number}", name=f"o{number}")


def _with_files(spec: Any, folder: Path) -> Any:
    """Return the spec with the files that it names for TLS being there."""
    if isinstance(spec, list):
        return [_with_files(item, folder) for item in spec]
    if not isinstance(spec, dict):
        return spec
    real = {key: str(folder / _FILES[key]) for key, value in spec.items() if value and key in _FILES}
    return {key: real.get(key) or _with_files(value, folder) for key, value in spec.items()}


def _credentials(spec: Any) -> set[str]:
    """Return every `credentialName` in it."""
    if isinstance(spec, list):
        return {name for item in spec for name in _credentials(item)}
    if not isinstance(spec, dict):
        return set()
    own = {value for key, value in spec.items() if key == "credentialName" and isinstance(value, str)}
    return own.union(*(_credentials(value) for value in spec.values()))


def _culprit(some: Sequence[Document], refused: Any) -> Sequence[Document]:
    """Return as few documents as can be found that are refused together."""
    while len(some) > 1:
        middle = len(some) // 2
        half = next((part for part in (some[:middle], some[middle:]) if refused(part)), None)
        if half is None:
            return some[:20]
        some = half
    return some


def _verdict(path: Path) -> str:
    command = [str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else done.stderr[-1500:]
