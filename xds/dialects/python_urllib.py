"""
How Python's `urllib.request` reads NO_PROXY.

Follows `proxy_bypass_environment` of Lib/urllib/request.py, unchanged in CPython 3.11 to 3.14. A name covers itself
and all below it, however many dots stand in front; an entry is compared with the host as it stands in the URL, with
its port and without, so that `name:port` matches only where the URL shows the port, and IPv6 needs its brackets.
There are no networks and no wildcards; `*` counts only as the whole value.
"""

from __future__ import annotations

import re

from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss

_WITH_PORT = re.compile(r"(.*):([0-9]+)", re.DOTALL)


def _decide(no_proxy: str, target: Target) -> Answer:
    shown = target.bracketed if target.shown_port is None else f"{target.bracketed}:{target.shown_port}"
    return bypass(no_proxy, shown) or miss(no_proxy, target)


def bypass(no_proxy: str, host: str) -> Answer | None:
    """Say which entry of `no_proxy` matches `host`, which may have a port; None where nothing does."""
    if no_proxy == "*":
        return direct("*", "`*` as the whole value stands for every host")
    host = host.lower()
    match = _WITH_PORT.fullmatch(host)
    only = match[1] if match else host
    for part in no_proxy.split(","):
        entry = part.strip()
        if not entry:
            continue
        name = entry.lstrip(".").lower()
        if name in {only, host}:
            return direct(entry, "the host is the same")
        if only.endswith(f".{name}") or host.endswith(f".{name}"):
            return direct(entry, f"the host ends in `.{name}`")
    return None


CLIENT = Client(
    "python-urllib",
    "Python urllib",
    "CPython Lib/urllib/request.py, proxy_bypass_environment",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
