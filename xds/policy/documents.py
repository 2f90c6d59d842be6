"""
The shape of policy documents: which keys exist, which values they take, and what each is for.

These models check structure only and are the one source of the exported JSON Schema; what the values
mean (addresses, references, dialects) is for the modules that turn a shape into a `Policy`. Strict:
nothing is coerced and no key is ignored. None stands for an optional key that is not there; a document
can't write it (`key:` without a value is an error). Invariant: every key that a document may have is a
field here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from xds.policy.model import EXPLICIT_PORT, SERVER_FIRST_PORTS, STDOUT
from xds.policy.secrets import AUTHORITIES_KEY

API_VERSION = "egress-xds/v1alpha1"
KIND = "EgressPolicy"

TEXT_OR_LIST: Final = "text_or_list"
"""The verdict on a value that is neither; `forms` in its context shows both ways to write it."""

LIMIT_OF_PRIORITY = 1_000_000

Port = Annotated[int, Field(ge=1, le=65535)]
Ports = list[Port]
ActionWord = Literal["direct", "tunnel", "deny"]
ModeWord = Literal["transparent", "explicit", "env"]
DialectWord = Literal["go", "curl", "python", "dotnet", "node"]


def _as_list(value: object) -> object:
    return _list_of(value, "`[a, b]`, or one text: `198.18.0.0/15`")


def _as_entries(value: object) -> object:
    return _list_of(value, "`[.corp.example, 10.0.0.0/8]`, or one text: `.corp.example,10.0.0.0/8`")


def _list_of(value: object, forms: str) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise PydanticCustomError(TEXT_OR_LIST, "neither text nor a list", {"forms": forms})
    return value


def _as_pem(value: object) -> object:
    return {"pem": value} if isinstance(value, str) else value


def _as_off(value: object) -> object:
    # YAML 1.1 reads an unquoted `off` as false.
    return "off" if value is False else value


TextOrList = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
Entries = Annotated[list[str], BeforeValidator(_as_entries, json_schema_input_type=str | list[str])]


class _Shape(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
    )


def _one_of(*alternatives: tuple[str, ...]) -> ConfigDict:
    """Return the settings of a shape of which exactly one group of keys is written."""
    groups: list[JsonValue] = [{"required": list(keys)} for keys in alternatives]
    return ConfigDict(json_schema_extra={"oneOf": groups})


class SecretShape(_Shape):
    """A Secret of the namespace that the policy stands in; no other namespace can be named."""

    name: str
    """The Secret's name."""


class SecretKeyShape(SecretShape):
    """A part of a Secret of the namespace that the policy stands in; no other namespace can be named."""

    key: str = AUTHORITIES_KEY
    """The part of the Secret that holds PEM."""


class CaShape(_Shape):
    """Certificate authorities: one of the three."""

    model_config = _one_of(("pem",), ("file",), ("secretRef",))

    pem: str | None = None
    """PEM, or base64 of PEM."""
    file: str | None = None
    """Outside Kubernetes: the absolute path, at the control plane, of a file with PEM."""
    secret_ref: SecretKeyShape | None = None
    """In Kubernetes: a Secret with PEM."""


class OriginateShape(_Shape):
    """How the certificate of the host is verified."""

    ca: Annotated[CaShape | None, BeforeValidator(_as_pem, json_schema_input_type=str | CaShape)] = None
    """PEM text, or a mapping with `pem`. The system's authorities if left out."""


class OverrideShape(_Shape):
    """What plain HTTP gets instead, where it differs from everything else."""

    action: ActionWord
    """`direct`, `tunnel` or `deny`."""
    proxy: str | None = None
    """The proxy of a tunnel; may be left out if the policy has exactly one."""
    originate_tls: Annotated[OriginateShape | None, Field(alias="originateTLS")] = None
    """Send it as HTTPS to port 443 of the host; `{}` verifies with the system's authorities. Tunnels by name only."""


