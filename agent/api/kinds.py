"""The registry of every kind of the Istio API hostmesh has heard of: its names, and whether it is supported yet."""

from __future__ import annotations

from msgspec import Struct

CONFIG = "config.istio.io"
NETWORKING = "networking.istio.io"
SECURITY = "security.istio.io"
TELEMETRY = "telemetry.istio.io"
RBAC = "rbac.istio.io"
AUTHENTICATION = "authentication.istio.io"
EXTENSIONS = "extensions.istio.io"
KUBERNETES = "networking.k8s.io"

_VERSIONS = {
    CONFIG: ("v1alpha2", "v1alpha1", "v1beta1"),
    NETWORKING: ("v1", "v1beta1", "v1alpha3"),
    SECURITY: ("v1", "v1beta1"),
    TELEMETRY: ("v1", "v1alpha1"),
    RBAC: ("v1alpha1",),
    AUTHENTICATION: ("v1alpha1",),
    EXTENSIONS: ("v1alpha1",),
    KUBERNETES: ("v1", "v1beta1"),
    "extensions": ("v1beta1",),
}


class Kind(Struct, frozen=True):
    """A kind of rule object."""

    name: str
    """As documents spell it."""
    group: str
    supported: bool = False
    shorthand: str = ""
    instead: str = ""
    """Of a kind that is not going to be supported: what does the same here."""
    verbatim: bool = False
    """Its spec is kept as it is written: Kubernetes' own, or another program's configuration is in it.

    The fields of all other kinds can be in snake_case too: protobuf's JSON, which Istio reads, takes both.
    """
    older_group: str = ""
    """Another group that it was in before."""

    @property
    def api_versions(self) -> tuple[str, ...]:
        """Return the accepted apiVersions, the usual one first."""
        groups = (self.group, self.older_group) if self.older_group else (self.group,)
        return tuple(f"{group}/{version}" for group in groups for version in _VERSIONS[group])

    @property
    def key(self) -> str:
        """Return its spelling in KV keys and on the command line: lower case, singular."""
        return self.name.lower()

    @property
    def plural(self) -> str:
        """Return its plural in lower case."""
        if self.key.endswith(("s", "ss")):
            return self.key if self.key.endswith("metrics") else self.key + "es"
        if self.key.endswith("y") and self.key[-2] not in "aeiou":
            return self.key[:-1] + "ies"
        return self.key + "s"


_CHECKING = "rule denier checknothing listchecker listentry memquota quota"
"""Mixer's kinds that decide about requests."""
_LOGGING = "logentry stdio fluentd"
_REPORTING = "metric prometheus statsd attributemanifest"
_OTHERS_OF_MIXER = """
adapter apikey authorization bypass circonus cloudwatch dogstatsd edge handler instance kubernetes kubernetesenv noop
opa rbac redisquota reportnothing servicecontrol servicecontrolreport signalfx solarwinds stackdriver template
tracespan zipkin
"""

_PATCHES = "it patches Envoy's configuration as Istio writes it, which is another one here; say it by the other kinds"
_PROGRAMS = "no programs are loaded into Envoy; an AuthorizationPolicy with CUSTOM can ask a service of yours"
_AUTHENTICATION = "write a PeerAuthentication and a RequestAuthentication"

KINDS: tuple[Kind, ...] = (
    Kind("RouteRule", CONFIG, supported=True),
    Kind("DestinationPolicy", CONFIG, supported=True),
    Kind("EgressRule", CONFIG, supported=True),
    Kind("IngressRule", CONFIG, supported=True),
    Kind("VirtualService", NETWORKING, supported=True, shorthand="vs"),
    Kind("DestinationRule", NETWORKING, supported=True, shorthand="dr"),
    Kind("Gateway", NETWORKING, supported=True, shorthand="gw"),
    Kind("Ingress", KUBERNETES, supported=True, shorthand="ing", older_group="extensions", verbatim=True),
    Kind("ServiceEntry", NETWORKING, supported=True, shorthand="se"),
    Kind("WorkloadEntry", NETWORKING, supported=True, shorthand="we"),
    Kind("WorkloadGroup", NETWORKING, shorthand="wg", instead="each host registers its own instances: services.d"),
    Kind("Sidecar", NETWORKING, supported=True),
    Kind("EnvoyFilter", NETWORKING, instead=_PATCHES, verbatim=True),
    Kind("ProxyConfig", NETWORKING, instead="a host's Envoy is set up in its agent.yaml: proxy"),
    Kind("PeerAuthentication", SECURITY, supported=True, shorthand="pa"),
    Kind("AuthorizationPolicy", SECURITY, supported=True, shorthand="ap"),
    Kind("RequestAuthentication", SECURITY, supported=True, shorthand="ra"),
    Kind("Telemetry", TELEMETRY, supported=True),
    Kind("WasmPlugin", EXTENSIONS, instead=_PROGRAMS, verbatim=True),
    Kind("TrafficExtension", EXTENSIONS, instead=_PROGRAMS, verbatim=True),
    Kind("Policy", AUTHENTICATION, instead=_AUTHENTICATION),
    Kind("MeshPolicy", AUTHENTICATION, instead=_AUTHENTICATION),
    Kind("ServiceRole", RBAC, instead="write AuthorizationPolicies"),
    Kind("ServiceRoleBinding", RBAC, instead="write AuthorizationPolicies"),
    Kind("RbacConfig", RBAC, instead="write AuthorizationPolicies"),
    Kind("ClusterRbacConfig", RBAC, instead="write AuthorizationPolicies"),
    Kind("QuotaSpec", CONFIG),
    Kind("QuotaSpecBinding", CONFIG),
    Kind("HTTPAPISpec", CONFIG),
    Kind("HTTPAPISpecBinding", CONFIG),
    Kind("EndUserAuthenticationPolicySpec", CONFIG, instead="write a RequestAuthentication"),
    Kind("EndUserAuthenticationPolicySpecBinding", CONFIG, instead="write a RequestAuthentication"),
    *(Kind(name, CONFIG, supported=True) for name in _CHECKING.split()),
    *(Kind(name, CONFIG, supported=True) for name in _LOGGING.split()),
    *(Kind(name, CONFIG, supported=True) for name in _REPORTING.split()),
    *(Kind(name, CONFIG, verbatim=True) for name in _OTHERS_OF_MIXER.split()),
)
"""Every kind, the supported ones included."""

KINDS_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
"""As documents spell it → kind."""


def supported_kinds() -> tuple[Kind, ...]:
    """Return the kinds whose objects can be stored and have an effect."""
    return tuple(kind for kind in KINDS if kind.supported)


def kind_named(text: str) -> Kind | None:
    """Return the kind that a word on the command line means, or None.

    Any case, singular or plural, with or without dashes: `RouteRule`, `routerules`, `route-rule`, `vs`.
    """
    return _BY_WORD.get(text.lower().replace("-", "").replace("_", ""))


_BY_WORD = {word: kind for kind in reversed(KINDS) for word in (kind.plural, kind.shorthand, kind.key) if word}
