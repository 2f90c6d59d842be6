"""
What the operator chose for this process: flags and environment variables, read once into one frozen value.

`OPTIONS` is the only list of them: the command line builds its flags from it and `read_settings` its
variables. A flag wins over its variable, a variable over the default. No other module reads
the environment. Nothing here opens files, resolves names or knows what a setting is used for.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds.errors import SettingsError, quote_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Network = IPv4Network | IPv6Network

_HIGHEST_PORT = 65535
_PORT_DIGITS = 5
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """An address to listen on or to connect to; an IPv6 `host` has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, or `[host]:port` for IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether no other host can reach it; of names, only `localhost` tells."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some of the clients of a policy: a number, or a part in percent."""

    number: int
    is_percent: bool = False

    def of(self, total: int) -> int:
        """Return how many of `total` that is, one at least."""
        return max(1, -(-total * self.number // 100)) if self.is_percent else self.number


_DEFAULT_AUDIENCE = ("egress-xds",)
DEFAULT_ADMIN = HostPort(host="127.0.0.1", port=18001)
DEFAULT_HTTP = HostPort(host="127.0.0.1", port=18002)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectAddress:
    """One `--always-direct`: a network, the ports in question (empty: all) and why."""

    reason: str
    network: Network
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that `serve` can be told. Durations are seconds."""

    kubernetes: bool = False
    """Policies, Secrets and pods come from an API server, and not from a directory."""
    kubeconfig: Path | None = None
    """None: what a pod is given to speak to its API server."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    namespace: str = ""
    """Whose policies are cluster-wide; empty: the namespace of the credentials."""
    discover_networks: bool = True
    """Whether the networks of Services, pods and nodes are asked of the API server."""
    write_status: bool = True
    """Whether operators are told on their ConfigMaps what became of them."""
    admission_listen: HostPort | None = None
    """Where the API server asks about policies, over TLS; None: nowhere."""
    listen: HostPort = HostPort(host="127.0.0.1", port=18000)
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


def parse_host_port(text: str) -> HostPort:
    """Parse `host:port` or `[v6]:port`. Port 0 is allowed: the kernel chooses. Raises ValueError."""
    if "/" in text or "@" in text:
        raise ValueError("it must be HOST:PORT alone, without a scheme, a login or a path")
    host, separator, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:18000")
    if not separator or not _is_host(host[1:-1] if is_bracketed else host):
        raise ValueError("it must be HOST:PORT, as in 127.0.0.1:18000")
    return HostPort(host=host[1:-1] if is_bracketed else host, port=_parse_port(port, lowest=0))


def _is_host(text: str) -> bool:
    """Whether `text` is a name or an address, which may have a zone: one listens on `fe80::1%eth0`."""
    if ":" not in text:
        return all(map(_HOST_LABEL.fullmatch, text.removesuffix(".").split(".")))
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def parse_direct_address(text: str) -> DirectAddress:
    """Parse `[NAME=]CIDR[:PORT]`, an IPv6 network in brackets if a port follows. Raises ValueError."""
    reason, separator, rest = text.rpartition("=")
    if separator and not reason.strip():
        raise ValueError("there is no name before `=`")
    network, port = _split_port(rest.strip())
    try:
        parsed = ip_network(network, strict=False)
    except ValueError:
        raise ValueError("it must be [NAME=]CIDR[:PORT], as in dns=10.96.0.10/32:53 or [fd00::/8]:53") from None
    if parsed.prefixlen == 0 and port is None:
        raise ValueError(
            f"that is every IPv{parsed.version} address: no policy would be in force; name the networks you mean"
        )
    ports = () if port is None else (_parse_port(port, lowest=1),)
    return DirectAddress(reason=reason.strip() or "always direct by setting", network=parsed, ports=ports)


def parse_cluster_cidr(text: str) -> Network:
    """Parse a network of the cluster. Raises ValueError."""
    try:
        parsed = ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError("it must be a CIDR, as in 10.96.0.0/12 or fd00:10::/56") from None
    if parsed.prefixlen == 0:
        raise ValueError(f"that is every IPv{parsed.version} address; name the ranges of services, pods and nodes")
    return parsed


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        network, _, rest = text[1:].partition("]")
        prefix, separator, port = rest.partition(":")
        return network + prefix, port if separator else None
    if text.count(":") == 1:
        network, _, port = text.partition(":")
        return network, port
    return text, None


def _parse_port(text: str, *, lowest: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS
    if not is_number or not lowest <= int(text) <= _HIGHEST_PORT:
        raise ValueError(f"the port must be a number from {lowest} to {_HIGHEST_PORT}")
    return int(text)


def parse_seconds(text: str) -> float:
    """Parse a duration: `250ms`, `5s`, `1m` or a bare number of seconds. Raises ValueError."""
    number, scale = text.strip(), 1.0
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if number.endswith(suffix):
            number, scale = number.removesuffix(suffix), factor
            break
    try:
        seconds = float(number) * scale
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError("it must be a duration above zero, as in 250ms, 5s or 1m")
    return seconds


_MIN_TTL, _MAX_TTL = 1.0, 86_400.0
"""Seconds. Below, a moment's delay of a heartbeat would cost an Envoy its configuration."""


def parse_ttl(text: str) -> float | None:
    """Parse a duration from one second to a day, or nothing. Raises ValueError."""
    if not text:
        return None
    seconds = parse_seconds(text)
    if not _MIN_TTL <= seconds <= _MAX_TTL:
        raise ValueError(f"it must be from {_MIN_TTL:g}s to {_MAX_TTL / 60:g}m, as in 60s")
    return seconds


_MAX_SHARE = {True: 100, False: 1_000_000}


def parse_share(text: str) -> Share | None:
    """Parse a number, a part such as `5%`, or nothing. Raises ValueError."""
    if not text:
        return None
    is_percent = text.endswith("%")
    number = text.removesuffix("%")
    is_number = number.isascii() and number.isdigit() and len(number) <= len(str(_MAX_SHARE[False]))
    if not is_number or not 1 <= int(number) <= _MAX_SHARE[is_percent]:
        raise ValueError("it must be a number of sidecars or a part of them, as in 3 or 5%")
    return Share(number=int(number), is_percent=is_percent)


_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{0,253}")


def _parse_identifier(text: str) -> str:
    if not _IDENTIFIER.fullmatch(text):
        raise ValueError("it must be at most 253 letters, digits, dots, hyphens and underscores")
    return text


_MIN_AGE, _MAX_AGE = 1.0, 86_400.0


def _parse_age(text: str) -> float:
    seconds = parse_seconds(text)
    if not _MIN_AGE <= seconds <= _MAX_AGE:
        raise ValueError(f"it must be from {_MIN_AGE:g}s to {_MAX_AGE / 60:g}m, as in 30m")
    return seconds


def _parse_file(text: str) -> Path:
    """Parse a path that must be one: an empty value would switch off what is demanded of callers."""
    if not text:
        raise ValueError("it is empty; give the path of a file")
    return Path(text)


_NO_TEXT = frozenset(" @")


def _parse_text(text: str) -> str:
    if not text or not text.isprintable() or not _NO_TEXT.isdisjoint(text):
        raise ValueError("it must be printable text without spaces and without a login")
    return text


def _parse_streams(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS and int(text) > 0):
        raise ValueError("it must be a number from 1 to 99999")
    return int(text)


def _parse_path(text: str) -> Path | None:
    return Path(text) if text else None


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return text

    return parse


def _parse_switch(text: str) -> bool:
    return _choice("on", "off")(text) == "on"


def _parse_context(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be the name of a context; see them: kubectl config get-contexts")
    return text


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _parse_namespace(text: str) -> str:
    if text and not _NAMESPACE.fullmatch(text):
        raise ValueError("it must be a namespace: lower-case letters, digits and hyphens, at most 63")
    return text


def _parse_optional_host_port(text: str) -> HostPort | None:
    return parse_host_port(text) if text else None


OPTIONS: tuple[Option, ...] = (
    Option(
        field="kubernetes",
        metavar="on|off",
        help="Take policies, Secrets and pods from the API server instead of DIR.",
        parse=_parse_switch,
        is_switch=True,
    ),
    Option(
        field="kubeconfig",
        metavar="FILE",
        help="How to reach the API server from outside of the cluster (default: as a pod does).",
        parse=_parse_file,
    ),
    Option(field="context", metavar="NAME", help="The context of the kubeconfig.", parse=_parse_context),
    Option(
        field="namespace",
        metavar="NAME",
        help="Policies in this namespace concern the whole cluster (default: the namespace of the credentials).",
        parse=_parse_namespace,
    ),
    Option(
        field="discover_networks",
        metavar="on|off",
        help="Have the networks of Services, pods and nodes direct, as the API server tells them.",
        parse=_parse_switch,
    ),
    Option(
        field="write_status",
        metavar="on|off",
        help="Tell operators on their ConfigMaps, and by Events, what became of them.",
        parse=_parse_switch,
    ),
    Option(
        field="admission_listen",
        metavar="HOST:PORT",
        help="Where the API server asks whether a policy is good, with the server's certificate; empty for nowhere.",
        parse=_parse_optional_host_port,
    ),
    Option(field="listen", metavar="HOST:PORT", help="Address of the ADS server.", parse=parse_host_port),
    Option(
        field="admin_listen",
        metavar="HOST:PORT",
        help="Address for operators: client status, health and reflection over gRPC; empty for none.",
        parse=_parse_optional_host_port,
    ),
    Option(
        field="http_listen",
        metavar="HOST:PORT",
        help="Address of /metrics, /healthz and /readyz; empty for none.",
        parse=_parse_optional_host_port,
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
        parse=_choice("dual", "ipv4"),
    ),
    Option(
        field="resolv_conf",
        metavar="FILE",
        help="Its name servers are always direct; empty for none.",
        parse=_parse_path,
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
        parse=_parse_file,
    ),
    Option(field="tls_key", metavar="FILE", help="Its private key, PEM.", parse=_parse_file),
    Option(
        field="client_ca",
        metavar="FILE",
        help="Demand of clients a certificate that this authority signed, with a SPIFFE ID that names their namespace.",
        parse=_parse_file,
    ),
    Option(
        field="jwks",
        metavar="FILE",
        help="Demand of clients a bearer token that a key of this set signed, such as a service account's.",
        parse=_parse_file,
    ),
    Option(
        field="token_source",
        metavar="cluster|review|off",
        help="How tokens of pods are checked: with the API server's keys, by asking it, or not at all.",
        parse=_choice("cluster", "review", "off"),
    ),
    Option(
        field="token_audience",
        metavar="NAME",
        help="For whom a token must be made.",
        parse=_parse_text,
        is_repeatable=True,
    ),
    Option(
        field="token_issuer",
        metavar="URL",
        help="Who must have made it; empty for anybody whose key is in the set.",
        parse=lambda text: _parse_text(text) if text else "",
    ),
    Option(
        field="max_connection_age",
        metavar="DURATION",
        help="Have clients connect anew after about this long, so that they spread over the replicas.",
        parse=_parse_age,
    ),
    Option(
        field="max_streams_per_node",
        metavar="N",
        help="Streams that one node may have open.",
        parse=_parse_streams,
    ),
    Option(
        field="identifier",
        metavar="NAME",
        help="Name of this replica, which Envoys show; empty for the host name.",
        parse=_parse_identifier,
    ),
    Option(
        field="address_file",
        metavar="FILE",
        help="Write the address here once it listens.",
        parse=_parse_path,
    ),
    Option(
        field="log_format",
        metavar="console|json",
        help="Form of the log on stderr.",
        parse=_choice("console", "json"),
    ),
    Option(
        field="log_level",
        metavar="LEVEL",
        help="debug, info, warning or error.",
        parse=_choice("debug", "info", "warning", "error"),
    ),
)


def load_settings(flags: Mapping[str, str | tuple[str, ...] | None]) -> Settings:
    """
    Read the settings of this process: `flags` by field name, None where a flag was not given.

    Raises SettingsError, which names the flag or the variable.
    """
    return read_settings(flags, os.environ)


def read_settings(flags: Mapping[str, str | tuple[str, ...] | None], environ: Mapping[str, str]) -> Settings:
    """Combine flags, variables and defaults; see `load_settings`."""
    values: dict[str, Any] = {"api_server": _find_api_server(environ)}
    for option in OPTIONS:
        given = flags.get(option.field)
        if given is not None and given != ():
            values[option.field] = _parse_all(option, option.flag, (given,) if isinstance(given, str) else given)
        elif (text := environ.get(option.variable)) is not None:
            texts = tuple(text.split()) if option.is_repeatable else (text,)
            values[option.field] = _parse_all(option, option.variable, texts, given_as=text)
    settings = Settings(**values)
    if settings.debounce_max < settings.debounce_quiet:
        raise SettingsError(
            f"--debounce-max ({settings.debounce_max:g} s) is shorter than --debounce-quiet "
            f"({settings.debounce_quiet:g} s); raise EGRESS_XDS_DEBOUNCE_MAX or lower EGRESS_XDS_DEBOUNCE_QUIET"
        )
    settings = _settle_cluster(settings)
    _check_authentication(settings)
    return settings


def _settle_cluster(settings: Settings) -> Settings:
    """Fill in what follows from being in a cluster or not. Raises SettingsError."""
    if settings.kubernetes:
        source = settings.token_source or ("cluster" if settings.jwks is None else "off")
        if source != "off" and settings.jwks is not None:
            raise SettingsError(f"--jwks and --token-source {source} contradict one another; leave one of them out")
        if settings.admission_listen is not None and settings.tls_certificate is None:
            raise SettingsError("--admission-listen needs TLS; add --tls-certificate and --tls-key")
        return replace(settings, token_source=source)
    of_clusters = ("kubeconfig", "context", "namespace", "admission_listen", "token_source")
    for option in OPTIONS:
        if option.field in of_clusters and getattr(settings, option.field):
            raise SettingsError(f"{option.flag} means nothing without --kubernetes; add it, or leave this out")
    return settings


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
    if not _is_host(host):
        raise SettingsError("KUBERNETES_SERVICE_HOST is not a host; correct it, or use --api-server HOST:PORT")
    try:
        return HostPort(host=host, port=_parse_port(environ.get("KUBERNETES_SERVICE_PORT", "443"), lowest=1))
    except ValueError as error:
        raise SettingsError(
            f"KUBERNETES_SERVICE_PORT is unusable: {error}; correct it, or use --api-server HOST:PORT"
        ) from error
