"""
What a policy means, as frozen values: the language between parsing and compilation.

Values here are normalised (lower case, punycode, masked networks, sorted ports): two documents that mean
the same give equal values. Nothing here parses text or knows Envoy. Invariant: a `Policy` that exists
can be compiled; whatever could prevent that was a diagnostic before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.diagnostics import Where

Network = IPv4Network | IPv6Network


SERVER_FIRST_PORTS = (21, 22, 25, 110, 143, 587, 3306)
"""FTP, SSH, SMTP, POP3, IMAP, submission and MySQL: the default of `serverFirstPorts`."""


STDOUT = "stdout"
"""Where Envoy logs unless told otherwise."""

EXPLICIT_PORT = 15002
"""Where applications that know of a proxy are served, by default, if at all."""


class Dialect(Enum):
    """Whose reading of NO_PROXY entries is in force (NO_PROXY rule N2)."""

    GO = "go"
    CURL = "curl"
    PYTHON = "python"
    DOTNET = "dotnet"
    NODE = "node"


class Mode(Enum):
    """How a policy reaches an application."""

    TRANSPARENT = "transparent"
    """Its connections are captured; it knows nothing of a proxy."""
    EXPLICIT = "explicit"
    """It is told of the port of explicit mode; nothing is captured."""
    ENV = "env"
    """It is told of the company's proxy itself; there is no sidecar."""


class PlainHttp(Enum):
    """How plain HTTP reaches a proxy."""

    ABSOLUTE_FORM = "absolute-form"
    CONNECT = "connect"
    DENY = "deny"


class ProxyProtocol(Enum):
    """What is spoken with a proxy: a connection per tunnel, or many tunnels on one (RFC 9113, section 8.5)."""

    HTTP1 = "http1"
    HTTP2 = "http2"


class TlsVersion(Enum):
    """The oldest version of TLS that is spoken with a proxy."""

    V1_2 = "1.2"
    V1_3 = "1.3"


class DnsMode(Enum):
    """Whether names are answered with synthetic addresses, which stand for them."""

    OFF = "off"
    CAPTURE = "capture"


class UnknownName(Enum):
    """What happens to a connection that the default would tunnel but that names no host (N18)."""

    CONNECT_IP = "connectIP"
    DENY = "deny"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Direct:
    """Dial the address that the application dialled."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse the connection."""


@dataclass(frozen=True, slots=True)
class TlsOrigination:
    """Speak TLS, on port 443, to a host that the application speaks plain HTTP to; None: the system's authorities."""

    ca_pem: str | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Go through the policy's proxy of this name; `origination` is for plain HTTP to hosts that a rule names."""

    proxy: str
    origination: TlsOrigination | None = None


Action = Direct | Deny | Tunnel


@dataclass(frozen=True, slots=True, order=True)
class DomainPattern:
    """
    A set of host names: `name` itself if `apex`, everything below it if `subdomains`.

    At least one of the two is true. `name` is lower case, punycode, without a trailing dot.
    """

    name: str
    apex: bool = True
    subdomains: bool = True


@dataclass(frozen=True, slots=True)
class Destination:
    """
    One thing that a rule matches: a host pattern and the ports it applies to.

    `host` None is any host, named or not. A network matches the address that the connection goes to,
    whatever its name (N9). Empty `ports` are all ports. `plain_tcp` is for one name, which then has an address of
    its own, so that connections that show no name are known by it.
    """

    host: DomainPattern | Network | None
    ports: tuple[int, ...] = ()
    plain_tcp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """
    One rule of a policy; the first that matches decides (N5).

    `action` is for TLS and other TCP, `http_action` for plain HTTP (N16); they differ only where the
    document says so. Where `verify` names networks, a name that goes direct matches only connections to an address
    in one of them (N20).
    """

    name: str
    destinations: tuple[Destination, ...]
    action: Action
    http_action: Action
    verify: tuple[Network, ...] = ()
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """What happens to a connection that no rule matches."""

    action: Action
    http_action: Action
    on_unknown_name: UnknownName = UnknownName.CONNECT_IP


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address of a proxy. `host` is a name or an address (IPv6 without brackets); lower `priority` first."""

    host: str
    port: int
    tls: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """Files or parts of a Secret, in PEM, with which this side proves to a proxy who it is (mutual TLS)."""

    certificate_file: str
    key_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTls:
    """
    How TLS to the proxy itself is spoken.

    The authorities are PEM text, or a file or Secret with it; neither: the system's. `server_name` is the name expected
    in the certificate; None: the endpoint's host.
    """

    ca_pem: str | None = None
    ca_file: str | None = None
    server_name: str | None = None
    minimum_version: TlsVersion = TlsVersion.V1_2
    client_certificate: ClientCertificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicLogin:
    """A login by name and password (RFC 7617), kept in a file (`user:password`, and nothing else) or in a Secret."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How the endpoints of a proxy are probed, by connecting to them; in seconds, and in probes."""

    interval: float = 10.0
    timeout: float = 2.0
    unhealthy_after: int = 2
    healthy_after: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """After how many failures in a row an endpoint is left out, and for how many seconds at first."""

    failures: int = 5
    ejection_time: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often a tunnel is asked for before its connection is refused, and the first pause between, in seconds."""

    count: int = 1
    backoff: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A corporate proxy: where it is, what it accepts and what it demands."""

    name: str
    endpoints: tuple[Endpoint, ...]
    tls: ProxyTls = field(default_factory=ProxyTls)
    login: BasicLogin | None = None
    protocol: ProxyProtocol = ProxyProtocol.HTTP1
    connect_ports: tuple[int, ...] | None = None
    """Ports that it accepts CONNECT for (N19); None: any."""
    plain_http: PlainHttp = PlainHttp.ABSOLUTE_FORM
    connect_timeout: float = 5.0
    """Seconds."""
    health: HealthCheck | None = None
    """None: endpoints are not probed."""
    outlier: Outlier | None = None
    """None: whatever an endpoint answers, it stays in use."""
    attempts: Attempts = field(default_factory=Attempts)
    idle_timeout: float | None = None
    """Seconds after which a tunnel that carries nothing is cut; None: never."""
    where: Where


