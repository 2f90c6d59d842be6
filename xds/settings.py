"""
What the operator chose for this process: flags and environment variables, read once into one frozen value.

`OPTIONS` is the only list of them: the command line builds its flags from it and `read_settings` its
variables. A flag wins over its variable, a variable over the default. No other module reads
the environment. Nothing here opens files, resolves names or knows what a setting is used for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds.errors import SettingsError, quote_value
from xds.flags import (
    DirectAddress,
    HostPort,
    Network,
    Share,
    is_host,
    parse_age,
    parse_choice,
    parse_cluster_cidr,
    parse_context,
    parse_default,
    parse_direct_address,
    parse_file,
    parse_host_port,
    parse_identifier,
    parse_image,
    parse_namespace,
    parse_optional_host_port,
    parse_path,
    parse_port,
    parse_seconds,
    parse_share,
    parse_streams,
    parse_switch,
    parse_text,
    parse_ttl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DEFAULT_AUDIENCE = ("egress-xds",)
DEFAULT_LISTEN = HostPort(host="127.0.0.1", port=18000)
DEFAULT_ADMIN = HostPort(host="127.0.0.1", port=18001)
DEFAULT_HTTP = HostPort(host="127.0.0.1", port=18002)
_OPERATORS_NAMESPACE = "egress-system"
"""Where the control plane is, for those who look from outside and say nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that `serve` can be told. Durations are seconds."""

    kubernetes: bool = False
    """Policies, Secrets and pods come from an API server, and not from a directory."""
    kubeconfig: Path | tuple[Path, ...] | None = None
    """Several are merged as kubectl does. None: what a pod is given to speak to its API server."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    namespace: str = ""
    """Whose policies are cluster-wide; empty: the namespace of the credentials."""
    namespaced_policies: bool = True
    """Whether namespaces may have policies of their own, which come before those of the cluster."""
    discover_networks: bool = True
    """Whether the networks of Services, pods and nodes are asked of the API server."""
    write_status: bool = True
    """Whether operators are told on their ConfigMaps what became of them."""
    admission_listen: HostPort | None = None
    """Where the API server asks about policies and pods, over TLS; None: nowhere."""
    admission_client_ca: Path | None = None
    """PEM: the API server must show a certificate that it signed; None: whoever reaches the address is answered."""
    inject_image: str = ""
    inject_init_image: str = ""
    inject_envoy_image: str = ""
    """What containers of sidecars are run from; pods get them if the first two are given, Envoy's has a default."""
    inject_server: HostPort | None = None
    """Where sidecars find the control plane; None: at its Service."""
    inject_server_name: str = ""
    """Whom its certificate must be of; empty: the host of that address."""
    inject_ca: Path | None = None
    """PEM: the authority that sidecars believe; None: `ca.crt` beside the certificate."""
    inject_default: tuple[tuple[str, str], ...] = ()
    """Name (without its prefix) and value of annotations of injection, for namespaces and pods that say nothing."""
    inject_forbid: tuple[str, ...] = ()
    """Names of annotations of injection that pods may not have."""
    listen: HostPort = DEFAULT_LISTEN
    admin_listen: HostPort | None = DEFAULT_ADMIN
    """Client status, health and reflection over gRPC, for operators; None: not served."""
    http_listen: HostPort | None = DEFAULT_HTTP
    """Metrics and probes; None: not served."""
    address_file: Path | None = None
    """Written once the server listens: the address that it took, for those who chose port 0."""
    debounce_quiet: float = 0.1
    debounce_max: float = 1.0
    rescan_interval: float = 10.0
    """The policy directory is read again at least this often, whatever the kernel reported."""
    resolve_interval: float = 30.0
    resolve_timeout: float = 2.0
    resolv_conf: Path | None = Path("/etc/resolv.conf")
    api_server: HostPort | None = None
    ip_families: str = "dual"
    """`ipv4` where the pods' kernels know no IPv6 at all: an Envoy refuses a listener that it can't open."""
    always_direct: tuple[DirectAddress, ...] = ()
    cluster_cidr: tuple[Network, ...] = ()
    """Where services, pods and nodes are."""
    canary: Share | None = None
    """How many clients of a policy get a change first; None: all at once."""
    canary_timeout: float = 30.0
    """How long they may take before the others follow anyhow."""
    resource_ttl: float | None = None
    """How long a client may keep its configuration without a word from here; None: for ever."""
    shutdown_grace: float = 5.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files; both or none. None: the server speaks no TLS."""
    client_ca: Path | None = None
    """PEM; every client needs a certificate that it signed."""
    jwks: Path | None = None
    """A JSON Web Key Set; every client needs a token that one of its keys signed."""
    token_source: str = ""
    """In a cluster: `cluster`, `review` or `off`; empty: `cluster`, unless `jwks` is given."""
    token_audience: tuple[str, ...] = _DEFAULT_AUDIENCE
    token_issuer: str = ""
    max_connection_age: float = 1800.0
    max_streams_per_node: int = 32
    identifier: str = ""
    """What clients are told as `control_plane.identifier`; empty: the name of this host."""
    log_format: str = "console"
    log_level: str = "info"

    @property
    def injects(self) -> bool:
        """Whether pods are given sidecars."""
        return bool(self.inject_image)

    @property
    def demands_tokens(self) -> bool:
        """Whether callers must show a bearer token."""
        return self.jwks is not None or self.token_source in {"cluster", "review"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting: the field of `Settings` that it fills, and how text becomes its value."""

    field: str
    metavar: str
    help: str
    parse: Callable[[str], object]
    """Raises ValueError with a readable reason."""
    is_repeatable: bool = False
    """A flag may be repeated; in the variable, the values are separated by white space."""
    is_switch: bool = False
    """The flag stands alone and means `on`."""

    @property
    def flag(self) -> str:
        """The flag of `xds serve`."""
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "EGRESS_XDS_" + self.field.upper()


