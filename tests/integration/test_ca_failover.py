"""A CA's machine vanishes without a word, as if its link were cut: agents go to the other CA in time."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from agent.adapters.identity import new_csr, new_key
from agent.adapters.identity.administration import CaAdministration
from tests.integration.ca_process import CaProcess
from tests.integration.netns import lan
from tests.unit.ca_files import files_of, make_ca, write_files

SECONDS = 10.0
PROGRAM = Path(__file__).with_name("ca_follower.py")


class Follower:
    """The program's lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, key: str, wanted: object = None, timeout: float = 30.0) -> Any:
        """Return the next value of that kind, or the next that has `wanted` in it."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            if key in line and (wanted is None or wanted in line[key]):
                return line[key]

    def renew(self) -> float:
        """Let it renew; return how long that took."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return float(self.until("renewed"))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))


@contextmanager
def mesh(folder: Path) -> Iterator[tuple[CaProcess, CaProcess, Follower, Any]]:
    """Two CAs with the same issuer, each on a host of its own, and an agent's part that asks the first one first."""
    given = write_files(folder / "given", files_of(make_ca("their root")))
    with ExitStack() as stack:
        hosts = stack.enter_context(lan("first", "second", "agent"))
        first, second = (
            CaProcess(folder / name, hosts[name], caFiles=str(given), serverNames={"ips": [hosts[name].v4]})
            for name in ("first", "second")
        )
        second.enrolment_port, second.renewal_port = first.enrolment_port, first.renewal_port
        second.configure(
            enrolment={"address": hosts["second"].v4, "port": first.enrolment_port},
            renewal={"address": hosts["second"].v4, "port": first.renewal_port},
        )
        for ca in (first, second):
            stack.enter_context(ca)
        (folder / "root").write_bytes((given / "root-cert.pem").read_bytes())
        (folder / "token").write_text(first.token())
        (folder / "ports").write_text(f"{first.enrolment_port} {first.renewal_port}")
        argv = (sys.executable, PROGRAM, folder, hosts["first"].v4, hosts["second"].v4)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = stack.enter_context(hosts["agent"].running(*argv, **pipes))
        yield first, second, Follower(process), hosts["first"]


def test_a_vanished_ca_costs_less_than_ten_seconds(tmp_path: Path) -> None:
    with mesh(tmp_path) as (first, second, follower, host):
        follower.until("serial")
        follower.until("revoked", revoke_one(first))
        assert follower.renew() < SECONDS
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            host.run("iptables", "-I", chain, "!", way, "lo", "-j", "DROP")
        began = time.monotonic()
        assert follower.renew() < SECONDS, "certificates, by the other one"
        follower.until("revoked", revoke_one(second))
        assert time.monotonic() - began < SECONDS, "the trust bundle, by the other one"
        follower.until("revoked", revoke_one(second), SECONDS)


def revoke_one(ca: CaProcess) -> str:
    """Let a CA issue a certificate and revoke it; return its serial number."""
    administration, identity = CaAdministration(str(ca.socket)), "ns/default/sa/gone"
    issued = administration.issue(identity, new_csr(new_key()), 0)
    serial = f"{x509.load_pem_x509_certificate(issued.chain).serial_number:032x}"
    administration.revoke(serial, "", "")
    return serial
