"""
Has a real Envoy write down which chain took each connection and which cluster it went to, and reads that.

A line is about a connection (of the listener) or about what a chain did (of its last filter). The source port that was
announced tells connections apart; what goes through a listener inside Envoy has none.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.google.protobuf import Any, Struct, Value

from xds.explain.connection import Hop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from envoy_data_plane.envoy.config.listener.v3 import Listener

PATIENCE = 20.0
"""Seconds until a line that is not there counts as one that never will be."""
_PAUSE = 0.05
_FIELDS = {
    "id": "%DOWNSTREAM_REMOTE_PORT%",
    "chain": "%FILTER_CHAIN_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "host": "%UPSTREAM_HOST%",
}


@dataclass(frozen=True)
class Lines:
    """What a log says."""

    chains: dict[int, str]
    """By source port."""
    clusters: dict[int, list[str]]
    """Those that a connection went to; one that a route names, but that nothing was sent to, does not count."""
    inside: list[Hop]
    """What went through listeners inside."""


def write_log(listener: Listener, path: Path) -> None:
    """Have `listener` and its chains write to `path`, besides what they do already."""
    listener.access_log = [*listener.access_log, _build(path, "connection")]
    for chain in listener.filter_chains:
        last = chain.filters[-1]
        assert last.typed_config is not None
        config = last.typed_config.unpack()
        if isinstance(config, (HttpConnectionManager, TcpProxy)):
            config.access_log = [*config.access_log, _build(path, "chain")]
            last.typed_config = Any.pack(config)


def _build(path: Path, kind: str) -> AccessLog:
    fields = {name: Value(string_value=text) for name, text in (_FIELDS | {"kind": kind}).items()}
    config = FileAccessLog(
        path=str(path), log_format=SubstitutionFormatString(json_format=Struct(fields=fields), omit_empty_values=True)
    )
    return AccessLog(name="envoy.access_loggers.file", typed_config=Any.pack(config))


def await_lines(path: Path, expected: Iterable[int], inside: int) -> Lines:
    """Wait until every one of the `expected` connections, and `inside` others, have their lines."""
    wanted, pause = set(expected), threading.Event()
    lines = Lines({}, {}, [])
    for _ in range(int(PATIENCE / _PAUSE)):
        lines = read_lines(path)
        if wanted <= lines.chains.keys() and len(lines.inside) >= inside:
            return lines
        pause.wait(_PAUSE)
    raise AssertionError(f"{wanted - lines.chains.keys()} and {inside - len(lines.inside)} inside left no line")


def read_lines(path: Path) -> Lines:
    """Read what is there; a line that is being written is not there yet."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = Lines({}, defaultdict(list), [])
    for line in text.split("\n")[:-1]:
        fields = json.loads(line)
        cluster = fields.get("cluster", "") if "host" in fields else ""
        source = int(fields.get("id") or 0)
        if fields["kind"] == "connection" and source:
            lines.chains[source] = fields.get("chain", "")
        elif fields["kind"] == "chain" and source:
            lines.clusters[source].append(cluster)
        elif fields["kind"] == "chain":
            lines.inside.append(Hop(fields.get("chain", ""), cluster))
    return lines
