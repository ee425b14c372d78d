from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("csr_pem", "token", "identity", "consul_token")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CONSUL_TOKEN_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    token: str
    identity: str
    consul_token: str
    def __init__(self, csr_pem: _Optional[bytes] = ..., token: _Optional[str] = ..., identity: _Optional[str] = ..., consul_token: _Optional[str] = ...) -> None: ...

class ChallengeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChallengeResponse(_message.Message):
    __slots__ = ("nonce", "ttl_seconds")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    ttl_seconds: int
    def __init__(self, nonce: _Optional[bytes] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class RenewExpiredRequest(_message.Message):
    __slots__ = ("chain_pem", "csr_pem", "nonce", "signature")
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    chain_pem: bytes
    csr_pem: bytes
    nonce: bytes
    signature: bytes
    def __init__(self, chain_pem: _Optional[bytes] = ..., csr_pem: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_pem",)
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ...) -> None: ...

class IssueJwtRequest(_message.Message):
    __slots__ = ("audience",)
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    audience: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, audience: _Optional[_Iterable[str]] = ...) -> None: ...

class IssuedJwt(_message.Message):
    __slots__ = ("token", "expires_at")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_at: int
    def __init__(self, token: _Optional[str] = ..., expires_at: _Optional[int] = ...) -> None: ...

class IssuedCertificate(_message.Message):
    __slots__ = ("chain_pem", "trust_bundle_pem")
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_PEM_FIELD_NUMBER: _ClassVar[int]
    chain_pem: bytes
    trust_bundle_pem: bytes
    def __init__(self, chain_pem: _Optional[bytes] = ..., trust_bundle_pem: _Optional[bytes] = ...) -> None: ...

class GetBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchBundleRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class TrustBundle(_message.Message):
    __slots__ = ("trust_domain", "roots_pem", "crls_pem", "revoked", "version", "jwks")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROOTS_PEM_FIELD_NUMBER: _ClassVar[int]
    CRLS_PEM_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    roots_pem: bytes
    crls_pem: bytes
    revoked: _containers.RepeatedCompositeFieldContainer[RevokedCertificate]
    version: str
    jwks: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., roots_pem: _Optional[bytes] = ..., crls_pem: _Optional[bytes] = ..., revoked: _Optional[_Iterable[_Union[RevokedCertificate, _Mapping]]] = ..., version: _Optional[str] = ..., jwks: _Optional[bytes] = ...) -> None: ...

class RevokedCertificate(_message.Message):
    __slots__ = ("serial", "identity", "fingerprint", "revoked_at", "not_after")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    serial: str
    identity: str
    fingerprint: str
    revoked_at: int
    not_after: int
    def __init__(self, serial: _Optional[str] = ..., identity: _Optional[str] = ..., fingerprint: _Optional[str] = ..., revoked_at: _Optional[int] = ..., not_after: _Optional[int] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("identity", "ttl_seconds", "uses")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    identity: str
    ttl_seconds: int
    uses: int
    def __init__(self, identity: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., uses: _Optional[int] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "record")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    token: str
    record: Token
    def __init__(self, token: _Optional[str] = ..., record: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("id", "identity", "created_at", "expires_at", "uses", "used", "revoked_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    identity: str
    created_at: int
    expires_at: int
    uses: int
    used: int
    revoked_at: int
    def __init__(self, id: _Optional[str] = ..., identity: _Optional[str] = ..., created_at: _Optional[int] = ..., expires_at: _Optional[int] = ..., uses: _Optional[int] = ..., used: _Optional[int] = ..., revoked_at: _Optional[int] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class IssueCertificateRequest(_message.Message):
    __slots__ = ("identity", "csr_pem", "lifetime_seconds")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    identity: str
    csr_pem: bytes
    lifetime_seconds: int
    def __init__(self, identity: _Optional[str] = ..., csr_pem: _Optional[bytes] = ..., lifetime_seconds: _Optional[int] = ...) -> None: ...

class ListCertificatesRequest(_message.Message):
    __slots__ = ("identity", "serial", "expired", "revoked_only")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_ONLY_FIELD_NUMBER: _ClassVar[int]
    identity: str
    serial: str
    expired: bool
    revoked_only: bool
    def __init__(self, identity: _Optional[str] = ..., serial: _Optional[str] = ..., expired: _Optional[bool] = ..., revoked_only: _Optional[bool] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("serial", "identity", "not_before", "not_after", "issued_at", "issued_by", "fingerprint", "revoked_at", "revoked_for")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FOR_FIELD_NUMBER: _ClassVar[int]
    serial: str
    identity: str
    not_before: int
    not_after: int
    issued_at: int
    issued_by: str
    fingerprint: str
    revoked_at: int
    revoked_for: str
    def __init__(self, serial: _Optional[str] = ..., identity: _Optional[str] = ..., not_before: _Optional[int] = ..., not_after: _Optional[int] = ..., issued_at: _Optional[int] = ..., issued_by: _Optional[str] = ..., fingerprint: _Optional[str] = ..., revoked_at: _Optional[int] = ..., revoked_for: _Optional[str] = ...) -> None: ...

class RevokeCertificatesRequest(_message.Message):
    __slots__ = ("serial", "identity", "reason")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serial: str
    identity: str
    reason: str
    def __init__(self, serial: _Optional[str] = ..., identity: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeCertificatesResponse(_message.Message):
    __slots__ = ("certificates", "tokens")
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    def __init__(self, certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ...) -> None: ...

class Root(_message.Message):
    __slots__ = ("id", "state", "subject", "not_before", "not_after", "since", "last_certificate_ends", "certificate_pem", "self_signed")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_CERTIFICATE_ENDS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    SELF_SIGNED_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: str
    subject: str
    not_before: int
    not_after: int
    since: int
    last_certificate_ends: int
    certificate_pem: bytes
    self_signed: bool
    def __init__(self, id: _Optional[str] = ..., state: _Optional[str] = ..., subject: _Optional[str] = ..., not_before: _Optional[int] = ..., not_after: _Optional[int] = ..., since: _Optional[int] = ..., last_certificate_ends: _Optional[int] = ..., certificate_pem: _Optional[bytes] = ..., self_signed: _Optional[bool] = ...) -> None: ...

class ListRootsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRootsResponse(_message.Message):
    __slots__ = ("roots", "bundle_version")
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    bundle_version: str
    def __init__(self, roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., bundle_version: _Optional[str] = ...) -> None: ...

class PrepareRootRequest(_message.Message):
    __slots__ = ("key_pem", "certificate_pem", "chain_pem", "root_pem", "lifetime_seconds")
    KEY_PEM_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    ROOT_PEM_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    key_pem: bytes
    certificate_pem: bytes
    chain_pem: bytes
    root_pem: bytes
    lifetime_seconds: int
    def __init__(self, key_pem: _Optional[bytes] = ..., certificate_pem: _Optional[bytes] = ..., chain_pem: _Optional[bytes] = ..., root_pem: _Optional[bytes] = ..., lifetime_seconds: _Optional[int] = ...) -> None: ...

class ActivateRootRequest(_message.Message):
    __slots__ = ("id", "force", "acknowledged_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    acknowledged_version: str
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ..., acknowledged_version: _Optional[str] = ...) -> None: ...

class RetireRootRequest(_message.Message):
    __slots__ = ("id", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...
