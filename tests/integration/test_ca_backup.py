"""`hostmesh-ca backup` of a CA that runs and issues, `hostmesh-ca restore`, and what neither takes."""

from __future__ import annotations

import asyncio
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.adapters.identity import new_key
from agent.adapters.identity.administration import CaAdministration
from agent.mesh.service import Identity
from node_ca.cli import main
from node_ca.state_folder import RESTORED, RESTORING
from tests.integration.ca_process import CaProcess
from tests.unit.ca_files import Shape, files_of, make_ca, write_files

REVIEWS = Identity("default", "reviews")


def hostmesh_ca(ca: CaProcess, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["--config", str(ca.config), *map(str, arguments)])


def restored(ca: CaProcess, folder: Path, backup: Path) -> CaProcess:
    """Return another CA, on the same ports, with the backup in its state directory."""
    other = CaProcess(folder)
    other.enrolment_port, other.renewal_port = ca.enrolment_port, ca.renewal_port
    text = ca.config.read_text().replace(str(ca.directory), str(folder))
    other.config.write_text(text)
    result = hostmesh_ca(other, "restore", backup)
    assert (result.exit_code, result.output) == (0, f"{folder}/state: restored from {backup}\n")
    return other


async def test_a_backup_of_a_busy_ca_is_a_ca(tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    with CaProcess(tmp_path / "ca") as ca:
        first = await ca.client().enrol(REVIEWS, new_key(), ca.token(uses=100))
        unused = ca.token()
        administration = CaAdministration(str(ca.socket))
        administration.prepare_root({}, 0)
        administration.activate_root("", "", force=True)
        gone = await ca.client().renew(REVIEWS, new_key(), first.certificate, first.trust_bundle_pem + ca_roots(ca))
        serial = f"{gone.leaf.serial:0>32}"
        administration.revoke(serial, "", "")

        busy = asyncio.create_task(keep_enrolling(ca))
        result = await asyncio.to_thread(hostmesh_ca, ca, "backup", backup)
        busy.cancel()
        await asyncio.wait([busy])
        assert (result.exit_code, result.output) == (0, f"{backup}: has the CA's keys and records\n")
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        states = [root.state for root in administration.roots()[0]]
    shutil.rmtree(ca.directory / "state")

    with restored(ca, tmp_path / "other", backup) as other:
        administration = CaAdministration(str(other.socket))
        assert [root.state for root in administration.roots()[0]] == states == ["retiring", "active"]
        assert administration.certificates(serial=serial)[0].revoked_at
        roots = ca_roots(other)
        again = await other.client().renew(REVIEWS, new_key(), first.certificate, roots)
        assert len(again.trust_bundle_pem) == len(roots), "both, in whatever order"
        assert len(administration.list_tokens()) >= 2
        assert unused.split(".")[1] in {token.id for token in administration.list_tokens()}


def ca_roots(ca: CaProcess) -> bytes:
    """Return the roots' certificates by its state directory."""
    state = ca.directory / "state"
    return b"".join(sorted(path.read_bytes() for path in state.rglob("ca-cert.pem")))


async def keep_enrolling(ca: CaProcess) -> None:
    while True:
        administration = CaAdministration(str(ca.socket))
        await asyncio.to_thread(administration.create_token, REVIEWS.path, 60, 1)


def test_a_plugged_in_issuer_is_in_the_backup(tmp_path: Path) -> None:
    root = make_ca("their root")
    files = files_of(make_ca("their issuer", root, Shape(path_length=0)), root)
    given, backup = write_files(tmp_path / "cacerts", files), tmp_path / "backup.tar"
    with CaProcess(tmp_path / "ca", caFiles=str(given)) as ca:
        assert hostmesh_ca(ca, "backup", backup).exit_code == 0
    with restored(ca, tmp_path / "other", backup) as other:
        (info,) = CaAdministration(str(other.socket)).roots()[0]
        assert (info.subject, info.state) == ("CN=their issuer", "active")


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaProcess, Path]:
    """Return a CA that ran once, and its backup."""
    folder = tmp_path_factory.mktemp("backed-up")
    with CaProcess(folder / "ca") as ca:
        assert hostmesh_ca(ca, "backup", folder / "backup.tar").exit_code == 0
    return ca, folder / "backup.tar"


