"""
The clients whose reading of NO_PROXY is known, by name.

`decide` asks one of them. This module must not read an entry itself. Invariant: a name in `CLIENTS` is never given
another meaning, and the order is the same in every process.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.dialects import axios, curl, dotnet, go, java, node, python_requests, python_urllib, undici
from xds.dialects.answers import Answer, Client, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALL = (
    curl.CLIENT,
    go.CLIENT,
    python_urllib.CLIENT,
    python_requests.CLIENT,
    dotnet.CLIENT,
    node.CLIENT,
    undici.CLIENT,
    axios.CLIENT,
    java.CLIENT,
)

CLIENTS: Mapping[str, Client] = MappingProxyType({client.name: client for client in _ALL})
"""Every client by its name, in the order in which tables show them."""


def decide(client: str, no_proxy: str, host: str, port: int, *, scheme: str = "https") -> Answer:
    """
    Say whether `client` would pass the proxy by when it asks for `scheme://host:port/`.

    A proxy is taken to be set for the scheme. The host is not empty; an IPv6 address may stand in brackets or not.
    Raises `KeyError` for a client that is not in `CLIENTS`.
    """
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return CLIENTS[client].decide(no_proxy, Target(host, port, scheme))
