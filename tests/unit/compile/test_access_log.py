"""The access log: where it is, what it never holds, and that rules don't touch it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog

from tests.support.policies import compile_good, policy, rule
from xds.compile.access_log import build_explicit_log, build_http_log, build_refusal_log, build_tcp_log
from xds.explain.messages import unpack
from xds.explain.walk import Envoy
from xds.policy.model import Deny, Direct, Policy

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog


Builder = Callable[[Policy], list["AccessLog"]]
NAMED = dataclasses.replace(policy(), namespace="shop")
ALL_LOGS = [
    pytest.param(lambda given: build_tcp_log(given, None), id="direct"),
    pytest.param(lambda given: build_tcp_log(given, "%REQUESTED_SERVER_NAME%:443"), id="tunnels"),
    pytest.param(build_http_log, id="plain HTTP"),
    pytest.param(lambda given: build_explicit_log(given, "%DYNAMIC_METADATA(a:b)%"), id="explicit mode"),
    pytest.param(build_refusal_log, id="refusals"),
]


def fields_of(logs: list[AccessLog]) -> dict[str, str]:
    (log,) = logs
    config = unpack(log)
    assert isinstance(config, (StdoutAccessLog, FileAccessLog))
    assert config.log_format is not None
    assert config.log_format.omit_empty_values
    assert config.log_format.json_format is not None
    return {name: str(value.string_value) for name, value in config.log_format.json_format.fields.items()}


@pytest.mark.parametrize("build", ALL_LOGS)
def test_every_line_names_policy_chain_action_and_destination_or_what_was_asked_for(build: Builder) -> None:
    fields = fields_of(build(NAMED))
    assert fields["policy"] == "shop/test"
    assert {"chain", "action", "protocol", "name", "reason", "start", "duration_ms", "flags"} <= fields.keys()
    assert {"destination", "asked_for"} & fields.keys()


@pytest.mark.parametrize("build", ALL_LOGS)
def test_no_line_can_hold_a_path_or_a_header(build: Builder) -> None:
    text = json.dumps(fields_of(build(NAMED)))
    for operator in ("%REQ(", "%RESP(", "PATH", "request.path", "request.headers", "request.url", "request.host"):
        assert operator not in text


@pytest.mark.parametrize("build", ALL_LOGS)
def test_a_log_goes_where_the_policy_says(build: Builder) -> None:
    (to_file,) = build(dataclasses.replace(NAMED, access_log="/var/log/egress.log"))
    config = unpack(to_file)
    assert isinstance(config, FileAccessLog)
    assert config.path == "/var/log/egress.log"
    assert build(dataclasses.replace(NAMED, access_log=None)) == []


def test_a_tunnel_tells_what_the_proxy_was_asked_for() -> None:
    assert fields_of(build_tcp_log(NAMED, "%REQUESTED_SERVER_NAME%:443"))["asked_for"] == "%REQUESTED_SERVER_NAME%:443"
    assert "asked_for" not in fields_of(build_tcp_log(NAMED, None))


def test_the_listener_tells_only_of_what_no_chain_tells_of() -> None:
    """Every other connection would be told of twice."""
    (log,) = Envoy(compile_good(policy())).listener.access_log
    assert log.filter is not None
    assert log.filter.extension_filter is not None
    expression = unpack(log.filter.extension_filter)
    assert isinstance(expression, ExpressionFilter)
    assert "['', 'deny']" in expression.expression


def test_another_rule_leaves_every_log_as_it_is() -> None:
    """N23: a chain whose log changes would cut its connections."""
    one, other = (
        Envoy(compile_good(policy(*rules))).listener
        for rules in ([rule(Deny(), "a.example")], [rule(Direct(), "b.example", name="another")])
    )
    assert list(map(bytes, one.filter_chains)) == list(map(bytes, other.filter_chains))
    assert list(map(bytes, one.access_log)) == list(map(bytes, other.access_log))