class TcpShape(_Shape):
    """Connections to an address, whatever name they carry, or to a name, whatever they speak."""

    host: str
    """An IP address, a CIDR or, with `dns.mode: capture`, a host name."""
    ports: Ports = []
    """Ports; all if left out."""


class ToShape(_Shape):
    """What a rule matches: any of its parts."""

    domains: list[str] = []
    """Host names in the grammar of NO_PROXY: `x.example`, `.x.example`, `*.x.example`, each with `:port` if wanted."""
    cidrs: list[str] = []
    """Addresses and networks: `10.0.0.0/8`, `192.0.2.7:22`, `[2001:db8::1]:443`."""
    ports: Ports = []
    """Ports of every entry that has none of its own; alone, any host on these ports."""
    tcp: list[TcpShape] = []
    """Addresses and names with lists of ports."""


class RuleShape(_Shape):
    """One rule; the first that matches decides."""

    name: str | None = None
    """Unique in the policy; `rule-<n>` if left out."""
    to: ToShape
    action: ActionWord
    """`direct`, `tunnel` or `deny`."""
    proxy: str | None = None
    """The proxy of a tunnel; may be left out if the policy has exactly one."""
    http: OverrideShape | None = None
    verify: Annotated[TextOrList | None, Field(min_length=1)] = None
    """Networks in which names that go direct must have their address, or `none` to believe what the client says."""


class DefaultShape(_Shape):
    """What happens to a connection that no rule matches."""

    action: ActionWord
    """`direct`, `tunnel` or `deny`."""
    proxy: str | None = None
    """The proxy of a tunnel; may be left out if the policy has exactly one."""
    http: OverrideShape | None = None
    on_unknown_name: Literal["connectIP", "deny", "direct"] = "connectIP"
    """What happens to a connection that would be tunnelled but names no host."""


class EndpointShape(_Shape):
    """One address of a proxy."""

    url: str
    """`http://host:port`, or `https://host:port` for TLS to the proxy itself. No user, no path."""
    priority: Annotated[int, Field(ge=0, le=127)] = 0
    """Endpoints of a higher number are used only if none of a lower one answers."""


class ClientCertificateShape(_Shape):
    """What proves to the proxy who is calling: two files, or a Secret."""

    model_config = _one_of(("certificateFile", "keyFile"), ("secretRef",))

    certificate_file: str | None = None
    """Outside Kubernetes: the absolute path, at the control plane, of a file with the certificate and its chain."""
    key_file: str | None = None
    """Outside Kubernetes: the absolute path, at the control plane, of a file with the private key in PEM."""
    secret_ref: SecretShape | None = None
    """In Kubernetes: a Secret of type kubernetes.io/tls, with `tls.crt` and `tls.key`."""


class TlsShape(_Shape):
    """How TLS to an `https://` proxy is spoken."""

    ca: Annotated[CaShape | None, BeforeValidator(_as_pem, json_schema_input_type=str | CaShape)] = None
    """PEM text, or a mapping with `pem`, `file` or `secretRef`. The system's authorities if left out."""
    server_name: str | None = None
    """The name expected in the certificate; the endpoint's host if left out."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS that is spoken with the proxy."""
    client_certificate: ClientCertificateShape | None = None
    """For a proxy that asks for one (mutual TLS)."""


class BasicShape(_Shape):
    """A login by name and password: one of the two."""

    model_config = _one_of(("file",), ("secretRef",))

    file: str | None = None
    """Outside Kubernetes: the absolute path, at the control plane, of a file with `user:password` and nothing else."""
    secret_ref: SecretShape | None = None
    """In Kubernetes: a Secret of type kubernetes.io/basic-auth, with `username` and `password`."""


class AuthShape(_Shape):
    """What the proxy demands before it opens a tunnel."""

    basic: BasicShape
    """`Proxy-Authorization: Basic`."""


