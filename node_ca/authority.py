"""The CA's issuers: the one that signs, the one that will, those that did. Made, loaded, changed step by step, kept.

May not decide who gets a certificate, nor when a step may be taken (rotation.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.crl import RevocationLists
from node_ca.errors import ConfigError
from node_ca.issuer_book import Entry, IssuerBook, State
from node_ca.issuer_files import CERTIFICATE_FILE, FILES, IssuerFiles, server_name_faults, time_faults
from node_ca.signer import Signer, encoded_key, self_signed
from node_ca.template import Template, Validity

ROOT_LIFETIME = 3650 * 86400.0
"""Seconds."""
_SET_BACK = 3600.0


@dataclass(frozen=True)
class Plugin:
    """What is given to the CA instead of a root of its own making."""

    folder: Path | None = None
    """Where its files are; None: the state directory, if they are there."""
    passphrase: bytes | None = None
    """Of encrypted keys, those that the CA writes too."""
    server_names: tuple[x509.GeneralName, ...] = ()
    """What the CA's own server certificate must be for."""

    @classmethod
    def read(cls, folder: str, passphrase_file: str, server_names: tuple[x509.GeneralName, ...] = ()) -> Plugin:
        """Return what the configuration names, empty for nothing; raises ConfigError."""
        try:
            passphrase = Path(passphrase_file).read_bytes().rstrip(b"\r\n") if passphrase_file else None
        except OSError as error:
            raise ConfigError([f"caKeyPassphraseFile: {passphrase_file}: cannot be read: {error.strerror}"]) from error
        if passphrase == b"":
            raise ConfigError([f"caKeyPassphraseFile: {passphrase_file}: is empty"])
        return cls(Path(folder) if folder else None, passphrase, server_names)

    def issuer(self, directory: Path, trust_domain: str, now: float) -> Signer | None:
        """Return the issuer whose files are there, or None if there are none; raises ConfigError with every fault."""
        folder = self.folder or directory
        files = IssuerFiles.read(folder)
        if not files.certificate:
            if self.folder is not None:
                raise ConfigError([f"{folder}/{CERTIFICATE_FILE}: missing: caFiles needs {', '.join(FILES)} there"])
            return None
        signer = files.signer(f"{folder}/", trust_domain, self.passphrase)
        self.check(signer, f"{folder}/", now)
        return signer

    def check(self, signer: Signer, where: str, now: float) -> None:
        """Raise ConfigError with every reason why an issuer can't sign now, `where` in front."""
        if problems := time_faults(signer, where, now) or server_name_faults(signer, where, self.server_names):
            raise ConfigError(problems)


@dataclass(frozen=True)
class Issuing:
    """One issuer with its place in the book."""

    entry: Entry
    signer: Signer


