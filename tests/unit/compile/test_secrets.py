"""Secrets as resources: who refers to them, what rotation changes, and what a pod is never given."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.envoy.extensions.formatter.generic_secret.v3 import GenericSecret as GenericSecretFormatter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    Secret,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from tests.support.certificates import Authority
from tests.support.policies import compile_good, default, endpoint, policy, proxy
from xds import names
from xds.facts import Facts, FileContent
from xds.policy.model import (
    BasicLogin,
    ClientCertificate,
    PlainHttp,
    Proxy,
    ProxyProtocol,
    ProxyTls,
    TlsVersion,
    Tunnel,
)
from xds.render import render_resource
from xds.resources import ResourceType
from xds.snapshot import Snapshot, diff_resources

CA = Authority()
OWN, RENEWED = CA.issue("web.example"), CA.issue("web.example")
PAIR = ClientCertificate(certificate_file="/own.pem", key_file="/own.key")


def demanding(name: str = "corp", file: str = "/login") -> Proxy:
    return dataclasses.replace(
        proxy(name, endpoint("proxy.example", tls=True)),
        login=BasicLogin(file=file),
        tls=ProxyTls(client_certificate=PAIR),
    )


def facts(**logins: str) -> Facts:
    texts = {"/own.pem": OWN.certificate, "/own.key": OWN.key} | {f"/{name}": text for name, text in logins.items()}
    return Facts(files={path: FileContent(text) for path, text in texts.items()})


def compiled(*proxies: Proxy, known: Facts | None = None) -> Snapshot:
    found = proxies or (demanding(),)
    return compile_good(policy(proxies=found, otherwise=default(Tunnel(found[0].name))), known or facts(login="u:p"))


def cluster_of(snapshot: Snapshot, name: str = "corp") -> Cluster:
    return Cluster.parse(snapshot.of(ResourceType.CLUSTER)[names.proxy_cluster(name)].body)


def options_of(cluster: Cluster) -> HttpProtocolOptions:
    (packed,) = cluster.typed_extension_protocol_options.values()
    found = packed.unpack()
    assert isinstance(found, HttpProtocolOptions)
    return found


def tls_of(cluster: Cluster) -> UpstreamTlsContext:
    socket = cluster.transport_socket_matches[0].transport_socket
    assert socket is not None
    assert socket.typed_config is not None
    found = socket.typed_config.unpack()
    assert isinstance(found, UpstreamTlsContext)
    return found


def test_a_login_is_one_secret_for_requests_at_the_cluster_and_for_tunnels_at_the_listeners() -> None:
    snapshot = compiled()
    login = names.proxy_login("corp", "/login")
    secret = Secret.parse(snapshot.of(ResourceType.SECRET)[login].body)
    referring = {
        resource.name
        for kind in ResourceType
        for resource in snapshot.of(kind).values()
        if any(reference.name == login for reference in resource.references)
    }

    assert secret.generic_secret is not None
    assert secret.generic_secret.secret is not None
    assert secret.generic_secret.secret.inline_string == "Basic " + b64encode(b"u:p").decode()
    tunnels = {names.http_tunnel("corp"), names.http_address_tunnel("corp")}
    assert referring == {names.proxy_cluster("corp"), names.OUTBOUND_LISTENER, *tunnels}


def test_a_tunnel_remembers_the_login_and_names_only_its_secret() -> None:
    listener = Listener.parse(compiled().of(ResourceType.LISTENER)[names.OUTBOUND_LISTENER].body)
    chain = next(chain for chain in listener.filter_chains if chain.name == names.tls_tunnel_chain("corp"))
    remembering, tunnelling = chain.filters
    assert remembering.typed_config is not None
    assert tunnelling.typed_config is not None
    state, proxy = remembering.typed_config.unpack(), tunnelling.typed_config.unpack()
    assert isinstance(state, SetFilterState)
    assert isinstance(proxy, TcpProxy)
    assert proxy.tunneling_config is not None
    (value,) = state.on_new_connection
    assert value.format_string is not None
    formatter = value.format_string.formatters[0].typed_config
    assert formatter is not None
    secrets = formatter.unpack()
    assert isinstance(secrets, GenericSecretFormatter)

    assert [config.name for config in secrets.secret_configs.values()] == [names.proxy_login("corp", "/login")]
    (added,) = proxy.tunneling_config.headers_to_add
    assert added.header is not None
    assert (added.header.key, added.header.value) == ("proxy-authorization", "%FILTER_STATE(egress-xds.login:PLAIN)%")


def test_the_login_is_added_last_before_the_codec_over_whatever_the_application_sent() -> None:
    injector, codec = options_of(cluster_of(compiled())).http_filters
    assert injector.typed_config is not None
    assert codec.name == "envoy.filters.http.upstream_codec"
    config = injector.typed_config.unpack()
    assert isinstance(config, CredentialInjector)
    assert config.credential is not None
    assert config.credential.typed_config is not None
    generic = config.credential.typed_config.unpack()
    assert isinstance(generic, Generic)

    assert (config.overwrite, config.allow_request_without_credential) == (True, False)
    assert generic.header == "proxy-authorization"
    assert generic.credential is not None
    assert generic.credential.name == names.proxy_login("corp", "/login")


def test_an_envoy_waits_for_a_secret_as_long_as_it_takes() -> None:
    (certificate,) = tls_of(cluster_of(compiled())).common_tls_context.tls_certificate_sds_secret_configs  # type: ignore[union-attr]  # it is there
    assert certificate.sds_config is not None

    assert certificate.sds_config.initial_fetch_timeout == timedelta(0)
    assert certificate.sds_config.ads is not None


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(facts(login="u:other"), id="a new login"),
        pytest.param(
            Facts(
                files={
                    "/login": FileContent("u:p"),
                    "/own.pem": FileContent(RENEWED.certificate),
                    "/own.key": FileContent(RENEWED.key),
                }
            ),
            id="a renewed certificate",
        ),
    ],
)
def test_rotation_changes_one_secret_and_nothing_else(known: Facts) -> None:
    before, after = compiled(), compiled(known=known)
    changed = {
        kind: diff_resources({name: resource.version for name, resource in before.of(kind).items()}, after.of(kind))
        for kind in ResourceType
    }

    assert {kind for kind, diff in changed.items() if diff.changed or diff.removed} == {ResourceType.SECRET}
    assert len(changed[ResourceType.SECRET].changed) == 1


def test_a_login_from_another_file_is_another_secret() -> None:
    """A proxy that moves together with its login must not get the one before at its new place."""
    assert names.proxy_login("corp", "/a") != names.proxy_login("corp", "/b")
    assert names.proxy_certificate("corp", "/a", "/b") != names.proxy_certificate("corp", "/a", "/c")


def test_no_other_resource_holds_a_secret() -> None:
    snapshot = compiled()
    private = [b"u:p", b64encode(b"u:p"), OWN.key.splitlines()[1].encode(), OWN.certificate.splitlines()[1].encode()]
    found = [
        (resource.name, canary)
        for kind in ResourceType
        if kind is not ResourceType.SECRET
        for resource in snapshot.of(kind).values()
        for canary in private
        if canary in resource.body
    ]

    assert found == []


def test_a_rendered_secret_is_redacted() -> None:
    snapshot = compiled()
    shown = str([render_resource(resource) for resource in snapshot.of(ResourceType.SECRET).values()])

    assert "[redacted]" in shown
    assert b64encode(b"u:p").decode() not in shown
    assert OWN.key.splitlines()[1] not in shown


def test_a_pod_gets_the_secrets_of_its_own_policy_only() -> None:
    known = facts(one="one:1", two="two:2")
    one = compiled(demanding("corp", "/one"), known=known)
    two = compiled(demanding("corp", "/two"), known=known)

    assert set(one.of(ResourceType.SECRET)) & set(two.of(ResourceType.SECRET)) == {
        names.proxy_certificate("corp", PAIR.certificate_file, PAIR.key_file)
    }
    for snapshot, foreign in ((one, b"two:2"), (two, b"one:1")):
        bodies = b"".join(resource.body for kind in ResourceType for resource in snapshot.of(kind).values())
        assert b64encode(foreign) not in bodies


def test_a_proxy_without_demands_has_no_secret_and_no_filter() -> None:
    snapshot = compiled(proxy("corp"))

    assert snapshot.of(ResourceType.SECRET) == {}
    assert options_of(cluster_of(snapshot)).http_filters == []


def test_a_certificate_without_tls_to_show_it_in_is_no_secret() -> None:
    plain = dataclasses.replace(proxy("corp"), tls=ProxyTls(client_certificate=PAIR))

    assert compiled(plain).of(ResourceType.SECRET) == {}


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        pytest.param(TlsVersion.V1_2, TlsParametersTlsProtocol.TLSv1_2, id="1.2"),
        pytest.param(TlsVersion.V1_3, TlsParametersTlsProtocol.TLSv1_3, id="1.3"),
    ],
)
def test_the_oldest_version_is_the_policys_and_the_newest_is_always_1_3(
    version: TlsVersion, minimum: TlsParametersTlsProtocol
) -> None:
    demanded = dataclasses.replace(demanding(), tls=ProxyTls(minimum_version=version))
    context = tls_of(cluster_of(compiled(demanded))).common_tls_context
    assert context is not None
    assert context.tls_params is not None

    assert context.tls_params.tls_minimum_protocol_version == minimum
    assert context.tls_params.tls_maximum_protocol_version == TlsParametersTlsProtocol.TLSv1_3


def test_a_server_name_that_is_an_address_is_expected_as_one() -> None:
    named = dataclasses.replace(proxy("corp", endpoint("10.0.0.9", tls=True)), tls=ProxyTls(server_name="10.0.0.9"))
    context = tls_of(cluster_of(compiled(named)))
    assert context.common_tls_context is not None
    assert context.common_tls_context.validation_context is not None
    (matcher,) = context.common_tls_context.validation_context.match_typed_subject_alt_names
    assert matcher.matcher is not None

    assert (context.sni, context.auto_sni_san_validation, matcher.matcher.exact) == ("", False, "10.0.0.9")


def test_http2_shares_connections_and_is_negotiated() -> None:
    fast = dataclasses.replace(demanding(), protocol=ProxyProtocol.HTTP2, plain_http=PlainHttp.CONNECT)
    cluster = cluster_of(compiled(fast))
    options = options_of(cluster)
    context = tls_of(cluster).common_tls_context
    assert options.explicit_http_config is not None
    assert options.explicit_http_config.http2_protocol_options is not None
    assert context is not None

    assert options.explicit_http_config.http2_protocol_options.max_concurrent_streams == 32
    assert options.common_http_protocol_options is None
    assert context.alpn_protocols == ["h2"]
    assert len(options.http_filters) == 2
