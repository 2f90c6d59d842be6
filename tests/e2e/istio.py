"""
A pod as Istio leaves it: its init container with its real rules, and a real Envoy in the place of its sidecar.

The Envoy knows what istiod would tell it where the outbound policy is REGISTRY_ONLY: the Services of the cluster and
what ServiceEntries add; all else ends in the black hole. Each connection is a line of its log: where it went, and by
which cluster.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from tests.support.pod_runner import ROOT, Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.api_store import Object

ISTIO_UID = 1337
OUTBOUND, INBOUND, HEALTH = 15001, 15006, 15021
IMAGE = "docker.io/istio/proxyv2:1.27.3"
ISTIO_IMAGE = Image(entrypoint=("sh", str(ROOT / "tests" / "e2e" / "pilot_agent.sh")))
LOG = "to %DOWNSTREAM_LOCAL_ADDRESS% by %UPSTREAM_CLUSTER% flags %RESPONSE_FLAGS%\n"
_TYPE = "type.googleapis.com/envoy.extensions"


def capture_by_istio(pod: Object, services: Iterable[tuple[str, int]], entries: Iterable[Mapping[str, Any]]) -> Object:
    """
    Return a pod as Istio's webhook leaves it, with a native sidecar.

    `services` are addresses and ports of the cluster's Services, `entries` the ServiceEntries that count for the pod.
    """
    found = copy.deepcopy(dict(pod))
    known = [*map(_service, services), *(item for entry in entries for item in _entry(entry["spec"]))]
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    captures = {
        "name": "istio-init",
        "image": IMAGE,
        "args": ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*"],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            **rights,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        },
    }
    stays = {
        "name": "istio-proxy",
        "image": IMAGE,
        "restartPolicy": "Always",
        "args": ["proxy", "sidecar"],
        "env": [{"name": "CONFIGURATION", "value": json.dumps(_bootstrap(known)).replace("$", "$$")}],
        "startupProbe": {
            "httpGet": {"path": "/healthz/ready", "port": HEALTH},
            "periodSeconds": 1,
            "failureThreshold": 600,
        },
        "securityContext": {"runAsUser": ISTIO_UID, "runAsGroup": ISTIO_UID, "runAsNonRoot": True, **rights},
    }
    found["metadata"].setdefault("annotations", {})["sidecar.istio.io/status"] = "{}"
    found["spec"].setdefault("initContainers", [])[:0] = [captures, stays]
    return found


def _service(place: tuple[str, int]) -> dict[str, Any]:
    address, port = place
    match = {"prefix_ranges": [{"address_prefix": address, "prefix_len": 32}], "destination_port": port}
    return {"name": f"service|{port}||{address}", "match": match, "endpoints": []}


def _entry(spec: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """As Istio reads an entry: told by addresses where it has any, else by the port alone."""
    assert spec["location"] == "MESH_EXTERNAL"
    for port in spec["ports"]:
        assert port["protocol"] == "TCP", "of HTTP, Istio would answer the CONNECT itself"
        match: dict[str, Any] = {"destination_port": port["number"]}
        if spec.get("addresses"):
            ranges = [{"address_prefix": address, "prefix_len": 32} for address in spec["addresses"]]
            match["prefix_ranges"] = ranges
        endpoints = [item["address"] for item in spec.get("endpoints", ())] if spec["resolution"] == "DNS" else []
        yield {"name": f"outbound|{port['number']}||{spec['hosts'][0]}", "match": match, "endpoints": endpoints}


def _bootstrap(known: list[dict[str, Any]]) -> dict[str, Any]:
    outbound = {
        **_listener("virtualOutbound", OUTBOUND),
        "filter_chains": [{"filter_chain_match": item["match"], **_chain(item["name"])} for item in known],
        "default_filter_chain": _chain("BlackHoleCluster"),
    }
    inbound = {**_listener("virtualInbound", INBOUND), "filter_chains": [_chain("InboundPassthroughCluster")]}
    passing = {
        **_original("InboundPassthroughCluster"),
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
    }
    clusters = [_cluster(item) for item in known]
    nowhere = {"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "1s"}
    return {
        "node": {"id": "stand-in", "cluster": "stand-in"},
        "static_resources": {
            "listeners": [outbound, inbound, _health()],
            "clusters": [*clusters, passing, nowhere],
        },
    }


def _listener(name: str, port: int) -> dict[str, Any]:
    original = {"@type": f"{_TYPE}.filters.listener.original_dst.v3.OriginalDst"}
    filters = [{"name": "envoy.filters.listener.original_dst", "typed_config": original}]
    return {"name": name, "address": _address("0.0.0.0", port), "listener_filters": filters}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _chain(cluster: str) -> dict[str, Any]:
    log = {
        "@type": f"{_TYPE}.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"text_format_source": {"inline_string": LOG}},
    }
    passes = {
        "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
        "access_log": [{"name": "log", "typed_config": log}],
        "access_log_options": {"flush_access_log_on_connected": True},
    }
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": passes}]}


def _original(name: str) -> dict[str, Any]:
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s"}


def _cluster(item: Mapping[str, Any]) -> dict[str, Any]:
    if not item["endpoints"]:
        return _original(item["name"])
    port = item["match"]["destination_port"]
    places = [{"endpoint": {"address": _address(host, port)}} for host in item["endpoints"]]
    return {
        "name": item["name"],
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": item["name"], "endpoints": [{"lb_endpoints": places}]},
    }


def _health() -> dict[str, Any]:
    routes = [{"match": {"path": "/healthz/ready"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "health",
        "route_config": {"virtual_hosts": [{"name": "health", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
        ],
    }
    answers = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": "health", "address": _address("0.0.0.0", HEALTH), "filter_chains": [answers]}