OPTIONS: tuple[Option, ...] = (
    Option(
        field="kubernetes",
        metavar="on|off",
        help="Take policies, Secrets and pods from the API server instead of DIR.",
        parse=parse_switch,
        is_switch=True,
    ),
    Option(
        field="kubeconfig",
        metavar="FILE",
        help="How to reach the API server from outside of the cluster (default: as a pod does; commands other than "
        "serve look for one as kubectl does).",
        parse=parse_file,
    ),
    Option(field="context", metavar="NAME", help="The context of the kubeconfig.", parse=parse_context),
    Option(
        field="namespace",
        metavar="NAME",
        help="Policies in this namespace concern the whole cluster (default: the pod's own; outside of the "
        "cluster, egress-system, which serve wants to be told).",
        parse=parse_namespace,
    ),
    Option(
        field="namespaced_policies",
        metavar="on|off",
        help="Whether other namespaces may have policies of their own; they come before those of the cluster.",
        parse=parse_switch,
    ),
    Option(
        field="discover_networks",
        metavar="on|off",
        help="Have the networks of Services, pods and nodes direct, as the API server tells them.",
        parse=parse_switch,
    ),
    Option(
        field="write_status",
        metavar="on|off",
        help="Tell operators on their ConfigMaps, and by Events, what became of them.",
        parse=parse_switch,
    ),
    Option(
        field="admission_listen",
        metavar="HOST:PORT",
        help="Where the API server asks about policies and pods, with the server's certificate; empty for nowhere.",
        parse=parse_optional_host_port,
    ),
    Option(
        field="admission_client_ca",
        metavar="FILE",
        help="Answer there only who has a certificate that this authority signed, PEM; followed when it changes.",
        parse=parse_file,
    ),
    Option(
        field="inject_image",
        metavar="IMAGE",
        help="Give sidecars to pods of namespaces with the label egress-xds/inject=true; this project's image.",
        parse=parse_image,
    ),
    Option(
        field="inject_init_image",
        metavar="IMAGE",
        help="The image, of this project too, that captures a pod's connections.",
        parse=parse_image,
    ),
    Option(
        field="inject_envoy_image",
        metavar="IMAGE",
        help="The image of Envoy (default: envoyproxy/envoy, distroless, of the version that is tested).",
        parse=parse_image,
    ),
    Option(
        field="inject_server",
        metavar="HOST:PORT",
        help="Where sidecars find the control plane (default: the Service egress-xds of its namespace).",
        parse=lambda text: parse_host_port(text, lowest=1),
    ),
    Option(
        field="inject_server_name",
        metavar="NAME",
        help="The name in its certificate (default: the host of --inject-server).",
        parse=parse_text,
    ),
    Option(
        field="inject_ca",
        metavar="FILE",
        help="The authority that sidecars believe, PEM (default: ca.crt beside the certificate); followed as that is.",
        parse=parse_file,
    ),
    Option(
        field="inject_default",
        metavar="NAME=VALUE",
        help="An annotation egress-xds/NAME of all pods whose namespace, or they themselves, don't say otherwise.",
        parse=parse_default,
        is_repeatable=True,
    ),
    Option(
        field="inject_forbid",
        metavar="NAME",
        help="An annotation egress-xds/NAME that pods may not have; inject: no pod may opt out.",
        parse=parse_text,
        is_repeatable=True,
    ),
    Option(field="listen", metavar="HOST:PORT", help="Address of the ADS server.", parse=parse_host_port),
    Option(
        field="admin_listen",
        metavar="HOST:PORT",
        help="Address for operators: client status, health and reflection over gRPC; empty for none.",
        parse=parse_optional_host_port,
    ),
    Option(
        field="http_listen",
        metavar="HOST:PORT",
        help="Address of /metrics, /healthz and /readyz; empty for none.",
        parse=parse_optional_host_port,
    ),
    Option(
        field="always_direct",
        metavar="[NAME=]CIDR[:PORT]",
        help="An address that no policy may send through a proxy.",
        parse=parse_direct_address,
        is_repeatable=True,
    ),
    Option(
        field="cluster_cidr",
        metavar="CIDR",
        help="A range of services, pods or nodes: names below .svc and .cluster.local are direct only within them.",
        parse=parse_cluster_cidr,
        is_repeatable=True,
    ),
    Option(
        field="api_server",
        metavar="HOST:PORT",
        help="The Kubernetes API server, always direct (default: from KUBERNETES_SERVICE_HOST and _PORT).",
        parse=parse_host_port,
    ),
    Option(
        field="ip_families",
        metavar="dual|ipv4",
        help="What the pods' kernels know; ipv4 where IPv6 is switched off at boot.",
        parse=parse_choice("dual", "ipv4"),
    ),
    Option(
        field="resolv_conf",
        metavar="FILE",
        help="Its name servers are always direct; empty for none.",
        parse=parse_path,
    ),
    Option(
        field="resolve_interval",
        metavar="DURATION",
        help="How often the proxies' names are looked up again.",
        parse=parse_seconds,
    ),
    Option(
        field="resolve_timeout",
        metavar="DURATION",
        help="How long one look-up may take before it is tried later.",
        parse=parse_seconds,
    ),
    Option(
        field="debounce_quiet",
        metavar="DURATION",
        help="Compile when nothing has changed for this long …",
        parse=parse_seconds,
    ),
    Option(
        field="debounce_max",
        metavar="DURATION",
        help="… or this long after the first change.",
        parse=parse_seconds,
    ),
    Option(
        field="rescan_interval",
        metavar="DURATION",
        help="Read the policies at least this often, whatever the file system reports.",
        parse=parse_seconds,
    ),
    Option(
        field="canary",
        metavar="N|N%",
        help="Give a changed policy to so many of its sidecars first, and to the others once these run it.",
        parse=parse_share,
    ),
    Option(
        field="canary_timeout",
        metavar="DURATION",
        help="Give it to the others after this long, unless one of the first refused it.",
        parse=parse_seconds,
    ),
    Option(
        field="resource_ttl",
        metavar="DURATION",
        help="Sidecars (incremental xDS) that hear nothing for so long drop everything and refuse new connections.",
        parse=parse_ttl,
    ),
    Option(
        field="shutdown_grace",
        metavar="DURATION",
        help="How long open streams get on SIGTERM.",
        parse=parse_seconds,
    ),
    Option(
        field="tls_certificate",
        metavar="FILE",
        help="The server's certificate and those that lead to its authority, PEM; followed when it changes.",
        parse=parse_file,
    ),
    Option(field="tls_key", metavar="FILE", help="Its private key, PEM.", parse=parse_file),
    Option(
        field="client_ca",
        metavar="FILE",
        help="Demand of clients a certificate that this authority signed, with a SPIFFE ID that names their namespace.",
        parse=parse_file,
    ),
    Option(
        field="jwks",
        metavar="FILE",
        help="Demand of clients a bearer token that a key of this set signed, such as a service account's.",
        parse=parse_file,
    ),
    Option(
        field="token_source",
        metavar="cluster|review|off",
        help="How tokens of pods are checked: with the API server's keys, by asking it, or not at all.",
        parse=parse_choice("cluster", "review", "off"),
    ),
    Option(
        field="token_audience",
        metavar="NAME",
        help="For whom a token must be made.",
        parse=parse_text,
        is_repeatable=True,
    ),
    Option(
        field="token_issuer",
        metavar="URL",
        help="Who must have made it; empty for anybody whose key is in the set.",
        parse=lambda text: parse_text(text) if text else "",
    ),
    Option(
        field="max_connection_age",
        metavar="DURATION",
        help="Have clients connect anew after about this long, so that they spread over the replicas.",
        parse=parse_age,
    ),
    Option(
        field="max_streams_per_node",
        metavar="N",
        help="Streams that one node may have open.",
        parse=parse_streams,
    ),
    Option(
        field="identifier",
        metavar="NAME",
        help="Name of this replica, which Envoys show; empty for the host name.",
        parse=parse_identifier,
    ),
    Option(
        field="address_file",
        metavar="FILE",
        help="Write the address here once it listens.",
        parse=parse_path,
    ),
    Option(
        field="log_format",
        metavar="console|json",
        help="Form of the log on stderr.",
        parse=parse_choice("console", "json"),
    ),
    Option(
        field="log_level",
        metavar="LEVEL",
        help="debug, info, warning or error.",
        parse=parse_choice("debug", "info", "warning", "error"),
    ),
)


