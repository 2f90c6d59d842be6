"""
What each chain writes about a finished connection or request: one JSON line on Envoy's stdout.

The line tells which chain took the connection and what came of it; it holds no path, header or credential.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import DataSource, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.google.protobuf import Any, Struct, Value

_FIELDS = {
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "chain": "%FILTER_CHAIN_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "duration_ms": "%DURATION%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "flags": "%RESPONSE_FLAGS%",
    "host": "%REQ(:AUTHORITY)%",
    "server_name": "%REQUESTED_SERVER_NAME%",
    "start": "%START_TIME%",
    "status": "%RESPONSE_CODE%",
    "upstream": "%UPSTREAM_HOST%",
}


def build_access_log() -> list[AccessLog]:
    """Build the access log that every chain has."""
    fields = {name: Value(string_value=value) for name, value in sorted(_FIELDS.items())}
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=Struct(fields=fields)))
    return [AccessLog(name="envoy.access_loggers.stdout", typed_config=Any.pack(log))]


def build_filter_state_value(key: str, text_format: str) -> FilterStateValue:
    """Remember what `text_format` evaluates to under `key`, as a string."""
    source = DataSource(inline_string=text_format)
    return FilterStateValue(
        object_key=key, factory_key="envoy.string", format_string=SubstitutionFormatString(text_format_source=source)
    )
