"""
Istio's tunnels: DestinationRules with `tunnel` settings, the routes that lead to them, and the ServiceEntries around.

A DestinationRule says how its host, the proxy, is asked for one target; VirtualServices say which connections go
there (networking.istio.io/v1, `TrafficPolicy.TunnelSettings`). Every tunnel becomes a rule; a ServiceEntry of an
external host without one becomes a direct rule, since it says that the mesh may reach it. Invariant: what none of
them speaks of is denied: whether the mesh let it out is not in these objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.importers.imported import NOTHING, Changes, Home, Imported, Wish
from xds.importers.proxy_urls import build_url, read_url
from xds.importers.reading import Reader, join
from xds.importers.variables import build_document, tell_general
from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Dialect
from xds.policy.names import is_subdomain
from xds.policy.patterns import Form, parse_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

API_GROUP = "networking.istio.io/"
KINDS = ("ServiceEntry", "DestinationRule", "VirtualService")

_EXACT = Dialect.NODE
"""As in Istio, a name alone is that name there."""
_TLS_MODES = ("SIMPLE", "MUTUAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tunnel:
    """What a DestinationRule, or one subset of it, says of asking the proxy for one target."""

    proxy: str
    subset: str
    target: str
    port: int
    tls: Reader
    selector: frozenset[tuple[str, str]]
    path: str


@dataclass(frozen=True, slots=True)
class _Route:
    """Connections that lead to a tunnel: to these names, on this port."""

    names: tuple[str, ...]
    port: int | None
    proxy_port: int | None
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a ServiceEntry, or a Service, makes known."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    endpoints: tuple[tuple[str, int], ...]
    is_external: bool
    path: str


def is_istio(document: object) -> bool:
    """Whether a decoded document is one of these objects."""
    return (
        isinstance(document, dict)
        and document.get("kind") in KINDS
        and str(document.get("apiVersion", API_GROUP)).startswith(API_GROUP)
    )


def import_istio(documents: Sequence[object], wish: Wish) -> Imported:
    """
    Return the policy of all the objects together.

    Raises SourceError if no DestinationRule among them has a tunnel that a policy can have.
    """
    changes = Changes(wish.source)
    objects = [(_path(document, index), document) for index, document in enumerate(documents)]
    by_kind: dict[str, list[Reader]] = {}
    for path, document in objects:
        kind = str(document.get("kind")) if isinstance(document, dict) else ""
        if kind == "Service" or is_istio(document):
            by_kind.setdefault(kind, []).append(Reader(document, path, changes))
        else:
            changes.lost(path, "this is not read", "import ServiceEntries, DestinationRules and VirtualServices")
    tunnels = [tunnel for item in by_kind.get("DestinationRule", ()) for tunnel in _read_tunnels(item, changes)]
    entries = [_read_entry(item, changes) for item in by_kind.get("ServiceEntry", ())]
    entries += [_read_service(item) for item in by_kind.get("Service", ())]
    routes = _read_routes(by_kind.get("VirtualService", ()), tunnels, changes)
    builder = _Builder(wish, changes, entries)
    for tunnel in tunnels:
        builder.add_tunnel(tunnel, routes.get((tunnel.proxy, tunnel.subset), ()))
    if not builder.proxies:
        told = "; ".join(f"{change.where.key}: {change.message}" for change in changes.found[:3])
        raise SourceError(
            f"{wish.source} has no tunnel that a policy can have{f' ({told})' if told else ''}; "
            "give the DestinationRule with `trafficPolicy.tunnel`, and what says the proxy's port"
        )
    builder.add_others()
    return builder.build(tunnels)


def _path(document: object, index: int) -> str:
    if isinstance(document, dict):
        metadata = document.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if isinstance(name, str) and is_subdomain(name):
            return f"{document.get('kind')}/{name}"
    return f"[{index}]"


# ------------------------------------------------------------------------------------------------ reading


def _read_tunnels(rule: Reader, changes: Changes) -> Iterable[_Tunnel]:
    spec = rule.child("spec")
    spec.tell_unknown(("host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"))
    _tell_export(spec, changes)
    host, common = spec.text("host"), spec.child("trafficPolicy")
    selector = frozenset(spec.child("workloadSelector").child("matchLabels").labels().items())
    for subset in ("", *spec.children("subsets")):
        policy = subset.child("trafficPolicy") if isinstance(subset, Reader) else common
        if isinstance(subset, Reader):
            subset.tell_unknown(("name", "trafficPolicy"), "a policy has no subsets of a proxy's endpoints")
        policy.tell_unknown(("tunnel", "tls"), "see `health`, `outlier` and `connectTimeout` of a proxy")
        tunnel = policy.child("tunnel")
        if not policy.has("tunnel"):
            continue
        tunnel.tell_unknown(("protocol", "targetHost", "targetPort"))
        target, port = tunnel.text("targetHost"), tunnel.number("targetPort")
        if tunnel.text("protocol").upper() not in ("", "CONNECT"):
            changes.lost(join(tunnel.path, "protocol"), "only CONNECT is spoken: the tunnel is left out", NOTHING)
        elif not target or port is None or not host:
            changes.lost(tunnel.path, "the tunnel names no host, target and port: it is left out", "correct it")
        else:
            yield _Tunnel(
                proxy=host,
                subset=subset.text("name") if isinstance(subset, Reader) else "",
                target=target,
                port=port,
                tls=policy.child("tls") if policy.has("tls") else common.child("tls"),
                selector=selector,
                path=tunnel.path,
            )


def _tell_export(spec: Reader, changes: Changes) -> None:
    if [text for text, _ in spec.texts("exportTo")] not in ([], ["*"]):
        message = "the object is for some namespaces only; the policy is for all in its scope"
        changes.lost(join(spec.path, "exportTo"), message, "put it into these namespaces, or add `selector.namespaces`")


def _read_entry(item: Reader, changes: Changes) -> _Entry:
    spec = item.child("spec")
    known = ("hosts", "addresses", "ports", "location", "resolution", "endpoints", "exportTo")
    spec.tell_unknown(known)
    _tell_export(spec, changes)
    numbers = {port.text("name"): port.number("number") for port in spec.children("ports")}
    ports = tuple(number for number in numbers.values() if number is not None)
    endpoints = []
    for endpoint in spec.children("endpoints"):
        own = endpoint.child("ports")
        for name, number in numbers.items():
            port = (own.number(name) if own.has(name) else None) or number
            if endpoint.text("address") and port is not None:
                endpoints.append((endpoint.text("address"), port))
    return _Entry(
        hosts=tuple(text for text, _ in spec.texts("hosts")),
        addresses=tuple(text for text, _ in spec.texts("addresses")),
        ports=ports,
        endpoints=tuple(endpoints),
        is_external=spec.text("location") != "MESH_INTERNAL",
        path=item.path,
    )


def _read_service(item: Reader) -> _Entry:
    metadata = item.child("metadata")
    name, namespace = metadata.text("name"), metadata.text("namespace") or "default"
    found = [port.number("port") for port in item.child("spec").children("ports")]
    short = f"{name}.{namespace}"
    return _Entry(
        hosts=(f"{short}.svc.cluster.local", f"{short}.svc", short, name),
        addresses=(),
        ports=tuple(number for number in found if number is not None),
        endpoints=(),
        is_external=False,
        path=item.path,
    )


def _read_routes(
    services: Iterable[Reader], tunnels: Sequence[_Tunnel], changes: Changes
) -> dict[tuple[str, str], list[_Route]]:
    wanted = {(tunnel.proxy, tunnel.subset) for tunnel in tunnels}
    routes: dict[tuple[str, str], list[_Route]] = {}
    for service in services:
        spec = service.child("spec")
        spec.tell_unknown(("hosts", "gateways", "tls", "tcp", "http", "exportTo"))
        _tell_export(spec, changes)
        for kind in ("tls", "tcp", "http"):
            for route in spec.children(kind):
                places = [item.child("destination") for item in route.children("route")]
                known = [(place.text("host"), place.text("subset")) for place in places]
                leading = [key for key in known if key in wanted]
                if not leading:
                    continue
                if kind == "http" or len(places) > 1:
                    message = (
                        "a route for HTTP has no tunnel" if kind == "http" else "one of several destinations is taken"
                    )
                    changes.lost(route.path, message, "see that the rule is what you mean")
                if kind != "http":
                    port = places[known.index(leading[0])].child("port").number("number")
                    routes.setdefault(leading[0], []).extend(_read_matches(route, port, changes))
    return routes


def _read_matches(route: Reader, proxy_port: int | None, changes: Changes) -> Iterable[_Route]:
    matches = route.children("match")
    for match in matches:
        match.tell_unknown(("sniHosts", "port", "gateways"), "the rule matches whatever else it says")
        gateways = [text for text, _ in match.texts("gateways") if text != "mesh"]
        if gateways:
            message = f"a route of the gateway {quote(gateways[0])}: the tunnel begins in the pod, not at a gateway"
            changes.changed(match.path, message, "let pods reach the proxy")
        names = tuple(text for text, _ in match.texts("sniHosts"))
        yield _Route(names, match.number("port"), proxy_port, match.path)
    if not matches:
        yield _Route((), None, proxy_port, route.path)


# ------------------------------------------------------------------------------------------------ building


class _Builder:
    """Collects the proxies and the rules."""

    def __init__(self, wish: Wish, changes: Changes, entries: Sequence[_Entry]) -> None:
        self._wish = wish
        self._changes = changes
        self._entries = entries
        self.proxies: dict[str, dict[str, object]] = {}
        self._rules: list[dict[str, object]] = []
        self._hosts_of_proxies: set[str] = set()
        self._tunnelled: set[tuple[str, int | None]] = set()

    def add_tunnel(self, tunnel: _Tunnel, routes: Sequence[_Route]) -> None:
        """Add the rules of a tunnel, and its proxy."""
        if not routes:
            message = f"no route to it is among the objects: {quote(tunnel.target)} itself is taken for what goes there"
            self._changes.changed(tunnel.path, message, "import its VirtualService, too")
            routes = (_Route((tunnel.target,), tunnel.port, None, tunnel.path),)
        for route in routes:
            proxy = self._name_proxy(tunnel, route.proxy_port)
            if proxy is None:
                return
            self._add_route(tunnel, route, proxy)

    def _add_route(self, tunnel: _Tunnel, route: _Route, proxy: str) -> None:
        names = route.names or (tunnel.target,)
        others = [name for name in names if name != tunnel.target]
        if others:
            message = f"{quote(others[0])} led to a tunnel for {quote(tunnel.target)}; the proxy is asked for the name"
            self._changes.changed(route.path, message, "see that the proxy lets it pass")
        if not route.names:
            message = f"the route has no names: TLS and plain HTTP for {quote(tunnel.target)} are taken"
            self._changes.changed(route.path, message, "for other TCP write `to.tcp`, with `dns.mode: capture`")
        if route.port not in (None, tunnel.port):
            message = f"the tunnel led to port {tunnel.port}, whatever was dialled; the proxy is asked for {route.port}"
            self._changes.changed(route.path, message, "see that the host answers there")
        self._add_rule("tunnel", self._to(names, (), (route.port or tunnel.port,), route.path), proxy)
        self._tunnelled |= {(name, route.port or tunnel.port) for name in names}

    def add_others(self) -> None:
        """Add direct rules for external hosts that have no tunnel."""
        for entry in self._entries:
            if not entry.is_external:
                continue
            for host in entry.hosts:
                ports = tuple(port for port in entry.ports if (host, port) not in self._tunnelled)
                if host in self._hosts_of_proxies or (entry.ports and not ports):
                    continue
                to = self._to((host,), entry.addresses, ports, entry.path)
                self._add_rule("direct", to, "")
                where = f" on {', '.join(map(str, ports))}" if ports else ""
                message = f"{quote(host)} has no tunnel{where}, so it is direct; whoever claims the name is believed"
                self._changes.note(entry.path, message, "write `verify` with the networks of the host")

    def _add_rule(self, action: str, to: dict[str, object], proxy: str) -> None:
        if not to.keys() & {"domains", "cidrs"}:
            return
        for known in self._rules:
            if known["to"] == to:
                return
        rule: dict[str, object] = {"name": f"{action}-{len(self._rules) + 1}", "to": to, "action": action}
        self._rules.append({**rule, "proxy": proxy} if proxy else rule)

    def _to(self, names: Sequence[str], addresses: Sequence[str], ports: Sequence[int], path: str) -> dict[str, object]:
        domains: list[str] = []
        cidrs: list[str] = []
        for text in (*names, *addresses):
            entry = parse_entry(text, _EXACT)
            if isinstance(entry, Problem):
                self._changes.lost(path, f"{quote(text)} is left out: {entry.message}", entry.hint)
            elif entry.host is None or entry.port is not None or text.strip() in ("0.0.0.0/0", "::/0"):
                self._changes.lost(path, f"{quote(text)} is left out: it matches too much", "name the hosts")
            else:
                (cidrs if entry.form in (Form.ADDRESS, Form.CIDR) else domains).append(text)
        to: dict[str, object] = {key: value for key, value in (("domains", domains), ("cidrs", cidrs)) if value}
        return to | ({"ports": sorted(set(ports))} if ports else {})

    def _name_proxy(self, tunnel: _Tunnel, port: int | None) -> str | None:
        """Return the name of the proxy that a tunnel goes to, with what its objects say of it."""
        scheme = "https" if tunnel.tls.text("mode").upper() in _TLS_MODES else "http"
        urls = [
            found.url
            for host, number in self._find_endpoints(tunnel, port)
            if (found := read_url(build_url(scheme, host, number), tunnel.path, self._changes)) is not None
        ]
        if not urls:
            message = f"the port of the proxy {quote(tunnel.proxy)} is not known: the tunnel is left out"
            self._changes.lost(tunnel.path, message, "import its ServiceEntry or Service, too")
            return None
        proxy: dict[str, object] = {"endpoints": [{"url": url} for url in dict.fromkeys(urls)]}
        tls = self._read_tls(tunnel.tls)
        if tls:
            proxy["tls"] = tls
        # Tunnels are not for plain HTTP there, but a rule here is for both.
        proxy["plainHTTP"] = "connect"
        self._hosts_of_proxies.add(tunnel.proxy)
        for name, known in self.proxies.items():
            if known == proxy:
                return name
        name = "proxy" if not self.proxies else f"proxy-{len(self.proxies) + 1}"
        self.proxies[name] = proxy
        return name

    def _find_endpoints(self, tunnel: _Tunnel, port: int | None) -> list[tuple[str, int]]:
        for entry in self._entries:
            if tunnel.proxy in entry.hosts:
                at_port = [(host, number) for host, number in entry.endpoints if port in (None, number)]
                if at_port or entry.endpoints:
                    return at_port or list(entry.endpoints)
                if port is not None or entry.ports:
                    return [(tunnel.proxy, port or entry.ports[0])]
        return [] if port is None else [(tunnel.proxy, port)]

    def _read_tls(self, tls: Reader) -> dict[str, object]:
        """Return how TLS to the proxy is verified."""
        mode = tls.text("mode").upper()
        if mode in ("", "DISABLE"):
            return {}
        if mode not in _TLS_MODES:
            message = f"the mode {quote(mode)} is the mesh's own: the proxy is reached without TLS"
            self._changes.lost(join(tls.path, "mode"), message, "write the proxy's URL with https, and its `tls`")
            return {}
        tls.tell_unknown(("mode", "sni", "credentialName"), "write it into `tls` of the proxy")
        found: dict[str, object] = {"serverName": tls.text("sni")} if tls.has("sni") else {}
        name = tls.text("credentialName")
        if not name:
            return found
        if self._wish.home is Home.FILES or not is_subdomain(name):
            message = "names a Secret, and policies in files name files: it is left out"
            self._changes.lost(join(tls.path, "credentialName"), message, "write `tls.ca: {file: …}`")
            return found
        found["ca"] = {"secretRef": {"name": name, "key": "ca.crt"}}
        if mode == "MUTUAL":
            found["clientCertificate"] = {"secretRef": {"name": name}}
        self._changes.changed(join(tls.path, "credentialName"), "names a Secret", "have it in the policy's namespace")
        return found

    def build(self, tunnels: Sequence[_Tunnel]) -> Imported:
        """Return the policy."""
        message = "what none of these objects speaks of is denied: whether the mesh lets it out is not in them"
        hint = "write `default: {action: direct}` if `outboundTrafficPolicy.mode` is ALLOW_ANY"
        self._changes.changed("", message, hint)
        tell_general(self._changes)
        spec: dict[str, object] = {}
        selectors = {tunnel.selector for tunnel in tunnels}
        if len(selectors) == 1 and selectors != {frozenset()}:
            spec["selector"] = {"podLabels": {"matchLabels": dict(sorted(next(iter(selectors))))}}
        elif len(selectors) > 1:
            message = "the tunnels are for different workloads, and a policy has one selector: it is for all"
            self._changes.lost("", message, "import the objects of each workload by themselves")
        spec |= {"proxies": self.proxies, "rules": self._rules, "default": {"action": "deny"}}
        return Imported(build_document(self._wish, spec | {"dialect": _EXACT.value}), tuple(self._changes.found))
