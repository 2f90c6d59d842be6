"""Istio's tunnels become rules, and what its objects say besides is told."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imported import DENY, DIRECT, decide, messages, read_policy
from xds.errors import SourceError
from xds.importers.imported import Home, Imported, Weight, Wish
from xds.importers.istio import import_istio, is_istio

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "external-forward-proxy.external.svc.cluster.local"
PROXY = f"http://{HOST}:3128"
WISH = Wish(source="tunnels.yaml", name="istio")

# An external proxy, a tunnel to one host through it, the route that leads there, and a host without a tunnel.
TUNNELS = (Path(__file__).parent / "istio-tunnels.yaml").read_text(encoding="utf-8")


def load(text: str = TUNNELS) -> list[dict[str, object]]:
    return list(yaml.safe_load_all(text))


def read(text: str = TUNNELS, home: Home = Home.FILES) -> Imported:
    return import_istio(load(text), Wish(source="tunnels.yaml", name="istio", home=home))


def told(imported: Imported, fragment: str) -> Weight:
    found = {change.weight for change in imported.changes if fragment in f"{change.where.key}: {change.message}"}
    assert len(found) == 1, messages(imported)
    return found.pop()


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("https", "www.wikipedia.org", 443, PROXY),
        ("https", "de.wikipedia.org", 443, PROXY),
        ("https", "fr.wikipedia.org", 443, DENY),
        ("http", "www.wikipedia.org", 80, DIRECT),
        ("https", "api.partner.example", 8443, DIRECT),
        ("https", "api.partner.example", 443, DENY),
        ("https", "a.cdn.example", 443, DIRECT),
        ("https", "cdn.example", 443, DENY),
        ("https", "example.com", 443, DENY),
    ],
)
def test_tunnels_and_external_hosts_decide_as_in_the_mesh(scheme: str, host: str, port: int, expected: str) -> None:
    assert decide(read_policy(read()), scheme, host, port) == expected


def test_what_the_objects_say_besides_is_told() -> None:
    imported = read()

    assert told(imported, "`de.wikipedia.org` led to a tunnel for `www.wikipedia.org`") is Weight.CHANGED
    assert told(imported, "what none of these objects speaks of is denied") is Weight.CHANGED
    assert told(imported, "ServiceEntry/partner.spec.exportTo") is Weight.LOST
    assert told(imported, "`outlierDetection` is not understood") is Weight.LOST
    assert told(imported, "`www.wikipedia.org` has no tunnel on 80, so it is direct") is Weight.NOTE


@pytest.mark.parametrize(
    ("change", "fragment", "weight"),
    [
        (("protocol: CONNECT", "protocol: POST"), "only CONNECT is spoken", None),
        (("targetHost: www.wikipedia.org", "targetHost: ''"), "names no host, target and port", None),
        (("targetPort: 443", "targetPort: 4443"), "the tunnel led to port 4443", Weight.CHANGED),
        (("  tls:\n", "  http:\n"), "a route for HTTP has no tunnel", Weight.LOST),
        (("[{sniHosts: ", "[{gateways: [egress], sniHosts: "), "a route of the gateway `egress`", Weight.CHANGED),
        (("[{sniHosts: ", "[{sourceLabels: {a: b}, sniHosts: "), "`sourceLabels` is not understood", Weight.LOST),
        (("subset: wikipedia", "subset: other"), "no route to it is among the objects", Weight.CHANGED),
        (("kind: VirtualService", "kind: Gateway"), "Gateway/wikipedia: this is not read", Weight.LOST),
        (("        tunnel:", "        tls: {mode: ISTIO_MUTUAL}\n        tunnel:"), "the mesh's own", Weight.LOST),
    ],
)
def test_what_can_not_be_carried_over_is_told(change: tuple[str, str], fragment: str, weight: Weight | None) -> None:
    assert change[0] in TUNNELS
    text = TUNNELS.replace(*change)

    if weight is None:
        with pytest.raises(SourceError, match=fragment):
            read(text)
        return
    imported = read(text)
    assert told(imported, fragment) is weight
    read_policy(imported)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("resolution: DNS", PROXY),
        ("resolution: STATIC\n  endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2}]",
         "http://192.0.2.1:3128 http://192.0.2.2:3128"),
        ("resolution: STATIC\n  endpoints: [{address: 192.0.2.1, ports: {tcp: 8080}}]", "http://192.0.2.1:8080"),
    ],
    ids=["by name", "addresses", "a port of its own"],
)  # fmt: skip
def test_the_proxy_is_where_its_service_entry_says(entry: str, expected: str) -> None:
    text = TUNNELS.replace("resolution: DNS # of the proxy", entry)

    assert decide(read_policy(read(text)), "https", "www.wikipedia.org", 443) == expected


def test_a_proxy_that_is_a_service_is_found() -> None:
    text = TUNNELS.split("---\n", 1)[1].replace(", port: {number: 3128}", "")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "external-forward-proxy", "namespace": "external"},
        "spec": {"ports": [{"port": 8888}]},
    }

    policy = read_policy(import_istio([*load(text), service], WISH))

    assert decide(policy, "https", "www.wikipedia.org", 443) == f"http://{HOST}:8888"


def test_a_proxy_whose_port_nothing_says_is_refused() -> None:
    text = TUNNELS.split("---\n", 1)[1].replace(", port: {number: 3128}", "")

    with pytest.raises(SourceError, match=f"the port of the proxy `{HOST}` is not known"):
        read(text)


def test_tls_to_the_proxy_is_verified_as_it_was() -> None:
    tls = "        tls: {mode: MUTUAL, sni: proxy.example, credentialName: corp-proxy}\n        tunnel:"
    text = TUNNELS.replace("        tunnel:", tls)

    in_cluster, in_files = read(text, Home.CLUSTER), read(text)

    (proxy,) = read_policy(in_cluster, secrets="egress-system").proxies
    assert (proxy.tls.server_name, proxy.tls.ca_file is None, proxy.tls.client_certificate is None) == (
        "proxy.example",
        False,
        False,
    )
    assert told(in_files, "credentialName: names a Secret, and policies in files name files") is Weight.LOST
    assert read_policy(in_files).proxies[0].endpoints[0].tls


def test_a_workload_selector_becomes_the_policys() -> None:
    text = TUNNELS.replace("  subsets:\n", "  workloadSelector: {matchLabels: {app: shop}}\n  subsets:\n")

    labels = read_policy(read(text)).selector.labels

    assert [(item.key, item.values) for item in labels] == [("app", ("shop",))]


def test_objects_without_a_tunnel_are_refused() -> None:
    with pytest.raises(SourceError, match="has no tunnel that a policy can have"):
        import_istio([load()[0]], WISH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _replace(draw: Callable[[st.SearchStrategy[object]], object], value: object) -> object:
    """Put anything in the place of some parts of a document."""
    if draw(st.integers(0, 11)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        return {key: _replace(draw, item) for key, item in value.items()}
    return [_replace(draw, item) for item in value] if isinstance(value, list) else value


@given(data=st.data())
def test_any_objects_become_a_good_policy_or_a_clear_error(data: st.DataObject) -> None:
    documents = [_replace(data.draw, document) for document in load()]
    for document in documents:
        is_istio(document)

    with suppress(SourceError):
        imported = import_istio(documents, WISH)
        assert json.dumps(imported.policy)
        read_policy(imported)
