"""
Plain HTTP: the connection manager that adds nothing, cuts nothing, and lets nobody lie about its Host.

A transparent path must not be noticed: no request id, no `x-envoy-*`, no `x-forwarded-*`, header names in the
case the application wrote them, and no time-out of its own. Before any route is chosen, a Host that is not plainly a
name or an address is refused. Which route a request takes is decided by its Host, so it lives in a route configuration
of its own (RDS), of the name of the chain, and changes without touching the chain.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ConfigSource,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    Http1ProtocolOptions,
    Http1ProtocolOptionsHeaderKeyFormat,
    HttpProtocolOptions,
    RuntimeUInt32,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.config.rbac.v3 import Permission, PermissionSet, Principal, RbacAction
from envoy_data_plane.envoy.config.rbac.v3 import Policy as RbacPolicy
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as RbacRules
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import (
    Config as HeaderToMetadata,
)
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import (
    ConfigKeyValuePair,
    ConfigRule,
)
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
    LocalReplyConfig,
    Rds,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.http.header_formatters.preserve_case.v3 import PreserveCaseFormatterConfig
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatchAndSubstitute, RegexMatcher, StringMatcher

from xds.compile.access_log import build_filter_state_value, build_http_log
from xds.compile.asked import build_asked
from xds.compile.hosts import HOST, PORT_OF_HOST, UNNAMED_HOST
from xds.compile.matchers import ADDRESS_KEY, PORT_KEY
from xds.compile.routes import HOST_METADATA, NO_TIMEOUT
from xds.compile.virtual_hosts import KEPT_PROTO
from xds.compile.wire import pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from betterproto2 import Message
    from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog

    from xds.policy.model import Policy

_MAX_HEADERS_KB = 8192
"""Envoy's own limit; a header that the origin would accept must not fail here."""
_MAX_HEADERS = 1000
_REFUSAL = "egress-xds: the egress policy refuses this request, or its Host is not one that a policy can decide on.\n"
_FORBIDDEN = 403
_UPGRADES = ("websocket", "tcp", "SPDY/3.1")
"""What is spoken over plain HTTP after `101 Switching Protocols`: browsers, the APIs of Docker and of Kubernetes."""


@lru_cache(maxsize=2)
def build_http1_options(default_host: str = "") -> Http1ProtocolOptions:
    """
    HTTP/1 as the application wrote it: the case of header names, HTTP/1.0, trailers.

    `default_host` is that of requests without one. The message is shared, and must not be changed.
    """
    formatter = TypedExtensionConfig(
        name="envoy.http.stateful_header_formatters.preserve_case",
        typed_config=pack(PreserveCaseFormatterConfig(forward_reason_phrase=True)),
    )
    return Http1ProtocolOptions(
        accept_http_10=True,
        default_host_for_http_10=default_host,
        enable_trailers=True,
        header_key_format=Http1ProtocolOptionsHeaderKeyFormat(stateful_formatter=formatter),
    )


def build_http_chain(name: str, policy: Policy) -> FilterChain:
    """Build a chain that reads plain HTTP and routes it by the route configuration of the same name."""
    manager = build_manager(name, _build_filters(), build_http_log(policy))
    return FilterChain(name=name, filters=[_remember_destination(), build_manager_filter(manager)])


@lru_cache(maxsize=1)
def _remember_destination() -> Filter:
    """Keep what the application dialled, for the routes."""
    state = SetFilterState(
        on_new_connection=[
            build_filter_state_value(ADDRESS_KEY, "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"),
            build_filter_state_value(PORT_KEY, "%DOWNSTREAM_LOCAL_PORT%"),
        ]
    )
    return Filter(name="envoy.filters.network.set_filter_state", typed_config=pack(state))


@lru_cache(maxsize=1)
def _build_filters() -> tuple[HttpFilter, ...]:
    return (
        build_filter("envoy.filters.http.rbac", build_gate(HOST)),
        build_host_reader(),
        build_filter("envoy.filters.http.set_filter_state", build_asked()),
        build_router(),
    )


def build_manager_filter(manager: HttpConnectionManager) -> Filter:
    """Wrap a connection manager as the last filter of a chain."""
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))


