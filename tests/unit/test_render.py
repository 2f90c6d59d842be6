"""What people see of a resource: everything, in Envoy's words, but for credentials."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    SocketAddress,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    GenericSecret,
    Secret,
    TlsCertificate,
    UpstreamTlsContext,
)
from envoy_data_plane.google.protobuf import Any as ProtoAny
from envoy_data_plane.google.protobuf import Struct
from hypothesis import given
from hypothesis import strategies as st

from tests.support.policies import compile_good, policy, rule
from xds.names import TypeUrl, Version
from xds.policy.model import Deny, Direct
from xds.render import REDACTED, redact_content, render_resource
from xds.resources import Resource, ResourceType, build_resource

EVERYTHING = policy(rule(Direct(), "10.0.0.0/8", "corp.example"), rule(Deny(), "ads.example"))
CANARY = "s3cr3t-canary"
CLUSTER_URL = ResourceType.CLUSTER.type_url


def render_cluster(cluster: Cluster) -> dict[str, object]:
    return render_resource(build_resource(ResourceType.CLUSTER, cluster.name, cluster))


def test_fields_have_their_proto_names_and_values_their_json_form() -> None:
    address = Address(socket_address=SocketAddress(address="192.0.2.1", port_value=3128))
    endpoint = LbEndpoint(endpoint=Endpoint(address=address))
    cluster = Cluster(
        name="c",
        type=ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=timedelta(seconds=5),
        per_connection_buffer_high_watermark_timeout=timedelta(milliseconds=250),
        load_assignment=ClusterLoadAssignment(
            cluster_name="c", endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )

    assert render_cluster(cluster) == {
        "@type": CLUSTER_URL,
        "name": "c",
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "per_connection_buffer_high_watermark_timeout": "0.25s",
        "load_assignment": {
            "cluster_name": "c",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": "192.0.2.1", "port_value": 3128}}
                            }
                        }
                    ]
                }
            ],
        },
    }  # fmt: skip


def test_a_field_with_presence_is_shown_even_if_it_is_zero() -> None:
    cluster = Cluster(name="c", connect_timeout=timedelta(0), per_connection_buffer_limit_bytes=0)

    rendered = render_cluster(cluster)

    assert (rendered["connect_timeout"], rendered["per_connection_buffer_limit_bytes"]) == ("0s", 0)


def test_every_nested_message_of_a_compiled_policy_is_unpacked() -> None:
    snapshot = compile_good(EVERYTHING)

    rendered = [render_resource(item) for kind in ResourceType for item in snapshot.of(kind).values()]

    text = json.dumps(rendered)
    assert "xds.type.matcher.v3.IPMatcher" in text
    assert len(rendered) >= 4
    assert not list(find_opaque(rendered))


def find_opaque(value: object) -> list[object]:
    """Return every `Any` that is not unpacked; a well-known type has a value of its own."""
    if isinstance(value, list):
        return [found for item in value for found in find_opaque(item)]
    if not isinstance(value, dict):
        return []
    is_opaque = set(value) == {"@type", "value"} and "google.protobuf" not in value["@type"]
    own = [value] if is_opaque else []
    return own + [found for item in value.values() for found in find_opaque(item)]


@pytest.mark.parametrize(
    "type_url",
    [
        pytest.param("type.googleapis.com/not.known.v1.Message", id="an unknown package"),
        pytest.param("type.googleapis.com/envoy.config.cluster.v3.Nothing", id="an unknown message"),
        pytest.param("type.googleapis.com/../../etc.passwd", id="not a package at all"),
        pytest.param("nonsense", id="not a type URL"),
    ],
)
def test_of_what_is_not_known_the_size_is_shown_and_nothing_that_may_be_private(type_url: str) -> None:
    nested = TypedExtensionConfig(name="x", typed_config=ProtoAny(type_url=type_url, value=b"abc"))
    cluster = Cluster(name="c", upstream_config=nested)

    shown = {"@type": type_url, "value": "[3 bytes that are not known here]"}

    assert render_cluster(cluster)["upstream_config"] == {"name": "x", "typed_config": shown}
    assert render_resource((TypeUrl(type_url), b"abc")) == shown


@given(st.sampled_from(list(ResourceType)), st.binary(max_size=200))
def test_no_bytes_make_it_fail(kind: ResourceType, body: bytes) -> None:
    assert render_resource((kind.type_url, body))["@type"] == kind.type_url


@given(st.integers(min_value=0), st.integers(0, 255))
def test_no_damage_to_a_listener_makes_it_fail(at: int, byte: int) -> None:
    body = bytearray(DAMAGED)
    body[at % len(body)] = byte

    assert render_resource((ResourceType.LISTENER.type_url, bytes(body)))["@type"] == ResourceType.LISTENER.type_url


def _listener_body() -> bytes:
    snapshot = compile_good(EVERYTHING)
    return next(iter(snapshot.of(ResourceType.LISTENER).values())).body


DAMAGED = _listener_body()


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(Secret(name="s", generic_secret=GenericSecret(secret=DataSource(inline_string=CANARY))),
                     id="a generic secret"),
        pytest.param(Secret(name="s", tls_certificate=TlsCertificate(private_key=DataSource(inline_string=CANARY))),
                     id="a certificate's key"),
        pytest.param(Secret(name="s", validation_context=CertificateValidationContext(
                         trusted_ca=DataSource(inline_string=CANARY))),
                     id="even what is public in it"),
    ],
)  # fmt: skip
def test_of_a_secret_only_the_name_and_the_kind_are_shown(secret: Secret) -> None:
    rendered = render_resource(build_resource(ResourceType.SECRET, "s", secret))

    assert rendered["name"] == "s"
    assert CANARY not in json.dumps(rendered)
    assert base64.b64encode(CANARY.encode()).decode() not in json.dumps(rendered)
    assert list(rendered.values()).count(REDACTED) == 1


def test_a_secret_that_can_not_be_read_is_not_shown_either() -> None:
    rendered = render_resource((ResourceType.SECRET.type_url, b"\x0a\x01\xff" + CANARY.encode()))

    assert rendered == {"@type": ResourceType.SECRET.type_url, "value": REDACTED}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"@type": "type.googleapis.com/envoy.api.v2.auth.Secret", "tls": CANARY}, id="an older API"),
        pytest.param({"transport": {"private_key": {"inline_string": CANARY}}}, id="a key"),
        pytest.param({"downstream_auth_passwords": [{"inline_string": CANARY}]}, id="several passwords"),
        pytest.param({"value": {"password": CANARY}}, id="free-form content"),
        pytest.param({"filter_metadata": {"x": {"proxy-authorization": CANARY}}}, id="a header in free-form content"),
        pytest.param({"header": {"key": "Authorization", "value": CANARY}}, id="a header"),
        pytest.param({"headers": [{"key": "x", "value": f"Basic {CANARY}"}]}, id="a login in another header"),
        pytest.param({"uri": f"https://me:{CANARY}@proxy.example:3128/"}, id="a login in a URL"),
        pytest.param({"uri": f"https://{CANARY}@proxy.example:3128/"}, id="a token in a URL"),
        pytest.param({"transport": {"privateKey": {"inlineBytes": CANARY}}}, id="a key under its JSON name"),
        pytest.param({"transport": {"clientSecret": CANARY}}, id="a secret under its JSON name"),
        pytest.param({"uri": f"http://us er:{CANARY}@proxy.example"}, id="a login with a blank"),
        pytest.param({"uri": f"http://user:x {CANARY}@proxy.example"}, id="a password with a blank"),
        pytest.param({"header": {"key": "x-corp-auth", "value": CANARY}}, id="a header of somebody's own"),
        pytest.param({"header": {"headerName": "authorization", "string_value": CANARY}}, id="another name of a name"),
        pytest.param({"name": "authorization", "string_match": {"exact": CANARY}}, id="a header that is matched"),
        pytest.param({"pass": CANARY}, id="a short key"),
        pytest.param({"x-corp-auth": CANARY}, id="a key that is a header of somebody's own"),
        pytest.param({"password_list": [CANARY]}, id="a list under a telling name"),
        pytest.param({"tokens": [{"a": [CANARY]}]}, id="a list of maps under a telling name"),
        pytest.param({"api_keys": {"name": CANARY}}, id="a map under a telling name"),
        pytest.param({"authorization": {"x": {"y": CANARY}}}, id="maps in a map under a telling name"),
        pytest.param({"x": [f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}"]}, id="a key among other text"),
    ],
)
def test_what_somebody_else_rendered_is_redacted_by_the_same_rules(content: dict[str, object]) -> None:
    redacted = json.dumps(redact_content(content))

    assert CANARY not in redacted
    assert REDACTED in redacted


def test_what_is_no_credential_is_left_as_it_is() -> None:
    content = {
        "name": "proxy-login/corp",
        "private_key": {"filename": "/k", "sds_config": {"ads": {}}},
        "token_bucket": {"max_tokens": 3, "fill_tokens": {"value": 1}},
        "hash_policy": [{"cookie": {"name": "c", "path": "/"}}],
        "authority": {"key": ":authority", "value": "a.example"},
        "tls": {"privateKey": {"filename": "/k", "sdsConfig": {"ads": {}}}},
        "header": {"key": "x-b3", "value": "%REQ(:AUTHORITY)%"},
        "uri": "https://proxy.example/a@b",
        "text": "Basic settings, and Basic %FILTER_STATE(login:PLAIN)%",
    }

    assert redact_content(content) == content


@pytest.mark.parametrize("part", ["://", "://a ", "@", "x://@", ":// : "])
def test_hostile_text_is_redacted_in_a_time_that_grows_with_its_length_only(part: str) -> None:
    """A cost that is quadratic would take longer than the whole suite may."""
    assert redact_content({"text": part * 300_000})


def test_messages_in_messages_without_end_are_not_unpacked() -> None:
    inside = Cluster(name="c")
    for _ in range(300):
        nested = TypedExtensionConfig(name="x", typed_config=ProtoAny(type_url=CLUSTER_URL, value=bytes(inside)))
        inside = Cluster(name="c", upstream_config=nested)
    size = len(bytes(inside))

    assert render_cluster(inside) == {"@type": CLUSTER_URL, "value": f"[{size} bytes that are not known here]"}


def test_a_resource_without_an_envelope_is_of_the_type_that_it_was_asked_as() -> None:
    resource = Resource(ResourceType.CLUSTER, "c", Version("1"), bytes(Cluster(name="c")), b"")

    assert render_resource(resource) == {"@type": CLUSTER_URL, "name": "c"}


def test_a_resource_that_is_of_another_type_than_it_was_asked_as_is_shown_as_what_it_is() -> None:
    inside = ProtoAny.pack(Struct.from_dict({"a": "b", "password": CANARY}))
    resource = Resource(ResourceType.CLUSTER, "c", Version("1"), inside.value, bytes(inside))

    assert render_resource(resource) == {
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": {"a": "b", "password": REDACTED},
    }


def test_a_key_inside_a_cluster_is_redacted_and_its_authority_is_not() -> None:
    inline = DataSource(inline_bytes=CANARY.encode())
    certificate = TlsCertificate(
        certificate_chain=DataSource(inline_string="chain"), private_key=inline, password=DataSource(filename="/p")
    )
    trusted = CertificateValidationContext(trusted_ca=DataSource(inline_string="authority"))
    tls = UpstreamTlsContext(
        common_tls_context=CommonTlsContext(tls_certificates=[certificate], validation_context=trusted)
    )
    cluster = Cluster(name="c", transport_socket=TransportSocket(name="tls", typed_config=ProtoAny.pack(tls)))

    text = json.dumps(render_cluster(cluster))

    assert base64.b64encode(CANARY.encode()).decode() not in text
    assert CANARY not in text
    assert '"private_key": {"inline_bytes": "[redacted]"}' in text
    assert '"password": {"filename": "/p"}' in text
    assert "authority" in text
    assert "chain" in text


@pytest.mark.parametrize(
    ("header", "is_hidden"),
    [("Proxy-Authorization", True), ("authorization", True), ("set-cookie", True), ("x-api-key", True), ("via", False)],
)
def test_the_values_of_telling_headers_are_redacted(header: str, is_hidden: bool) -> None:
    option = HeaderValueOption(header=HeaderValue(key=header, value=CANARY))
    routes = RouteConfiguration(name="r", request_headers_to_add=[option])

    rendered = render_resource(build_resource(ResourceType.ROUTE, "r", routes))

    assert (CANARY not in json.dumps(rendered)) is is_hidden


def test_free_form_metadata_is_plain_json() -> None:
    nested = TypedExtensionConfig(name="x", typed_config=ProtoAny.pack(Struct.from_dict({"a": {"b": [1, None]}})))

    rendered = render_resource(
        build_resource(ResourceType.LISTENER, "l", Listener(name="l", access_log=[], listener_filters=[]))
    )
    inside = render_cluster(Cluster(name="c", upstream_config=nested))["upstream_config"]

    assert rendered == {"@type": ResourceType.LISTENER.type_url, "name": "l"}
    assert isinstance(inside, dict)
    assert inside["typed_config"]["value"] == {"a": {"b": [1.0, None]}}