class Operator(Enum):
    """Operators of a Kubernetes label selector requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequirement:
    """One requirement of a label selector; `matchLabels` entries are `IN` with one value."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which pods a policy is for. An empty part matches everything; `labels` are those of the pod."""

    namespaces: tuple[str, ...] = ()
    namespace_labels: tuple[LabelRequirement, ...] = ()
    labels: tuple[LabelRequirement, ...] = ()
    service_accounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysDirect:
    """The built-in bypasses that a policy can switch off one by one (N12)."""

    loopback: bool = True
    link_local: bool = True
    cluster_local: bool = True
    cluster_networks: bool = True
    """What the cluster tells of its Services, pods and nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy document, whatever form it was written in."""

    name: str
    namespace: str | None = None
    """None: cluster-wide."""
    priority: int = 0
    selector: Selector = field(default_factory=Selector)
    proxies: tuple[Proxy, ...] = ()
    rules: tuple[Rule, ...] = ()
    default: Default
    dialect: Dialect = Dialect.GO
    dns_mode: DnsMode = DnsMode.OFF
    synthetic_ranges: tuple[Network, ...] = ()
    """Addresses that stand for names: CIDR rules never match them (N10)."""
    server_first_ports: tuple[int, ...] = SERVER_FIRST_PORTS
    """Ports whose servers speak first: no wait for the client's first bytes."""
    always_direct: AlwaysDirect = field(default_factory=AlwaysDirect)
    access_log: str | None = STDOUT
    """`stdout`, or the absolute path of a file beside Envoy; None: nothing is logged."""
    explicit_port: int | None = None
    """The port, on loopback, for applications that know of a proxy; None: there is none."""
    mode: Mode = Mode.TRANSPARENT
    """How it reaches the pods that do not choose for themselves."""
    trusted_ca: str | None = None
    """The company's certificate authorities, in PEM, for applications that want them; None: there are none."""
    created: str = ""
    """When its document was made (RFC 3339 in UTC; empty: unknown): the older of equals is in force."""
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPolicy:
    """
    A document that can't be used and has no last good version: only whom it claims is known.

    The pods that it would be in force for are told nothing, so that a running Envoy keeps what it has
    and a new one refuses; giving them a policy of lower rank could widen what they may reach. Where not even the
    selector can be read, `selector` is empty and `is_unreadable` true: it may concern every pod in its scope,
    and ranks before every other candidate.
    """

    name: str
    namespace: str | None = None
    priority: int = 0
    selector: Selector = field(default_factory=Selector)
    is_unreadable: bool = False
    created: str = ""
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is known of the pod beside an Envoy: what selectors look at."""

    pod: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted pairs."""
    service_account: str = ""
    namespace_labels: tuple[tuple[str, str], ...] = ()
    """Sorted pairs."""
    policy: str = ""
    """The policy that the pod, or else its namespace, would like among those that are equal otherwise; "": any."""
    mode: Mode = Mode.TRANSPARENT
    """How its applications reach the sidecar; in explicit mode nothing is captured, and nothing listens for it."""
