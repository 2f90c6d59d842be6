"""What an Envoy says that it holds, as it is read: completely, without credentials, and whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.inspection.config_dump import State, describe_type, parse_config_dump
from xds.resources import ResourceType

RECORDED = Path(__file__).parents[2] / "data" / "envoy-1.40" / "config_dump.json"
"""A cluster with endpoints, a listener that waits for its routes, and one that was refused."""
CANARY = "s3cr3t-canary"
PREFIX = "type.googleapis.com/"
CLUSTER, SECRET = ResourceType.CLUSTER.type_url, ResourceType.SECRET.type_url


def dump(section: str, **content: object) -> str:
    return json.dumps({"configs": [{"@type": f"{PREFIX}envoy.admin.v3.{section}ConfigDump", **content}]})


def test_a_recorded_dump_is_read_completely() -> None:
    read = parse_config_dump(RECORDED.read_bytes())

    assert (read.node_id, read.labels, read.service_account) == ("web-0.shop", (("app", "web"),), "web")
    assert read.is_delta
    assert [(item.kind, item.name, item.version, item.state) for item in read.resources] == [
        ("cluster", "c", "7", State.ACTIVE),
        ("endpoint", "e", "", State.ACTIVE),
        ("listener", "bad", "", State.REFUSED),
        ("listener", "waits", "7", State.WARMING),
    ]
    assert read.resources[0].updated == "2026-11-21T20:42:11.912Z"
    assert read.resources[0].content["@type"] == CLUSTER
    refusal = read.resources[2].refusal
    assert refusal is not None
    assert refusal.text == "error adding listener '127.0.0.1:0': no filter chains specified"
    assert refusal.at == "2026-11-21T20:42:11.921Z"


def test_what_stands_in_the_bootstrap_is_left_out() -> None:
    read = parse_config_dump(RECORDED.read_bytes())

    assert "egress-xds" not in {item.name for item in read.resources}


def test_names_that_another_program_wrote_in_the_form_of_json_are_read_too() -> None:
    cluster = {"@type": CLUSTER, "name": "c", "connectTimeout": "5s", "loadAssignment": {"clusterName": "c"}}
    held = {"versionInfo": "1", "cluster": cluster, "lastUpdated": "2026-11-21T20:00:00Z"}

    (read,) = parse_config_dump(dump("Clusters", dynamicActiveClusters=[held])).resources

    assert (read.version, read.updated) == ("1", "2026-11-21T20:00:00Z")
    assert read.content == {
        "@type": CLUSTER, "name": "c", "connect_timeout": "5s", "load_assignment": {"cluster_name": "c"},
    }  # fmt: skip


def test_keys_that_an_envoy_took_from_elsewhere_stay_as_they_are() -> None:
    metadata = {"filter_metadata": {"x": {"someKey": 1}}}
    held = {"version_info": "1", "cluster": {"@type": CLUSTER, "name": "c", "metadata": metadata}}

    (read,) = parse_config_dump(dump("Clusters", dynamic_active_clusters=[held])).resources

    assert read.content["metadata"] == metadata


def test_no_credential_is_shown_that_stands_under_a_json_name_among_proto_names() -> None:
    cluster = {"@type": CLUSTER, "name": "c", "tls": {"privateKey": {"inlineBytes": CANARY}, "clientSecret": CANARY}}

    (read,) = parse_config_dump(dump("Clusters", dynamic_active_clusters=[{"cluster": cluster}])).resources

    assert read.content["tls"] == {"privateKey": {"inlineBytes": "[redacted]"}, "clientSecret": "[redacted]"}


def test_an_update_that_was_refused_stands_beside_what_is_in_use() -> None:
    listener = {"@type": ResourceType.LISTENER.type_url, "name": "l"}
    error = {
        "failed_configuration": listener,
        "details": f"no answer of https://me:{CANARY}@proxy.example/",
        "version_info": "2",
    }
    entry = {"name": "l", "active_state": {"version_info": "1", "listener": listener}, "error_state": error}

    read = parse_config_dump(dump("Listeners", dynamic_listeners=[entry, {"error_state": error}])).resources

    assert [(item.name, item.version, item.state) for item in read] == [("l", "1", State.ACTIVE)]
    assert read[0].refusal is not None
    assert (read[0].refusal.version, CANARY in read[0].refusal.text) == ("2", False)
    assert "proxy.example" in read[0].refusal.text


def test_a_listener_may_be_there_in_several_states() -> None:
    listener = {"@type": ResourceType.LISTENER.type_url, "name": "l"}
    states = ("active_state", "warming_state", "draining_state")
    entry = {state: {"version_info": str(number), "listener": listener} for number, state in enumerate(states)}

    read = parse_config_dump(dump("Listeners", dynamic_listeners=[{"name": "l", **entry}])).resources

    assert {item.state: item.version for item in read} == {
        State.ACTIVE: "0", State.WARMING: "1", State.DRAINING: "2",
    }  # fmt: skip


def test_types_of_other_control_planes_are_read_as_they_are() -> None:
    scoped = {"@type": f"{PREFIX}envoy.config.route.v3.ScopedRouteConfiguration", "name": "s"}
    filters = [{"version_info": "3", "ecds_filter": {"@type": f"{PREFIX}example.v1.Filter", "name": "f"}}]
    text = json.dumps({
        "configs": [
            {
                "@type": f"{PREFIX}envoy.admin.v3.ScopedRoutesConfigDump",
                "dynamic_scoped_route_configs": [{"name": "x", "version_info": "2", "scoped_route_configs": [scoped]}],
            },
            {"@type": f"{PREFIX}envoy.admin.v3.EcdsConfigDump", "ecds_filters": filters},
            {"@type": f"{PREFIX}example.admin.Other", "dynamic_things": [{"thing": scoped}]},
        ]
    })  # fmt: skip

    read = parse_config_dump(text).resources

    assert {(item.kind, item.name, item.version) for item in read} == {
        ("ScopedRouteConfiguration", "s", "2"),
        ("Filter", "f", "3"),
    }


def test_the_versions_of_an_envoy_that_asks_for_the_state_of_the_world_are_those_of_whole_answers() -> None:
    bootstrap = {"node": {"id": "a.b"}, "dynamic_resources": {"ads_config": {"api_type": "GRPC"}}}

    assert not parse_config_dump(dump("Bootstrap", bootstrap=bootstrap)).is_delta


def test_a_version_with_a_time_to_live_is_the_version_without() -> None:
    held = {"version_info": "abc+ttl", "cluster": {"@type": CLUSTER, "name": "c"}}

    assert parse_config_dump(dump("Clusters", dynamic_active_clusters=[held])).resources[0].version == "abc"


def test_credentials_that_an_envoy_did_not_redact_are_redacted() -> None:
    secret = {"name": "s", "secret": {"@type": SECRET, "name": "s", "tls_certificate": {"private_key": CANARY}}}
    cluster = {
        "@type": CLUSTER,
        "name": "c",
        "transport_socket": {"typed_config": {"@type": "x", "private_key": {"inline_string": CANARY}}},
        "headers": [{"key": "proxy-authorization", "value": CANARY}],
    }
    text = json.dumps({
        "configs": [
            {"@type": f"{PREFIX}envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": [secret]},
            {"@type": f"{PREFIX}envoy.admin.v3.ClustersConfigDump", "dynamicActiveClusters": [{"cluster": cluster}]},
        ]
    })  # fmt: skip

    read = parse_config_dump(text)

    assert {item.name for item in read.resources} == {"s", "c"}
    assert CANARY not in repr(read)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(f"<html>{CANARY}</html>", id="a page"),
        pytest.param("[]", id="a list"),
        pytest.param('{"configs": []}', id="no sections"),
        pytest.param(f'{{"configs": [{{"@type": "{CANARY}"}}]}}', id="sections of something else"),
        pytest.param("[" * 100_000, id="a text that no parser takes"),
        pytest.param(dump("Clusters", a=json.loads("[" * 300 + "]" * 300)), id="something much too deep"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
    ],
)
def test_what_is_no_dump_is_said_to_be_none_without_repeating_it(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="no answer of Envoy's /config_dump") as raised:
        parse_config_dump(text)

    assert CANARY not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([
                "@type", "name", "cluster", "error_state", "details", "active_state", "version_info", "type", "node",
                "bootstrap", "metadata", "labels", "dynamic_resources", "ads_config", "api_type", "eds_cluster_config",
            ])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["dynamic_listeners", "dynamic_warming_clusters", "bootstrap"]), JSON))
def test_no_content_of_a_dump_makes_it_fail(content: dict[str, object]) -> None:
    read = parse_config_dump(dump("Any", **content))

    assert all(item.kind is not None for item in read.resources)


def test_types_have_short_names() -> None:
    assert [describe_type(kind.type_url) for kind in ResourceType] == [
        "cluster", "endpoint", "listener", "route", "secret",
    ]  # fmt: skip
    assert describe_type("nonsense") == "nonsense"