def build_manager(name: str, filters: Iterable[HttpFilter], log: list[AccessLog]) -> HttpConnectionManager:
    """
    Build the connection manager.

    Args:
        name: of its chain, statistics and routes.
        filters: what its requests pass, the router last.
        log: where they are told of.

    """
    return HttpConnectionManager(
        stat_prefix=name,
        codec_type=HttpConnectionManagerCodecType.HTTP1,
        rds=_build_rds(name),
        http_filters=list(filters),
        http_protocol_options=build_http1_options(UNNAMED_HOST),
        proxy_100_continue=True,
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type=kind) for kind in _UPGRADES],
        local_reply_config=_build_refusals(),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=NO_TIMEOUT, max_headers_count=_MAX_HEADERS),
        max_request_headers_kb=_MAX_HEADERS_KB,
        stream_idle_timeout=NO_TIMEOUT,
        generate_request_id=False,
        preserve_external_request_id=True,
        use_remote_address=False,
        skip_xff_append=True,
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        early_header_mutation_extensions=[_keep_proto()],
        access_log=log,
    )


@lru_cache(maxsize=1)
def _keep_proto() -> TypedExtensionConfig:
    kept = HeaderValueOption(header=HeaderValue(key=KEPT_PROTO, value="%REQ(x-forwarded-proto)%"))
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(HeaderMutation(mutations=[Mutation(append=kept)])),
    )


def _build_rds(name: str) -> Rds:
    """Refer to the route configuration that is delivered on the same ADS stream."""
    source = ConfigSource(ads=AggregatedConfigSource(), initial_fetch_timeout=NO_TIMEOUT)
    return Rds(config_source=source, route_config_name=name)


def build_filter(name: str, config: Message) -> HttpFilter:
    """Wrap `config` as an HTTP filter."""
    return HttpFilter(name=name, typed_config=pack(config))


def build_gate(host_pattern: str, *also: Permission) -> Rbac:
    """Refuse every request whose Host is neither a name nor an address, or that lacks what `also` wants."""
    host = HeaderMatcher(name=":authority", string_match=StringMatcher(safe_regex=RegexMatcher(regex=host_pattern)))
    wanted = Permission(header=host)
    if also:
        wanted = Permission(and_rules=PermissionSet(rules=[wanted, *also]))
    policy = RbacPolicy(permissions=[wanted], principals=[Principal(any=True)])
    return Rbac(rules=RbacRules(action=RbacAction.ALLOW, policies={"plain-host": policy}))


def build_host_reader() -> HttpFilter:
    """Keep the Host without its port, for the URL that a proxy is asked for."""
    rule = build_metadata_rule(":authority", HOST_METADATA[1], PORT_OF_HOST, "")
    return build_filter("envoy.filters.http.header_to_metadata", HeaderToMetadata(request_rules=[rule]))


def build_router() -> HttpFilter:
    """Build the last filter."""
    return build_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))


def build_metadata_rule(header: str, key: str, pattern: str, substitution: str) -> ConfigRule:
    """Keep, under `key`, the value of `header` with `pattern` (RE2) replaced."""
    cut = RegexMatchAndSubstitute(pattern=RegexMatcher(regex=pattern), substitution=substitution)
    kept = ConfigKeyValuePair(metadata_namespace=HOST_METADATA[0], key=key, regex_value_rewrite=cut)
    return ConfigRule(header=header, on_header_present=kept)


@lru_cache(maxsize=1)
def _build_refusals() -> LocalReplyConfig:
    """Say who refused: every 403 of Envoy's own, and the 404 for a request that no route takes (CONNECT, `*`)."""
    body = DataSource(inline_string=_REFUSAL)
    forbidden = ComparisonFilter(
        op=ComparisonFilterOp.EQ, value=RuntimeUInt32(default_value=_FORBIDDEN, runtime_key="egress-xds.forbidden")
    )
    return LocalReplyConfig(
        mappers=[
            ResponseMapper(filter=AccessLogFilter(status_code_filter=StatusCodeFilter(forbidden)), body=body),
            ResponseMapper(
                filter=AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=["NR"])),
                status_code=_FORBIDDEN,
                body=body,
            ),
        ]
    )
