"""Whatever a file says that should be an Envoy's dump: `xds dump` ends with one of its exit codes."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xds.cli import run_command
from xds.cli.resources import Shown, summarise

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "type.googleapis.com/"
TEXTS = st.text(st.characters(), max_size=5) | st.sampled_from(["\ud800", "\x1b[2J", "EDS", "web-0.shop", "1e308"])
KEYS = st.sampled_from([
    "@type", "name", "id", "node", "metadata", "labels", "serviceAccount", "type", "version_info", "versionInfo",
    "last_updated", "error_state", "details", "failed_configuration", "last_update_attempt", "cluster", "listener",
    "cluster_name", "endpoint_config", "active_state", "warming_state", "draining_state", "dynamic_listeners",
    "dynamic_active_clusters", "dynamic_warming_secrets", "dynamic_route_configs", "filter_chains", "virtual_hosts",
    "domains", "load_assignment", "endpoints", "lb_endpoints", "address", "port_value", "server_listener_name",
    "listener_filters", "typed_config", "server_config", "inline_dns_table", "virtual_domains", "endpoint",
    "address_list", "eds_cluster_config", "service_name", "bootstrap", "dynamic_resources", "ads_config", "api_type",
])  # fmt: skip
TYPES = st.sampled_from([
    f"{PREFIX}{name}"
    for name in (
        "envoy.config.cluster.v3.Cluster", "envoy.config.listener.v3.Listener",
        "envoy.config.route.v3.RouteConfiguration", "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "envoy.extensions.transport_sockets.tls.v3.Secret", "odd.Type",
    )
])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=4), max_leaves=12
)


def objects(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return objects that mostly have these fields, and others, too."""
    usual = st.fixed_dictionaries({}, optional=fields)
    return st.builds(lambda more, known: {**more, **known}, st.dictionaries(KEYS, ANYTHING, max_size=2), usual)


TABLE = objects(virtual_domains=ANYTHING | st.lists(objects(endpoint=ANYTHING), max_size=2))
CONTENTS = st.one_of(
    objects(
        name=ANYTHING,
        filter_chains=st.lists(objects(name=ANYTHING), max_size=2),
        virtual_hosts=st.lists(objects(domains=ANYTHING), max_size=2),
        endpoints=st.lists(objects(address=TEXTS, port_value=ANYTHING), max_size=2),
    ),
    TABLE.map(lambda table: {"listener_filters": [{"typed_config": {"server_config": {"inline_dns_table": table}}}]}),
)
TYPED = st.builds(lambda content, url: {**content, "@type": url}, CONTENTS, TYPES)
ENTRIES = st.lists(
    objects(name=ANYTHING, cluster=TYPED, listener=TYPED, active_state=objects(listener=TYPED), error_state=ANYTHING),
    max_size=2,
)
SECTIONS = st.builds(
    lambda kind, fields: {**fields, "@type": f"{PREFIX}envoy.admin.v3.{kind}ConfigDump"},
    st.sampled_from(["Clusters", "Listeners", "Routes", "Bootstrap", "Ecds"]),
    objects(bootstrap=ANYTHING, dynamic_listeners=ENTRIES, dynamic_active_clusters=ENTRIES),
)
DUMPS = st.lists(SECTIONS | ANYTHING, max_size=4).map(lambda configs: {"configs": configs}) | ANYTHING


@pytest.mark.parametrize("output", ["table", "yaml", "json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(dump=DUMPS)
def test_no_dump_makes_it_fail(tmp_path: Path, output: str, dump: object) -> None:
    file = tmp_path / "dump.json"
    file.write_text(json.dumps(dump))
    # Of UTF-8, as real ones are: not everything can be written.
    out, err = (TextIOWrapper(BytesIO(), "utf-8", newline="") for _ in range(2))

    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(["dump", "--config-dump", str(file), "-o", output])

    assert code in {0, 1, 2, 3}


@given(content=CONTENTS)
def test_no_content_is_too_odd_for_a_summary(content: dict[str, object]) -> None:
    assert isinstance(summarise(Shown(kind="x", name="x", version="", content=content)), str)
