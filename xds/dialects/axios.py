"""
How axios and other users of the Node.js package proxy-from-env read NO_PROXY.

Follows `shouldProxy` of index.js in proxy-from-env 1.1 and 2. A name stands for itself alone; `.name` and `*.name`
for what is below it, and `*name` for whatever ends so; `:port` limits an entry. `*` in a list with others stands for
every host too, as any text ends in nothing. Networks are not known; IPv6 stands in brackets.
"""

from __future__ import annotations

from xds.dialects.addresses import url_host
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss
from xds.dialects.undici import SEPARATORS, split_port


def _decide(no_proxy: str, target: Target) -> Answer:
    host = url_host(target.host)
    host = f"[{host}]" if ":" in host else host
    for entry in SEPARATORS.split(no_proxy):
        name, port = split_port(entry.lower())
        if not entry or port not in (0, target.port):
            continue
        if not name.startswith((".", "*")):
            if host == name:
                return direct(entry, "the host is the same")
        elif host.endswith(name.removeprefix("*")):
            suffix = name.removeprefix("*")
            return direct(entry, f"the name ends in `{suffix}`" if suffix else "`*` stands for every host")
    return miss(no_proxy, target)


CLIENT = Client(
    "axios",
    "axios",
    "Rob--W/proxy-from-env index.js, shouldProxy",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