class HealthShape(_Shape):
    """Probing the proxy's endpoints by connecting to them."""

    interval: str = "10s"
    """From one probe to the next."""
    timeout: str = "2s"
    """How long a probe may take."""
    unhealthy_after: Annotated[int, Field(ge=1, le=10)] = 2
    """Failed probes in a row after which an endpoint is not used."""
    healthy_after: Annotated[int, Field(ge=1, le=10)] = 1
    """Good probes in a row after which it is used again."""


class OutlierShape(_Shape):
    """Leaving out an endpoint that fails or refuses tunnels."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failures in a row after which it is left out."""
    ejection_time: str = "30s"
    """For how long at first; each further time adds as much."""


class AttemptsShape(_Shape):
    """Asking again when no tunnel could be opened."""

    count: Annotated[int, Field(ge=1, le=10)] = 1
    """How often a tunnel is asked for, the first time included."""
    backoff: str = "100ms"
    """The pause before the second time; each further one is longer."""


class ProxyShape(_Shape):
    """A corporate proxy."""

    endpoints: Annotated[list[EndpointShape], Field(min_length=1)]
    """Where it listens."""
    tls: TlsShape | None = None
    auth: AuthShape | None = None
    """How to log in; not at all if left out."""
    protocol: Literal["http1", "http2"] = "http1"
    """`http1`: a connection per tunnel. `http2`: many tunnels on one connection."""
    connect_ports: Annotated[list[Port], Field(min_length=1)] | None = None
    """The ports that it accepts CONNECT for; any if left out."""
    plain_http: Annotated[Literal["absolute-form", "connect", "deny"], Field(alias="plainHTTP")] = "absolute-form"
    """How plain HTTP reaches it."""
    connect_timeout: str = "5s"
    """How long connecting to it may take: `500ms`, `5s`, `1m`."""
    health: HealthShape | None = None
    """How its endpoints are probed; not at all if left out."""
    outlier: OutlierShape | None = None
    """When an endpoint is left out; never if left out."""
    attempts: AttemptsShape = AttemptsShape()
    idle_timeout: str | None = None
    """After how long a tunnel that carries nothing is cut; never if left out."""


class ExpressionShape(_Shape):
    """One requirement of a Kubernetes label selector."""

    key: str
    """A label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []
    """The values of `In` and `NotIn`."""


class LabelsShape(_Shape):
    """A Kubernetes label selector; every requirement must hold."""

    match_labels: dict[str, str] = {}
    """Labels that the pod, or its namespace, must have."""
    match_expressions: list[ExpressionShape] = []
    """Requirements on the labels of the pod, or of its namespace."""


class SelectorShape(_Shape):
    """Which pods the policy is for; all pods in its scope if left out."""

    namespaces: list[str] = []
    """Namespaces of the pods; any if left out."""
    namespace_labels: LabelsShape = LabelsShape()
    """Labels of the pods' namespaces; any if left out."""
    pod_labels: LabelsShape = LabelsShape()
    service_accounts: list[str] = []
    """Service accounts of the pods; any if left out."""


class DnsShape(_Shape):
    """Names that stand behind synthetic addresses."""

    mode: Annotated[
        Literal["off", "capture"],
        BeforeValidator(_as_off, json_schema_input_type=Literal["off", "capture", False]),
    ] = "off"
    """`off`: name servers are left alone. `capture`: Envoy answers for names that do not go direct."""
    synthetic_range: TextOrList = []
    """One CIDR or several: addresses that stand for names, so that no CIDR rule matches them."""


class AlwaysDirectShape(_Shape):
    """Built-in bypasses, each of which can be switched off."""

    loopback: bool = True
    """127.0.0.0/8 and ::1."""
    link_local: bool = True
    """169.254.0.0/16, fe80::/10 and the metadata address fd00:ec2::254."""
    cluster_local: bool = True
    """Names below `.svc` and `.cluster.local`."""
    cluster_networks: bool = True
    """Addresses of Services, pods and nodes, as the cluster tells them."""


