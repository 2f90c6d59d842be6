"""
How .NET's `HttpClient` reads NO_PROXY outside Windows and macOS, and inside them where the variables are set.

Follows `HttpEnvironmentProxy.IsMatchInBypassList` in System.Net.Http of .NET Core 3.1 to .NET 10. A name stands for
itself alone; `.name` for the name and all below it. There are no ports, no wildcards and no `*`. Addresses are
compared as text with `Uri.Host`: IPv6 in brackets, in the shortest form. Networks are not known; .NET 11 is the first
to read them.
"""

from __future__ import annotations

from xds.dialects.addresses import inet_aton, parse_address
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss


def _decide(no_proxy: str, target: Target) -> Answer:
    host = _uri_host(target.host)
    for part in no_proxy.split(","):
        entry = part.strip()
        text = entry.lower()
        if text.startswith("."):
            if host == text[1:]:
                return direct(entry, "the name is the same")
            if host.endswith(text):
                return direct(entry, f"the name ends in `{text}`")
        elif text and host == text:
            return direct(entry, "the host is the same")
    return miss(no_proxy, target)


def _uri_host(host: str) -> str:
    """Return what `Uri.Host` says: an address in its usual form, everything else in lower case."""
    address = inet_aton(host) or parse_address(host)
    if address is None:
        return host.lower()
    return f"[{address}]" if ":" in str(address) else str(address)


CLIENT = Client(
    "dotnet",
    ".NET",
    "dotnet/runtime System.Net.Http HttpEnvironmentProxy.cs, IsMatchInBypassList",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