def test_a_state_directory_in_use_or_full_is_not_touched(backed_up: tuple[CaProcess, Path]) -> None:
    ca, backup = backed_up
    before = sorted(path.name for path in (ca.directory / "state").iterdir())
    result = hostmesh_ca(ca, "restore", backup)
    assert result.exit_code == 1
    assert "has a CA's state already" in result.output
    with ca:
        assert "another hostmesh-ca is using it" in hostmesh_ca(ca, "restore", backup).output
    assert sorted(path.name for path in (ca.directory / "state").iterdir()) == before


def damaged(backup: Path, folder: Path, change: str) -> Path:
    """Return a copy of the backup with a fault."""
    made = folder / "damaged.tar"
    if change == "cut":
        made.write_bytes(backup.read_bytes()[:3000])
        return made
    if change == "nonsense":
        made.write_bytes(b"nonsense" * 1000)
        return made
    with tarfile.open(backup) as old, tarfile.open(made, "w") as new:
        for member in old:
            content = old.extractfile(member)
            if change == "climbs" and member.name == "issuers.json":
                member.name = "../escaped"
            if change == "no key" and member.name.endswith("ca-key.pem"):
                continue
            if change == "no marker" and member.name == "hostmesh-ca-backup.json":
                continue
            new.addfile(member, content)
    return made


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("cut", "is damaged"),
        ("nonsense", "is not a backup of hostmesh-ca"),
        ("climbs", "it has '../escaped'"),
        ("no key", "ca-key.pem: missing"),
        ("no marker", "is not a backup of hostmesh-ca"),
    ],
)
def test_what_is_no_whole_backup_changes_nothing(
    backed_up: tuple[CaProcess, Path], tmp_path: Path, change: str, reason: str
) -> None:
    ca = CaProcess(tmp_path / "ca")
    result = hostmesh_ca(ca, "restore", damaged(backed_up[1], tmp_path, change))
    assert result.exit_code == 1
    assert reason in result.output
    assert len(result.output.splitlines()) == 1
    assert [path.name for path in (ca.directory / "state").iterdir()] == ["lock"]
    assert not (tmp_path / "ca/escaped").exists()


def test_another_trust_domains_backup_is_refused(backed_up: tuple[CaProcess, Path], tmp_path: Path) -> None:
    ca = CaProcess(tmp_path / "ca", trustDomain="other.example")
    assert (
        "is of trust domain cluster.local, ca.yaml says other.example"
        in hostmesh_ca(ca, "restore", backed_up[1]).output
    )


@pytest.mark.parametrize("moment", ["before it was whole", "while it was moved"])
def test_a_restore_that_was_cut_off(backed_up: tuple[CaProcess, Path], tmp_path: Path, moment: str) -> None:
    ca = CaProcess(tmp_path / "ca")
    assert hostmesh_ca(ca, "restore", backed_up[1]).exit_code == 0
    state = ca.directory / "state"
    if moment == "while it was moved":
        (state / RESTORED).mkdir()
        (state / "inventory.db").rename(state / RESTORED / "inventory.db")
    else:
        for path in [path for path in state.iterdir() if path.name != "lock"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (state / RESTORING).mkdir()
        (state / RESTORING / "inventory.db").write_bytes(b"half")
        assert hostmesh_ca(ca, "restore", backed_up[1]).exit_code == 0
    with ca:
        assert len(CaAdministration(str(ca.socket)).roots()[0]) == 1
    assert not list(state.glob(".rest*"))


def test_a_backup_of_nothing_is_told(tmp_path: Path) -> None:
    ca = CaProcess(tmp_path / "ca")
    done = subprocess.run(ca.command("backup", str(tmp_path / "b")), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "was hostmesh-ca started ever?" in done.stderr
