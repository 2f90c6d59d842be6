"""What a real Envoy says that it holds is walked as what it was given."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, compile_good, policy, rule, to
from tests.support.real_envoy import ask_admin, run_envoy
from xds.explain.connection import Connection, Protocol
from xds.explain.held import read_held
from xds.explain.walk import Envoy
from xds.policy.model import Deny, Direct
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WRITTEN = policy(
    rule(Direct(), "direct.example", "10.0.0.0/8"),
    rule(Deny(), "ads.example", to("*", 25)),
    rule(CORP, "2001:db8::/32", http=Deny()),
)
CONNECTIONS = [
    Connection(ip_address(address), port, protocol, name)
    for address in ("203.0.113.7", "10.1.2.3", "2001:db8::7")
    for port in (25, 80, 443)
    for protocol, name in (
        (Protocol.TLS, "www.direct.example"),
        (Protocol.TLS, "ads.example"),
        (Protocol.HTTP_11, "api.example"),
        (Protocol.OTHER, ""),
    )
]


def held(dump: Mapping[str, object]) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield what stands in the bootstrap, which is where these resources are, as if a control plane had sent it."""
    configs = dump["configs"]
    assert isinstance(configs, list)
    for section in configs:
        for item in section.get("static_listeners", []):
            yield ResourceType.LISTENER.type_url, item["listener"]["name"], item["listener"]
        for item in section.get("static_clusters", []):
            yield ResourceType.CLUSTER.type_url, item["cluster"]["name"], item["cluster"]


@pytest.mark.e2e
def test_what_an_envoy_holds_decides_as_it_does(tmp_path: Path) -> None:
    snapshot = compile_good(WRITTEN)
    with run_envoy(snapshot, tmp_path) as real:
        address = (tmp_path / "admin.txt").read_text(encoding="ascii").strip()
        walk = Envoy(read_held(held(json.loads(ask_admin(address, "/config_dump")))))
        for connection in CONNECTIONS:
            assert walk.take(connection).outcome == real.take(connection), connection
            assert walk.take(connection) == Envoy(snapshot).take(connection), connection