class AccessLogShape(_Shape):
    """Where Envoy tells of connections."""

    path: Annotated[str, BeforeValidator(_as_off, json_schema_input_type=str | Literal[False])] = STDOUT
    """`stdout`, the absolute path of a file on Envoy's machine, or `off`."""


class ExplicitShape(_Shape):
    """A proxy on loopback for applications that keep HTTP_PROXY and HTTPS_PROXY."""

    port: Annotated[int, Field(ge=1024, le=65535)] = EXPLICIT_PORT
    """The port on 127.0.0.1 and ::1."""


class SpecShape(_Shape):
    """The policy itself."""

    selector: SelectorShape = SelectorShape()
    priority: Annotated[int, Field(ge=-LIMIT_OF_PRIORITY, le=LIMIT_OF_PRIORITY)] = 0
    """Among policies that select a pod equally narrowly, the highest is in force."""
    proxies: dict[str, ProxyShape] = {}
    """The corporate proxies by name."""
    rules: list[RuleShape] = []
    """The first that matches decides."""
    default: DefaultShape
    dns: DnsShape = DnsShape()
    dialect: DialectWord | None = None
    """Whose reading of NO_PROXY entries is meant; `go` if left out."""
    server_first_ports: Ports = list(SERVER_FIRST_PORTS)
    """Ports whose servers speak first, so that the client's first bytes are not waited for."""
    always_direct: AlwaysDirectShape = AlwaysDirectShape()
    access_log: AccessLogShape = AccessLogShape()
    explicit: ExplicitShape | None = None
    """A proxy on loopback; none if left out, unless `mode` is `explicit`."""
    mode: ModeWord = "transparent"
    """
    How it reaches pods that do not choose by annotation: `transparent` captures connections, `explicit` sets variables
    that name the sidecar's port, `env` sets variables that name the company's proxy, without a sidecar.
    """
    trusted_ca: Annotated[str | None, Field(alias="trustedCA")] = None
    """PEM, or base64 of PEM: the company's authorities, for the applications of pods that ask for them."""


class MetadataShape(_Shape):
    """What the policy is called and where it applies."""

    name: str
    """A DNS-1123 subdomain, unique in its namespace."""
    namespace: str | None = None
    """The namespace whose pods it concerns; all namespaces if left out."""


class LongShape(_Shape):
    """A policy in the long form."""

    api_version: Literal["egress-xds/v1alpha1"]
    """The version of this form."""
    kind: Literal["EgressPolicy"]
    """The kind of this document."""
    metadata: MetadataShape
    spec: SpecShape


class ShortShape(_Shape):
    """A whole policy in the words of the proxy variables."""

    http_proxy: str
    """`http://host:port`, `https://host:port`, `direct` or `deny`: what plain HTTP gets."""
    https_proxy: str
    """`http://host:port`, `https://host:port`, `direct` or `deny`: what everything else gets."""
    no_proxy: Entries = []
    """Destinations that bypass the proxies: a list, or one text with commas or spaces."""
    no_proxy_verify: Annotated[TextOrList | None, Field(min_length=1)] = None
    """Networks in which the names in `noProxy` must have their address, or `none` to believe what the client says."""
    trusted_ca: Annotated[str | None, Field(alias="trustedCA")] = None
    """
    PEM, or base64 of PEM: authorities of an `https://` proxy's own certificate, and the company's authorities for the
    applications of pods that ask for them.
    """
    mode: ModeWord = "transparent"
    """
    How it reaches pods that do not choose by annotation: `transparent` captures connections, `explicit` sets variables
    that name the sidecar's port, `env` sets variables that name the company's proxy, without a sidecar.
    """
    explicit: ExplicitShape | None = None
    """A proxy on loopback, for pods in that mode; none if left out, unless `mode` is `explicit`."""
    dialect: DialectWord | None = None
    """Whose reading of `noProxy` is meant; `go` if left out."""
    name: str | None = None
    """A DNS-1123 subdomain; the file's name without its ending if left out."""
    namespace: str | None = None
    """The namespace whose pods it concerns; all namespaces if left out."""
