"""
Policies written as a test would say them: short constructors for the model's values.

Nothing here parses documents; what a constructor leaves out has the model's own default.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.compile import compile_snapshot
from xds.diagnostics import Where
from xds.facts import Facts
from xds.policy.model import (
    Action,
    AlwaysDirect,
    Default,
    Destination,
    DomainPattern,
    Endpoint,
    PlainHttp,
    Policy,
    Proxy,
    Rule,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from xds.snapshot import Snapshot

WHERE = Where("test")
CORP = Tunnel("corp")
NOTHING_BUILT_IN = AlwaysDirect(loopback=False, link_local=False, cluster_local=False)


def pattern(text: str) -> DomainPattern:
    """Read `x.example` as the name and all below it, `.x.example` as what is below, `=x.example` as the name."""
    match text[0]:
        case ".":
            return DomainPattern(text[1:], apex=False)
        case "=":
            return DomainPattern(text[1:], subdomains=False)
        case _:
            return DomainPattern(text)


def to(text: str, *ports: int) -> Destination:
    """Read `*` as any host, what holds a slash as a network, anything else as a `pattern`."""
    if text == "*":
        return Destination(None, ports)
    return Destination(ip_network(text) if "/" in text else pattern(text), ports)


def rule(action: Action, *destinations: Destination | str, http: Action | None = None, name: str = "rule") -> Rule:
    """Build a rule; `http` is the action for plain HTTP where it differs."""
    found = tuple(to(item) if isinstance(item, str) else item for item in destinations)
    return Rule(name=name, destinations=found, action=action, http_action=http or action, where=WHERE)


def endpoint(host: str = "192.0.2.1", port: int = 3128, *, tls: bool = False, priority: int = 0) -> Endpoint:
    """Build an endpoint, by default one at an address of its own."""
    return Endpoint(host=host, port=port, tls=tls, priority=priority)


def proxy(
    name: str = "corp",
    *endpoints: Endpoint,
    connect_ports: tuple[int, ...] | None = None,
    plain_http: PlainHttp = PlainHttp.ABSOLUTE_FORM,
) -> Proxy:
    """Build a proxy with one endpoint unless told otherwise."""
    return Proxy(
        name=name,
        endpoints=endpoints or (endpoint(),),
        connect_ports=connect_ports,
        plain_http=plain_http,
        where=WHERE,
    )


def default(
    action: Action = CORP, http: Action | None = None, unknown: UnknownName = UnknownName.CONNECT_IP
) -> Default:
    """Build a policy's default: everything through the proxy, unless told otherwise."""
    return Default(action=action, http_action=http or action, on_unknown_name=unknown)


def policy(
    *rules: Rule,
    proxies: tuple[Proxy, ...] = (proxy(),),
    otherwise: Default | None = None,
    synthetic: tuple[str, ...] = (),
    always_direct: AlwaysDirect | None = None,
    server_first_ports: tuple[int, ...] = (),
) -> Policy:
    """Build a policy without built-in rules and server-first ports, unless told otherwise."""
    return Policy(
        name="test",
        proxies=proxies,
        rules=rules,
        default=otherwise or default(),
        synthetic_ranges=tuple(ip_network(item) for item in synthetic),
        always_direct=always_direct or NOTHING_BUILT_IN,
        server_first_ports=server_first_ports,
        where=WHERE,
    )


def compile_good(written: Policy, facts: Facts | None = None) -> Snapshot:
    """Compile a policy that has nothing wrong with it. Without facts of its own, only once."""
    return _compile_without_facts(written) if facts is None else _compile(written, facts)


@lru_cache(maxsize=256)
def _compile_without_facts(written: Policy) -> Snapshot:
    return _compile(written, Facts())


def _compile(written: Policy, facts: Facts) -> Snapshot:
    compilation = compile_snapshot(written, facts)
    assert compilation.diagnostics == ()
    assert compilation.snapshot is not None
    return compilation.snapshot
