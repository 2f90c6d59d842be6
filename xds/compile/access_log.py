"""
What each chain writes about a finished connection or request: one line of JSON, to Envoy's stdout or a file.

The line tells who decided what, where the connection went and what came of it; where it was refused or failed,
`reason` says so in words. It holds no path, no header and no credential: of a Host only what is plainly a name or an
address is shown. A field without a value is left out. Invariant: nothing here depends on rules, for a chain whose log
changes cuts its connections (N23).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, ExtensionFilter
from envoy_data_plane.envoy.config.core.v3 import DataSource, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.google.protobuf import Struct, Value

from xds import names
from xds.compile.routes import DENY, DIRECT, HOST_OF_METADATA, TUNNEL
from xds.compile.wire import pack
from xds.policy.model import STDOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envoy_data_plane.google.protobuf import Any

    from xds.policy.model import Policy

_COMMON = {
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "chain": "%FILTER_CHAIN_NAME%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "duration_ms": "%DURATION%",
    "flags": "%RESPONSE_FLAGS%",
    "start": "%START_TIME%",
}
_UPSTREAM = {
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
_UNREAD = {
    "name": "%REQUESTED_SERVER_NAME%",
    "protocol": "%CEL(connection.requested_server_name != '' ? 'tls' : 'tcp')%",
}

_GAVE_UP = "(response.flags / 32768) % 2 == 1"
"""`URX`: all attempts are used up. `UF` alone may be of an attempt after which another went well."""
_NO_HOST = "(response.flags / 2) % 2 == 1"
"""`UH`."""
_LOOP_GUARD = "the destination is not known: nothing was redirected here, or it is Envoy itself"

Reasons = tuple[tuple[str, str], ...]
"""Conditions (CEL), of which the first that holds counts, and what they mean."""


def _failed_with(words: str) -> str:
    return f"upstream.transport_failure_reason.contains('{words}')"


_OF_TUNNELS: Reasons = (
    (_NO_HOST, "no endpoint of the proxy is usable: its name does not resolve, or none is healthy"),
    (_failed_with("tunnel_response:407"), "the proxy wants a login, or does not accept the one it was given (407)"),
    (_failed_with("tunnel_response:403"), "the proxy refuses this destination (403)"),
    (_failed_with("tunnel_response:50"), "the proxy could not reach the destination (see failure)"),
    (_failed_with("tunnel_response"), "the proxy did not open the tunnel (see failure)"),
    (_failed_with("refused"), "nothing listens at the proxy's endpoint"),
    (_failed_with("verify"), "the proxy's certificate is not trusted, or not for its name (see failure)"),
    (_failed_with("TLS_error"), "TLS to the proxy failed (see failure)"),
    (_failed_with("onnect"), "the proxy's endpoint can't be reached (see failure)"),
    ("true", "the proxy broke the connection off, or did not answer in time"),
)
_OF_DIRECT: Reasons = (
    (_NO_HOST, _LOOP_GUARD),
    (_failed_with("refused"), "nothing listens at the destination"),
    ("true", "the destination can't be reached"),
)


def _details(words: str) -> str:
    return f"response.code_details.startsWith('{words}')"


_TO_PROXY = "has(xds.cluster_name) && xds.cluster_name.startsWith('proxy/')"
_IN_TUNNEL = "has(xds.cluster_name) && xds.cluster_name.startsWith('http')"
_REFUSED = f"request.method == 'CONNECT' && {_TO_PROXY} && {_details('via_upstream')}"
_GATE = _details("rbac_access_denied")
_NO_ROUTE = _details("route_not_found")
_OF_REQUESTS: Reasons = (
    (_GATE, "what the request calls its host is neither a plain name nor an address, or it is not for http"),
    (_NO_ROUTE, "the request is of a kind that no policy decides on"),
    (_details("direct_response"), "a rule or the default refuses it, or the proxy takes no such port or no plain HTTP"),
    (f"response.code == 407 && {_TO_PROXY}", "the proxy wants a login, or does not accept the one it was given (407)"),
    (f"{_REFUSED} && response.code == 403", "the proxy refuses this destination (403)"),
    (f"{_REFUSED} && response.code >= 400", "the proxy did not open the tunnel (see status)"),
    (_details("via_upstream"), ""),
    (_details("dns_resolution_failure"), "the name of the destination does not resolve"),
    (_details("no_healthy_upstream"), "no endpoint is usable: the proxy's name does not resolve, or none is healthy"),
    (f"{_details('upstream_reset')} && {_IN_TUNNEL}", "no tunnel was opened (the line of that tunnel says why)"),
    (_details("upstream_reset"), "the other side can't be reached, or broke the connection off (see failure)"),
    ("response.code >= 400", "the request can't be read, or the other side's answer (see details)"),
)


def build_tcp_log(policy: Policy, tunnel_to: str | None) -> list[AccessLog]:
    """Build the log of a chain whose bytes are dialled directly or, if `tunnel_to` is a format, tunnelled."""
    reasons = _OF_DIRECT if tunnel_to is None else _OF_TUNNELS
    fields = {
        **_UPSTREAM,
        **_UNREAD,
        "action": DIRECT if tunnel_to is None else TUNNEL,
        "reason": _choose(reasons, when=f"{_GAVE_UP} || {_NO_HOST}"),
    }
    return _build(policy, fields if tunnel_to is None else fields | {"asked_for": tunnel_to})


def build_http_log(policy: Policy) -> list[AccessLog]:
    """Build the log of a chain that reads plain HTTP; a line is about one request."""
    return _build(policy, _request_fields())


def _request_fields() -> dict[str, str]:
    refused = f"{_GATE} || {_NO_ROUTE}"
    return {
        **_UPSTREAM,
        "action": f"%CEL({refused} ? '{DENY}' : xds.route_name)%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "name": HOST_OF_METADATA,
        "protocol": "http",
        "reason": _choose(_OF_REQUESTS, when="true"),
        "status": "%RESPONSE_CODE%",
    }


def build_explicit_log(policy: Policy, asked_for: str) -> list[AccessLog]:
    """Build the log of explicit mode; a line is about one request, or one CONNECT and all that followed."""
    fields = _request_fields() | {
        "asked_for": asked_for,
        "protocol": "%CEL(request.method == 'CONNECT' ? 'connect' : 'http')%",
    }
    return _build(policy, fields)


def build_refusal_log(policy: Policy) -> list[AccessLog]:
    """
    Build the log of a listener, for connections that are closed before any chain's own log could tell of them.

    `Listener.access_log` would tell of every connection, so it is limited to those.
    """
    is_refused = ExpressionFilter(
        expression=f"!has(xds.filter_chain_name) || xds.filter_chain_name in ['', '{names.DENY_CHAIN}']"
    )
    fields = {
        **_UNREAD,
        "action": DENY,
        "reason": _choose(
            (
                (
                    f"has(xds.filter_chain_name) && xds.filter_chain_name == '{names.DENY_CHAIN}'",
                    "a rule or the default refuses it, or the proxy takes no such port, or the name it gives is none",
                ),
                ("true", "the connection could not be read"),
            ),
            when="true",
        ),
    }
    logs = _build(policy, fields)
    for log in logs:
        log.filter = AccessLogFilter(
            extension_filter=ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel", typed_config=pack(is_refused)
            )
        )
    return logs


def _build(policy: Policy, fields: dict[str, str]) -> list[AccessLog]:
    if policy.access_log is None:
        return []
    full = {**_COMMON, **fields, "policy": _name_of(policy)}
    name = "envoy.access_loggers.stdout" if policy.access_log == STDOUT else "envoy.access_loggers.file"
    return [AccessLog(name=name, typed_config=_pack_log(policy.access_log, tuple(sorted(full.items()))))]


@lru_cache(maxsize=16)
def _pack_log(place: str, fields: tuple[tuple[str, str], ...]) -> Any:
    """Build what several chains of one policy have in common."""
    values = {name: _build_value(text) for name, text in fields}
    log_format = SubstitutionFormatString(json_format=Struct(fields=values), omit_empty_values=True)
    if place == STDOUT:
        return pack(StdoutAccessLog(log_format=log_format))
    return pack(FileAccessLog(path=place, log_format=log_format))


@lru_cache(maxsize=256)
def _build_value(text: str) -> Value:
    return Value(string_value=text)


def _name_of(policy: Policy) -> str:
    return policy.name if policy.namespace is None else f"{policy.namespace}/{policy.name}"


@lru_cache(maxsize=8)
def _choose(reasons: Reasons, *, when: str) -> str:
    """Write reasons as one expression; nothing (null), which leaves the field out, if there is none to give."""
    return f"%TYPED_CEL({when} ? ({_nested(reasons)}) : null)%"


def _nested(reasons: Sequence[tuple[str, str]]) -> str:
    if not reasons:
        return "null"
    (condition, text), *rest = reasons
    return f"({condition}) ? {json.dumps(text) if text else 'null'} : {_nested(rest)}"


def build_filter_state_value(key: str, text_format: str) -> FilterStateValue:
    """Remember what `text_format` evaluates to under `key`, as a string."""
    source = DataSource(inline_string=text_format)
    return FilterStateValue(
        object_key=key, factory_key="envoy.string", format_string=SubstitutionFormatString(text_format_source=source)
    )
