"""
What Java does once NO_PROXY is translated for it. Java itself reads no such variable.

Follows `DefaultProxySelector.toPattern` and `select` of OpenJDK 17 to 25 (sun.net.spi), which read the system
property `http.nonProxyHosts`, for https too. The usual translation is assumed: commas become `|`, space around
entries goes, nothing else changes. An entry is the whole host, unless `*` stands at its beginning or end. So a
name stands for itself alone, `.name` for nothing, and networks and ports for nothing; IPv6 stands in brackets. As
soon as the property has a value, the loopback patterns are added to it; while it has none they stand alone. An
empty value has no pattern at all, so an empty list is taken to leave the property unset.
"""

from __future__ import annotations

from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss

LOOPBACK = ("localhost", "127.*", "[::1]", "0.0.0.0", "[::0]")  # noqa: S104 - a pattern, nothing listens


def translate(no_proxy: str) -> str:
    """Return the value of `http.nonProxyHosts` that the usual translation makes of `no_proxy`."""
    return "|".join(entry for part in no_proxy.split(",") if (entry := part.strip()))


def _decide(no_proxy: str, target: Target) -> Answer:
    host = target.bracketed.lower()
    for entry in translate(no_proxy).split("|"):
        if entry and _is_match(entry.lower(), host):
            return direct(entry, "the whole host matches, and `*` stands for any text")
    if any(_is_match(pattern, host) for pattern in LOOPBACK):
        return Answer(goes_direct=True, entry=None, why="loopback is in Java's own list")
    return miss(no_proxy, target)


def _is_match(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    begins, ends = pattern.startswith("*"), pattern.endswith("*")
    if begins and ends:
        return pattern[1:-1] in host
    if begins:
        return host.endswith(pattern[1:])
    return host.startswith(pattern[:-1]) if ends else host == pattern


CLIENT = Client(
    "java",
    "Java",
    "OpenJDK sun/net/spi/DefaultProxySelector.java, toPattern",
    False,  # noqa: FBT003 - reads_environment
    _decide,
)
