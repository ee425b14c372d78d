"""A finding of the analysis and the kinds of findings; codes IST… mean what istioctl's mean, HM… are hostmesh's own."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from agent.api.envelope import Document


class Level(StrEnum):
    """How bad a finding is."""

    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"

    @property
    def rank(self) -> int:
        """Return a number that grows with the severity."""
        return ("Info", "Warning", "Error").index(self)


class FindingKind(Struct, frozen=True):
    """What sort of finding it is."""

    code: str
    name: str
    level: Level
    mend: str
    """How to mend it, unless the finding itself knows better."""


DEPRECATED = FindingKind("IST0002", "Deprecated", Level.WARNING, "write what has taken its place")
NOT_FOUND = FindingKind(
    "IST0101", "ReferencedResourceNotFound", Level.ERROR, "correct the name, or create what it refers to"
)
SCHEMA = FindingKind("IST0106", "SchemaValidationError", Level.ERROR, "correct the field")
UNKNOWN_ANNOTATION = FindingKind("IST0108", "UnknownAnnotation", Level.WARNING, "remove it")
CONFLICTING_HOSTS = FindingKind(
    "IST0109",
    "ConflictingMeshGatewayVirtualServiceHosts",
    Level.ERROR,
    "put all routes of a host into one VirtualService",
)
CONFLICTING_SIDECARS = FindingKind(
    "IST0110", "ConflictingSidecarWorkloadSelectors", Level.ERROR, "give each workload one Sidecar"
)
SEVERAL_DEFAULT_SIDECARS = FindingKind(
    "IST0111", "MultipleSidecarsWithoutWorkloadSelectors", Level.ERROR, "keep one Sidecar without a selector"
)
PORT_REQUIRED = FindingKind(
    "IST0112", "VirtualServiceDestinationPortSelectorRequired", Level.WARNING, "say the destination's port.number"
)
MTLS_CONFLICT = FindingKind(
    "IST0113", "MTLSPolicyConflict", Level.ERROR, "leave tls out (mutual TLS is automatic), or write ISTIO_MUTUAL"
)
NO_WORKLOADS = FindingKind(
    "IST0127", "NoMatchingWorkloadsFound", Level.WARNING, "correct the selector, or register instances that it selects"
)
TOKENS_WITHOUT_REQUESTS = FindingKind(
    "IST0119",
    "JwtFailureDueToInvalidServicePortPrefix",
    Level.WARNING,
    "declare the port's protocol (http), or correct the selector",
)
UNVERIFIED = FindingKind(
    "IST0128",
    "NoServerCertificateVerificationDestinationLevel",
    Level.WARNING,
    "remove insecureSkipVerify and name the authority (caCertificates)",
)
UNVERIFIED_PORT = FindingKind("IST0129", "NoServerCertificateVerificationPortLevel", Level.WARNING, UNVERIFIED.mend)
UNREACHABLE = FindingKind(
    "IST0130", "VirtualServiceUnreachableRule", Level.WARNING, "move the rule before the one that takes its requests"
)
INEFFECTIVE = FindingKind(
    "IST0131", "VirtualServiceIneffectiveMatch", Level.INFO, "remove the match, or move its rule forward"
)
NOT_ENFORCEABLE = FindingKind("HM0101", "NotEnforceable", Level.WARNING, "remove the field, or don't rely on it")
EMPTY_SUBSET = FindingKind(
    "HM0102", "SubsetWithoutInstances", Level.WARNING, "correct the labels, or register instances that have them"
)
SHADOWED = FindingKind("HM0103", "RuleShadowed", Level.WARNING, "raise its precedence, or remove it")
NOT_USED = FindingKind(
    "HM0104", "RuleNotUsed", Level.WARNING, "delete one of them: a service with a VirtualService follows that one alone"
)
UNSERVED_WEIGHT = FindingKind(
    "HM0105", "WeightCannotBeServed", Level.WARNING, "set the weight to 0 until instances with these labels are there"
)
NO_INSTANCES = FindingKind("HM0106", "ServiceWithoutServingInstances", Level.WARNING, "start or repair its instances")
OUTSIDE_NEEDS_ALL = FindingKind(
    "HM0107",
    "WildcardNeedsCaptureOfAll",
    Level.INFO,
    "set interception.outbound: all on the callers' hosts, or name each host",
)
HOST_NOT_AT_GATEWAY = FindingKind(
    "IST0132",
    "VirtualServiceHostNotFoundInGateway",
    Level.WARNING,
    "add the host to a server of the Gateway, or correct it",
)
SCHEMA_WARNING = FindingKind("IST0133", "SchemaWarning", Level.WARNING, "write what is meant")
ADDRESSES_REQUIRED = FindingKind(
    "IST0134", "ServiceEntryAddressesRequired", Level.WARNING, "give addresses, or each host by its whole name"
)
SHARED_CERTIFICATE = FindingKind(
    "IST0138",
    "GatewayDuplicateCertificate",
    Level.WARNING,
    "put the servers with one certificate into one Gateway, or give each a certificate of its own",
)
CONFLICTING_GATEWAYS = FindingKind(
    "IST0145", "ConflictingGateways", Level.ERROR, "give one of them another port, other hosts or another selector"
)
CLAIMS_UNVERIFIED = FindingKind(
    "IST0149",
    "JwtClaimBasedRoutingWithoutRequestAuthN",
    Level.ERROR,
    "create a RequestAuthentication that selects the gateway",
)
NOT_SERVED = FindingKind(
    "HM0108", "NotServedByGateway", Level.ERROR, "mend it on that host: secrets are its files (hostmesh secret install)"
)
OTHER_PROTOCOL = FindingKind(
    "HM0109",
    "RuleForOtherProtocol",
    Level.WARNING,
    "write http routes for HTTP ports, tls for TLS and tcp for the others, or declare what the port speaks",
)
UNKNOWN_SIDECAR_HOST = FindingKind(
    "HM0110", "SidecarHostNotFound", Level.WARNING, "correct the host (NAMESPACE/full host name), or remove it"
)
OUT_OF_SCOPE = FindingKind(
    "HM0111", "ServiceOutOfScope", Level.WARNING, "add the host to the Sidecar's egress, or don't rely on the rule"
)
AMBIGUOUS_CALLERS = FindingKind(
    "HM0112", "AmbiguousCallers", Level.WARNING, "give each service an account of its own, or an address of its own"
)

KINDS = (
    *(DEPRECATED, NOT_FOUND, SCHEMA, CONFLICTING_HOSTS, CONFLICTING_SIDECARS, SEVERAL_DEFAULT_SIDECARS, PORT_REQUIRED),
    *(MTLS_CONFLICT, UNREACHABLE, INEFFECTIVE, NOT_ENFORCEABLE, EMPTY_SUBSET, SHADOWED, NOT_USED, UNSERVED_WEIGHT),
    *(NO_INSTANCES, OUTSIDE_NEEDS_ALL, HOST_NOT_AT_GATEWAY, CONFLICTING_GATEWAYS, NOT_SERVED),
    *(OTHER_PROTOCOL, UNKNOWN_SIDECAR_HOST, OUT_OF_SCOPE, AMBIGUOUS_CALLERS),
    *(UNKNOWN_ANNOTATION, TOKENS_WITHOUT_REQUESTS, UNVERIFIED, UNVERIFIED_PORT, SCHEMA_WARNING, ADDRESSES_REQUIRED),
    *(SHARED_CERTIFICATE, CLAIMS_UNVERIFIED),
)


class Finding(Struct, frozen=True):
    """One finding about one object."""

    kind: FindingKind
    object: str
    """`VirtualService reviews.default`."""
    place: str
    """`FILE:LINE`, or the KV key."""
    path: str
    message: str
    """What is wrong and why it matters."""

    @property
    def line(self) -> str:
        """Return it as istioctl prints it: `Error [IST0101] (VirtualService reviews.default FILE:LINE) …`."""
        head = f"{self.kind.level} [{self.kind.code}] ({self.object} {self.place})"
        where = f"{self.path}: " if self.path else ""
        return f"{head} {where}{self.message}; to mend it: {self.kind.mend}"


def finding(kind: FindingKind, document: Document, path: str, message: str) -> Finding:
    """Return a finding about a place in a document."""
    name = f"{document.kind} {document.name}.{document.namespace}"
    place = document.place(path).rsplit(": ", 1)[0] if document.lines else document.source
    return Finding(kind, name, place, path, message)
