"""
How `fetch()` of Node.js reads NO_PROXY: undici's `EnvHttpProxyAgent`, which `NODE_USE_ENV_PROXY=1` installs.

Follows `#shouldProxy` and `#parseNoProxy` of lib/dispatcher/env-http-proxy-agent.js in undici 7.29, which Node.js 24
bundles. A name covers itself and all below it; a dot or `*.` in front changes nothing. `:port` limits an entry; `*`
counts only as the whole value; networks are not known. IPv6 stands in brackets; undici 8.9 takes it without them too
and ignores a trailing dot. Before 7.22 the list was read as `axios` has it.
"""

from __future__ import annotations

import re

from xds.dialects.addresses import url_host
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss

SEPARATORS = re.compile(r"[,\s]")
_WITH_PORT = re.compile(r"(.+):([0-9]{1,9})")
_PREFIX = re.compile(r"\A\*?\.")


def _decide(no_proxy: str, target: Target) -> Answer:
    if no_proxy == "*":
        return direct("*", "`*` as the whole value stands for every host")
    host = url_host(target.host)
    host = f"[{host}]" if ":" in host else host
    for entry in SEPARATORS.split(no_proxy):
        text, port = split_port(entry)
        name = _PREFIX.sub("", text).lower()
        if not entry or port not in (0, target.port):
            continue
        if host == name:
            return direct(entry, "the host is the same")
        if host.endswith(f".{name}"):
            return direct(entry, f"the name is below `{name}`")
    return miss(no_proxy, target)


def split_port(entry: str) -> tuple[str, int]:
    """Split off the port, even one that is the last part of a bare IPv6 address; 0 is every port."""
    match = _WITH_PORT.fullmatch(entry)
    return (match[1], int(match[2])) if match else (entry, 0)


CLIENT = Client(
    "undici",
    "Node.js fetch",
    "nodejs/undici lib/dispatcher/env-http-proxy-agent.js, EnvHttpProxyAgent",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