def load_settings(flags: Mapping[str, str | tuple[str, ...] | None]) -> Settings:
    """
    Read the settings of this process: `flags` by field name, None where a flag was not given.

    Raises SettingsError, which names the flag or the variable.
    """
    return read_settings(flags, os.environ)


def load_operator_settings(flags: Mapping[str, str | tuple[str, ...] | None]) -> Settings:
    """
    Read the settings of a command that an operator runs, on a workstation as a rule; see `load_settings`.

    The cluster is found as kubectl finds it: the kubeconfig that is named, the files of KUBECONFIG, a pod's own
    credentials, `.kube/config` of the home directory.
    """
    return read_settings(flags, os.environ, is_operator=True)


def read_settings(
    flags: Mapping[str, str | tuple[str, ...] | None], environ: Mapping[str, str], *, is_operator: bool = False
) -> Settings:
    """Combine flags, variables and defaults; see `load_settings` and `load_operator_settings`."""
    values: dict[str, Any] = {"api_server": _find_api_server(environ)}
    for option in OPTIONS:
        given = flags.get(option.field)
        if given is not None and given != ():
            values[option.field] = _parse_all(option, option.flag, (given,) if isinstance(given, str) else given)
        elif (text := environ.get(option.variable)) is not None:
            texts = tuple(text.split()) if option.is_repeatable else (text,)
            values[option.field] = _parse_all(option, option.variable, texts, given_as=text)
    settings = Settings(**values)
    if is_operator and settings.kubernetes:
        settings = _find_cluster(settings, environ)
    if settings.debounce_max < settings.debounce_quiet:
        raise SettingsError(
            f"--debounce-max ({settings.debounce_max:g} s) is shorter than --debounce-quiet "
            f"({settings.debounce_quiet:g} s); raise EGRESS_XDS_DEBOUNCE_MAX or lower EGRESS_XDS_DEBOUNCE_QUIET"
        )
    settings = _settle_cluster(settings)
    _check_authentication(settings)
    return settings


