"""The lab's pure parts: what its hosts' files say, and the context that it chooses and gives back."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.adapters.files import write_atomic
from agent.cli.context_file import Context, Contexts, contexts_path, load_contexts, save_contexts
from agent.cli.lab_context import leave_lab_context, use_lab_context
from agent.config import load_config, load_workloads
from agent.lab.full_plan import HTTP_NAME, HTTPS_NAME, lab_plan
from agent.lab.host import folder_to_cover
from agent.lab.hostfiles import host_files
from agent.lab.outside import AUTHORITY, certificates
from agent.lab.plan import LabPlan, bookinfo_plan
from agent.mesh.service import Protocol, ServiceKey
from node_ca.config import load_config as load_ca_config

NSSWITCH = "passwd: files\nhosts: files mymachines resolve [!UNAVAIL=return] dns\n"


def written(plan: LabPlan, name: str, folder: Path) -> Path:
    host = next(host for host in plan.hosts if host.name == name)
    for file, text in host_files(plan, host, folder, "/bin/true", NSSWITCH).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / file, text.encode())
    return folder


def test_agent_understands_its_files(tmp_path: Path) -> None:
    folder = written(bookinfo_plan(), "reviews-v2", tmp_path)
    config = load_config(folder, tmp_path, tmp_path)
    assert (config.node, config.address, config.ca.address) == ("reviews-v2", "10.77.0.14", "10.77.0.10")
    (workload,), faults = load_workloads(folder, config.address)
    assert not faults
    assert workload.service == ServiceKey("default", "reviews")
    assert dict(workload.labels) == {"app": "reviews", "version": "v2"}
    assert workload.service_account == "bookinfo-reviews"
    assert workload.check.http_path == "/health"
    assert [(port.number, port.protocol) for port in workload.ports] == [(9080, Protocol.HTTP)]


def test_ca_understands_its_file(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(bookinfo_plan(), ca_settings={"lifetime": "10s"})
    config = load_ca_config(written(plan, "consul", tmp_path) / "ca.yaml")
    assert float(config.lifetime) == 10.0
    assert config.enrolment.address == "10.77.0.10"


def test_settings_are_laid_over_section_by_section(tmp_path: Path) -> None:
    plan = bookinfo_plan()
    changed = msgspec.structs.replace(
        plan.hosts[1], settings={"interception": {"outbound": "all"}, "proxy": {"concurrency": 2}}
    )
    plan = msgspec.structs.replace(plan, hosts=(plan.hosts[0], changed))
    config = load_config(written(plan, "productpage", tmp_path), tmp_path, tmp_path)
    assert (config.interception.outbound, config.proxy.concurrency, config.proxy.binary) == ("all", 2, "/bin/true")


def test_names_go_by_files_and_dns_only() -> None:
    plan = bookinfo_plan()
    files = host_files(plan, plan.hosts[1], Path("/run/x"), "", NSSWITCH)
    assert files["nsswitch.conf"] == "passwd: files\nhosts: files dns\n"
    assert "nameserver 127.0.0.1\n" in files["resolv.conf"]
    assert "productpage" not in files["hosts"]


def test_every_host_has_its_own_address_and_namespace() -> None:
    plan = bookinfo_plan()
    assert len({plan.address(host.name) for host in plan.hosts}) == len(plan.hosts) == 7
    assert "hostmesh-reviews-v1" in plan.namespaces
    assert plan.namespaces[-1] == "hostmesh-lab"


def test_the_whole_lab_is_bookinfo_and_more_and_leaves_bookinfo_as_it_is() -> None:
    whole, bookinfo = lab_plan(), bookinfo_plan()
    assert whole.hosts[1 : len(bookinfo.hosts)] == bookinfo.hosts[1:]
    assert whole.hosts[0] == msgspec.structs.replace(bookinfo.hosts[0], apps=whole.hosts[0].apps)
    assert [app.service for app in whole.hosts[0].apps] == ["prometheus", "servicegraph", "zipkin"]
    assert len({whole.address(host.name) for host in whole.hosts}) == len(whole.hosts)
    assert {forward.name: (forward.host, forward.target_port) for forward in whole.forwards} == {
        "page": ("productpage", 9080),
        "consul": ("consul", 8500),
        "prometheus": ("consul", 9090),
        "servicegraph": ("consul", 8088),
        "zipkin": ("consul", 9411),
        "gateway": ("gateway", 80),
        "gateway-tls": ("gateway", 443),
    }
    assert "mariadbd" in whole.programs
    assert "java" not in whole.programs  # the lab goes without a collector where it cannot run
    assert not bookinfo.programs


def test_every_host_asks_the_outside_for_other_names_and_the_outside_asks_nobody(tmp_path: Path) -> None:
    plan = lab_plan()
    address = str(plan.address("outside"))
    sleep = written(plan, "sleep", tmp_path / "sleep")
    assert f"server={address}\n" in (sleep / "dnsmasq.conf").read_text()
    assert load_config(sleep, tmp_path, tmp_path).dns.upstreams == (address,)
    outside = (written(plan, "outside", tmp_path / "outside") / "dnsmasq.conf").read_text()
    assert f"address=/{HTTP_NAME}/{address}\n" in outside
    assert f"listen-address=127.0.0.1,{address}\n" in outside
    assert "no-resolv\n" in outside


def test_the_outsides_certificates_are_what_its_authority_signed() -> None:
    files = certificates([HTTPS_NAME])
    authority, server = (x509.load_pem_x509_certificate(files[name]) for name in (AUTHORITY, f"{HTTPS_NAME}.crt"))
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HTTPS_NAME]
    key = load_pem_private_key(files[f"{HTTPS_NAME}.key"], None)
    assert key.public_key() == server.public_key()


def test_only_the_topmost_closed_folder_is_covered(tmp_path: Path) -> None:
    checkout = tmp_path / "home" / "me" / "hostmesh"
    checkout.mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:  # pytest's own folders are private
            assert folder_to_cover(checkout) is not None
    (tmp_path / "home").chmod(0o700)
    cover = folder_to_cover(checkout)
    assert cover is not None
    assert cover in (tmp_path / "home").parents or cover == tmp_path / "home"


@pytest.fixture(autouse=True)
def _own_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTMESH_CONFIG", str(tmp_path / "config" / "contexts.yaml"))


def test_context_is_chosen_and_what_was_before_comes_back() -> None:
    prod = Context(consul_address="https://consul.example:8501")
    save_contexts(contexts_path(), Contexts(current="prod", contexts={"prod": prod}))
    use_lab_context("http://127.0.0.1:9500", "/run/x/admin.sock")
    use_lab_context("http://127.0.0.1:9500", "/run/x/admin.sock")  # as after a reboot without `lab down`
    assert load_contexts(contexts_path()).current == "lab"
    leave_lab_context()
    assert load_contexts(contexts_path()) == Contexts(current="prod", contexts={"prod": prod})
    assert [path.name for path in contexts_path().parent.iterdir()] == ["contexts.yaml"]


def test_without_contexts_before_no_file_stays() -> None:
    use_lab_context("http://127.0.0.1:9500", "")
    leave_lab_context()
    leave_lab_context()
    assert not list(contexts_path().parent.iterdir())


def test_a_context_chosen_while_the_lab_was_up_stays_chosen() -> None:
    use_lab_context("http://127.0.0.1:9500", "")
    contexts = load_contexts(contexts_path())
    other = Context(consul_address="http://10.0.0.1:8500")
    save_contexts(contexts_path(), Contexts(current="other", contexts={**contexts.contexts, "other": other}))
    leave_lab_context()
    assert load_contexts(contexts_path()) == Contexts(current="other", contexts={"other": other})


def test_consul_itself_registers_what_has_no_agent(tmp_path: Path) -> None:
    folder = written(lab_plan(), "consul", tmp_path)
    (zipkin,) = json.loads((folder / "consul.json").read_text())["services"]
    assert (zipkin["name"], zipkin["address"], zipkin["port"]) == ("zipkin", "10.77.0.10", 9411)
    assert zipkin["check"]["http"] == "http://127.0.0.1:9411/health"
    assert "services" not in json.loads((written(bookinfo_plan(), "consul", tmp_path) / "consul.json").read_text())
