"""
What the text of a flag or a variable may be, and the value that it stands for.

Each function raises ValueError with a reason that completes "--flag is …: "; who gave the text, and a remedy, is added
by whoever asked. Nothing here knows which flags there are. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectAddress:
    """One `--always-direct`: a network, the ports in question (empty: all) and why."""

    reason: str
    network: Network
    ports: tuple[int, ...] = ()


def parse_host_port(text: str, *, lowest: int = 0) -> HostPort:
    """
    Parse `host:port` or `[v6]:port`. Raises ValueError.

    Port 0 is allowed where one listens, for the kernel chooses then; to connect to, 1 is `lowest`.
    """
    if "/" in text or "@" in text:
        raise ValueError("it must be HOST:PORT alone, without a scheme, a login or a path")
    host, separator, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:18000")
    if not separator or not is_host(host[1:-1] if is_bracketed else host):
        raise ValueError("it must be HOST:PORT, as in 127.0.0.1:18000")
    return HostPort(host=host[1:-1] if is_bracketed else host, port=parse_port(port, lowest=lowest))


def is_host(text: str) -> bool:
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
    ports = () if port is None else (parse_port(port, lowest=1),)
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


def parse_port(text: str, *, lowest: int) -> int:
    """Parse a port number. Raises ValueError."""
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


def parse_identifier(text: str) -> str:
    """Parse the name of a replica. Raises ValueError."""
    if not _IDENTIFIER.fullmatch(text):
        raise ValueError("it must be at most 253 letters, digits, dots, hyphens and underscores")
    return text


_MIN_AGE, _MAX_AGE = 1.0, 86_400.0


def parse_age(text: str) -> float:
    """Parse a duration from one second to a day. Raises ValueError."""
    seconds = parse_seconds(text)
    if not _MIN_AGE <= seconds <= _MAX_AGE:
        raise ValueError(f"it must be from {_MIN_AGE:g}s to {_MAX_AGE / 60:g}m, as in 30m")
    return seconds


def parse_file(text: str) -> Path:
    """Parse a path that must be one: an empty value would switch off what is demanded of callers."""
    if not text:
        raise ValueError("it is empty; give the path of a file")
    return Path(text)


_NO_TEXT = frozenset(" @")


def parse_text(text: str) -> str:
    """Parse a text that names something, such as an audience. Raises ValueError."""
    if not text or not text.isprintable() or not _NO_TEXT.isdisjoint(text):
        raise ValueError("it must be printable text without spaces and without a login")
    return text


_IMAGE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?/)?"
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9]+([+._-][a-z0-9]+)*:[0-9a-fA-F]{32,128})?"
)
"""Registry, path, tag and digest, as the distribution project's `reference` package has them."""
_LONGEST_IMAGE = 512


def parse_image(text: str) -> str:
    """Parse the reference of an image, or nothing. Raises ValueError."""
    if text and not (len(text) <= _LONGEST_IMAGE and _IMAGE.fullmatch(text)):
        raise ValueError("it must be an image, as in registry.corp.example/egress-xds:1.0")
    return text


def parse_default(text: str) -> tuple[str, str]:
    """Parse `NAME=VALUE`. Raises ValueError."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ValueError("it must be NAME=VALUE, as in sidecar-memory=128Mi")
    return name.strip(), value.strip()


def parse_streams(text: str) -> int:
    """Parse a number of streams. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS and int(text) > 0):
        raise ValueError("it must be a number from 1 to 99999")
    return int(text)


def parse_path(text: str) -> Path | None:
    """Parse a path, or nothing."""
    return Path(text) if text else None


def parse_choice(*allowed: str) -> Callable[[str], str]:
    """Return what parses one of `allowed` and raises ValueError at anything else."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return text

    return parse


def parse_switch(text: str) -> bool:
    """Parse `on` or `off`. Raises ValueError."""
    return parse_choice("on", "off")(text) == "on"


def parse_context(text: str) -> str:
    """Parse the name of a kubeconfig's context. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("it must be the name of a context; see them: kubectl config get-contexts")
    return text


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def parse_namespace(text: str) -> str:
    """Parse the name of a namespace, or nothing. Raises ValueError."""
    if text and not _NAMESPACE.fullmatch(text):
        raise ValueError("it must be a namespace: lower-case letters, digits and hyphens, at most 63")
    return text


def parse_optional_host_port(text: str) -> HostPort | None:
    """Parse `host:port`, or nothing. Raises ValueError."""
    return parse_host_port(text) if text else None
