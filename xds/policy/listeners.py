"""
What a policy says of Envoy's own listeners: where they log, and a port for applications that know of a proxy.

Nothing here knows rules. Invariant: a port is none that Envoy needs for itself, and no proxy is Envoy itself.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xds.names import DNS_PORT, OUTBOUND_PORT
from xds.policy.findings import quote
from xds.policy.hosts import Problem, is_address_like
from xds.policy.model import EXPLICIT_PORT, STDOUT, Mode

if TYPE_CHECKING:
    from xds.policy.documents import AccessLogShape, ExplicitShape
    from xds.policy.findings import Findings
    from xds.policy.model import Endpoint
    from xds.policy.yaml_lines import Node

_OFF = "off"
_LONGEST_PATH = 4096
_ADMIN_PORT = 15000
_TAKEN = {OUTBOUND_PORT: "captured connections", _ADMIN_PORT: "Envoy's admin interface", DNS_PORT: "names"}


def read_log_path(shape: AccessLogShape, node: Node, findings: Findings) -> str | None:
    """Return where to log; None is nowhere."""
    if shape.path == _OFF:
        return None
    path = PurePosixPath(shape.path)
    is_file = path.is_absolute() and ".." not in path.parts and not shape.path.endswith("/")
    if shape.path != STDOUT and not (is_file and len(shape.path) <= _LONGEST_PATH and shape.path.isprintable()):
        message = f"{quote(shape.path)} is no place for a log"
        findings.add("EX109", node, message, "write `stdout`, `off`, or the absolute path of a file")
        return STDOUT
    return shape.path


def read_explicit_port(shape: ExplicitShape | None, mode: Mode, node: Node, findings: Findings) -> int | None:
    """Return the port of explicit mode; None: it is off. A policy that reaches pods in this mode has one."""
    if shape is None:
        return EXPLICIT_PORT if mode is Mode.EXPLICIT else None
    if shape.port in _TAKEN:
        message = f"port {shape.port} is taken by {_TAKEN[shape.port]}"
        findings.add("EX109", node, message, "choose another, e.g. 15002")
        return None
    return shape.port


def check_upstream(endpoint: Endpoint, explicit_port: int | None = None) -> Problem | None:
    """Return what is wrong with a proxy that is this Envoy: its tunnels would lead back to itself for ever."""
    own = dict(_TAKEN)
    if explicit_port is not None:
        own[explicit_port] = "explicit mode"
    if endpoint.port not in own or not _is_own(endpoint.host):
        return None
    return Problem(
        "EX316",
        f"port {endpoint.port} of the pod itself is taken by {own[endpoint.port]}: Envoy would be its own proxy",
        "write the address of the company's proxy",
    )


def _is_own(host: str) -> bool:
    if not is_address_like(host):
        return host == "localhost" or host.endswith(".localhost")
    address = ip_address(host)
    return address.is_loopback or address.is_unspecified