def _find_cluster(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Fill in how an operator reaches the cluster, and which namespace is meant outside of it."""
    kubeconfig = settings.kubeconfig or tuple(map(Path, filter(None, environ.get("KUBECONFIG", "").split(os.pathsep))))
    is_pod = bool(environ.get("KUBERNETES_SERVICE_HOST")) and not settings.context
    if not kubeconfig and not is_pod and (home := environ.get("HOME")):
        kubeconfig = Path(home, ".kube", "config")
    if not kubeconfig:
        return settings
    return replace(settings, kubeconfig=kubeconfig, namespace=settings.namespace or _OPERATORS_NAMESPACE)


def _settle_cluster(settings: Settings) -> Settings:
    """Fill in what follows from being in a cluster or not. Raises SettingsError."""
    if not settings.kubernetes:
        _check_outside(settings)
        return settings
    source = settings.token_source or ("cluster" if settings.jwks is None else "off")
    if source != "off" and settings.jwks is not None:
        raise SettingsError(f"--jwks and --token-source {source} contradict one another; leave one of them out")
    _check_api_server(settings)
    _check_admission(settings)
    _check_injection(settings)
    return replace(settings, token_source=source)


def _check_outside(settings: Settings) -> None:
    """Refuse what is about a cluster where there is none. Raises SettingsError."""
    of_clusters = ("kubeconfig", "context", "namespace", "token_source")
    for option in OPTIONS:
        is_of_cluster = option.field in of_clusters or option.field.startswith(("inject_", "admission_"))
        if is_of_cluster and getattr(settings, option.field):
            raise SettingsError(f"{option.flag} means nothing without --kubernetes; add it, or leave this out")


def _check_api_server(settings: Settings) -> None:
    """Refuse half of what says which cluster it is. Raises SettingsError."""
    if settings.kubeconfig is not None and not settings.namespace:
        raise SettingsError(
            "--kubeconfig needs --namespace: that whose policies concern the whole cluster, such as egress-system"
        )
    if settings.context and settings.kubeconfig is None:
        raise SettingsError("--context names one of a kubeconfig; add --kubeconfig FILE, or leave it out")


def _check_admission(settings: Settings) -> None:
    """Refuse half of what reviews need. Raises SettingsError."""
    if settings.admission_listen is not None and settings.tls_certificate is None:
        raise SettingsError("--admission-listen needs TLS; add --tls-certificate and --tls-key")
    if settings.admission_client_ca is not None and settings.admission_listen is None:
        raise SettingsError("--admission-client-ca is about who asks there: add --admission-listen")


def _check_injection(settings: Settings) -> None:
    """Refuse half of what injection needs. Raises SettingsError."""
    if bool(settings.inject_image) is not bool(settings.inject_init_image):
        raise SettingsError("--inject-image and --inject-init-image belong together; give both, or neither")
    if settings.injects and settings.admission_listen is None:
        raise SettingsError("--inject-image needs an address where the API server asks; add --admission-listen")


def _check_authentication(settings: Settings) -> None:
    """Refuse demands that could not be met, or would be met in the open. Raises SettingsError."""
    if (settings.tls_certificate is None) is not (settings.tls_key is None):
        raise SettingsError("--tls-certificate and --tls-key belong together; give both, or neither")
    if settings.client_ca is not None and settings.tls_certificate is None:
        raise SettingsError("--client-ca needs TLS; add --tls-certificate and --tls-key")
    demand = "--jwks" if settings.jwks is not None else f"--token-source {settings.token_source}"
    if settings.demands_tokens and settings.tls_certificate is None and not settings.listen.is_loopback:
        raise SettingsError(
            f"{demand} without TLS would have tokens cross the network to {settings.listen} readable by all; "
            "add --tls-certificate and --tls-key"
        )
    if not settings.demands_tokens and (settings.token_issuer or settings.token_audience != _DEFAULT_AUDIENCE):
        raise SettingsError("--token-issuer and --token-audience check nothing without --jwks; add --jwks FILE")


def _parse_all(option: Option, origin: str, texts: tuple[str, ...], given_as: str = "") -> object:
    """Read each of `texts`; `given_as` is what they were cut from: a part alone might be half of a login."""
    values = tuple(_parse_one(option, origin, text, text if "@" not in given_as else given_as) for text in texts)
    return values if option.is_repeatable else values[0]


def _parse_one(option: Option, origin: str, text: str, shown: str) -> object:
    other = option.variable if origin == option.flag else option.flag
    try:
        return option.parse(text)
    except ValueError as error:
        raise SettingsError(f"{origin} is {quote_value(shown)}: {error}; correct it, or use {other}") from None


def _find_api_server(environ: Mapping[str, str]) -> HostPort | None:
    """Read what Kubernetes tells every container about its API server."""
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return None
    if not is_host(host):
        raise SettingsError("KUBERNETES_SERVICE_HOST is not a host; correct it, or use --api-server HOST:PORT")
    try:
        return HostPort(host=host, port=parse_port(environ.get("KUBERNETES_SERVICE_PORT", "443"), lowest=1))
    except ValueError as error:
        raise SettingsError(
            f"KUBERNETES_SERVICE_PORT is unusable: {error}; correct it, or use --api-server HOST:PORT"
        ) from error