class Authority:
    """The only holder of the CA's keys."""

    def __init__(self, book: IssuerBook, signers: dict[str, Signer], trust_domain: str, plugin: Plugin) -> None:
        self._book = book
        self._signers = signers
        self._trust_domain = trust_domain
        self._plugin = plugin
        self._lists = RevocationLists(book.directory / "crls")

    @classmethod
    def open(cls, directory: Path, trust_domain: str, now: float, plugin: Plugin | None = None) -> Authority:
        """Load the issuers; at the first start take the plugged-in one or make a root. Raises ConfigError."""
        plugin, book = plugin or Plugin(), IssuerBook.read(directory)
        if not book.entries:
            book = _first(directory, trust_domain, now, plugin)
        book.sweep()
        signers: dict[str, Signer] = {}
        problems: list[str] = []
        for entry in book.entries:
            folder = (plugin.folder or directory) if entry.plugged else book.folder(entry.id)
            try:
                signer = IssuerFiles.read(folder).signer(f"{folder}/", trust_domain, plugin.passphrase)
            except ConfigError as error:
                problems += error.problems
                continue
            if signer.id != entry.id:
                problems.append(
                    f"{folder}/{CERTIFICATE_FILE}: is not the issuer that this CA works with: put that one back, and "
                    "change to this one by `hostmesh ca root prepare --from FOLDER`"
                )
            if entry.state is State.ACTIVE:
                try:
                    plugin.check(signer, f"{folder}/", now)
                except ConfigError as error:
                    problems += error.problems
            signers[entry.id] = signer
        if problems:
            raise ConfigError(problems)
        return cls(book, signers, trust_domain, plugin)

    @property
    def active(self) -> Signer:
        """Return the issuer that signs."""
        return next(issuing.signer for issuing in self.issuers if issuing.entry.state is State.ACTIVE)

    @property
    def issuers(self) -> tuple[Issuing, ...]:
        """Return all issuers that are trusted, oldest first."""
        signers = self._signers  # replaced, never changed: whoever reads sees one moment
        return tuple(Issuing(entry, signers[entry.id]) for entry in self._book.entries if entry.id in signers)

    @property
    def certificate(self) -> x509.Certificate:
        """Return the certificate of the issuer that signs."""
        return self.active.certificate

    @property
    def root_pem(self) -> bytes:
        """Return the root above the issuer that signs."""
        return self.active.root_pem

    @property
    def root_fingerprint(self) -> bytes:
        """Return the SHA-256 of that root (DER), as tokens carry it."""
        return self.active.root.fingerprint(hashes.SHA256())

    @property
    def trust_bundle_pem(self) -> bytes:
        """Return all roots to trust now, each once; the one above the issuer that signs comes last."""
        last = self.root_pem
        others = {issuing.signer.root_pem for issuing in self.issuers} - {last}
        return b"".join((*sorted(others), last))

    def sign(self, template: Template) -> x509.Certificate:
        """Return a certificate of these fields by the issuer that signs, re-checked; raises SigningFault."""
        return self.active.sign(template)

    def crosses_pem(self, validity: Validity, now: float) -> bytes:
        """Return what leads from the issuer that signs to the roots of the past, for whoever knows only these."""
        retiring = [issuing.signer for issuing in self.issuers if issuing.entry.state is State.RETIRING]
        able = [signer for signer in retiring if signer.ends.timestamp() > now]
        return b"".join(signer.vouch_for(self.active, self._trust_domain, validity, now) for signer in able)

    def crls_pem(self, revoked: dict[str, dict[int, int]], now: float) -> bytes:
        """Return a list for each issuer: of its revoked serial numbers with their times (Unix, seconds).

        Raises SigningFault or ConfigError.
        """
        issuers = [issuing.signer for issuing in self.issuers if issuing.signer.ends.timestamp() > now]
        return b"".join(self._lists.of(signer, revoked.get(signer.id, {}), now) for signer in issuers)

    def prepare(self, signer: Signer, now: float) -> Issuing:
        """Take an issuer among those that are trusted; raises ConfigError if it can't be kept."""
        IssuerFiles.of(signer, self._plugin.passphrase).write(self._book.folder(signer.id))
        entry = Entry(signer.id, State.PREPARED, now)
        self._turn(self._book.with_entries(entry), self._signers | {signer.id: signer})
        return Issuing(entry, signer)

    def activate(self, issuer: str, now: float) -> None:
        """Sign by this issuer from now on, by the present one no more; raises ConfigError if it can't be kept."""
        present = self.active.id
        plugged = {entry.id: entry.plugged for entry in self._book.entries}
        entries = (
            Entry(present, State.RETIRING, now, plugged[present]),
            Entry(issuer, State.ACTIVE, now, plugged[issuer]),
        )
        self._turn(self._book.with_entries(*entries), self._signers)

    def retire(self, issuer: str) -> None:
        """Trust an issuer no more and remove its key; raises ConfigError if that can't be kept."""
        left = {name: signer for name, signer in self._signers.items() if name != issuer}
        self._turn(self._book.without(issuer), left)
        self._lists.forget(issuer)
        self._book.sweep()

    def new_root(self, lifetime: float, now: float) -> Signer:
        """Make a root (lifetime in seconds); it is not kept yet."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Signer(key, (self_signed(key, self._trust_domain, Validity(lifetime, _SET_BACK), now),))

    def read_issuer(self, files: IssuerFiles, now: float) -> Signer:
        """Return a plugged-in issuer if it can be used now; raises ConfigError with every fault."""
        signer = files.signer("", self._trust_domain, self._plugin.passphrase)
        self._plugin.check(signer, "", now)
        return signer

    def _turn(self, book: IssuerBook, signers: dict[str, Signer]) -> None:
        book.write()
        self._signers = signers
        self._book = book


def _first(directory: Path, trust_domain: str, now: float, plugin: Plugin) -> IssuerBook:
    """Begin the book with the plugged-in issuer, or with a root made now."""
    signer = plugin.issuer(directory, trust_domain, now)
    if signer is None:  # first start, or the last one died between the two files
        _make(directory, trust_domain, now, plugin.passphrase)
        signer = plugin.issuer(directory, trust_domain, now)
        assert signer is not None, "it was made just now"
    return IssuerBook(directory).with_entries(Entry(signer.id, State.ACTIVE, now, plugged=True)).write()


def _make(directory: Path, trust_domain: str, now: float, passphrase: bytes | None) -> None:
    files = IssuerFiles.read(directory)
    if not files.key:
        files = IssuerFiles(encoded_key(ec.generate_private_key(ec.SECP256R1()), passphrase), b"")
        files.write(directory)
    key = files.ca_key(f"{directory}/", passphrase)
    certificate = self_signed(key, trust_domain, Validity(ROOT_LIFETIME, _SET_BACK), now)
    IssuerFiles(b"", certificate.public_bytes(Encoding.PEM)).write(directory)
