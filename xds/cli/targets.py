"""
Reads what an operator calls a destination: `HOST:PORT`, `[IPv6]:PORT`, or a URL.

Nothing here resolves a name. Invariant: a message about what was typed repeats no login that stood in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import click

from xds.errors import quote_value
from xds.policy.hosts import Problem, parse_name, parse_port

SCHEMES = {"http": 80, "https": 443}
"""Those of URLs that are read, with their ports."""
_FORMS = "write HOST:PORT, [IPv6]:PORT or a URL, as in api.example.com:443 or https://api.example.com/"


@dataclass(frozen=True, slots=True)
class Target:
    """A destination; `host` is a name in normal form or an address without brackets, `scheme` that of a URL, if any."""

    host: str
    port: int
    scheme: str = ""
    path: str = "/"


def parse_target(text: str) -> Target:
    """Read a destination; anything else is a click.UsageError."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    scheme = scheme.lower()
    if scheme and scheme not in SCHEMES:
        raise click.UsageError(f"{quote_value(text)} is a URL of another kind than http and https; {_FORMS}")
    authority, slash, path = rest.partition("/")
    if slash and not scheme:
        raise click.UsageError(f"{quote_value(text)} has a path but no scheme; {_FORMS}")
    if "@" in authority:
        raise click.UsageError(f"{quote_value(text)} has a login, which decides nothing; leave it out")
    host, port = _split(authority, SCHEMES.get(scheme), text)
    return Target(_read_host(host, text), port, scheme, f"/{path.partition('#')[0]}")


def _split(authority: str, usual: int | None, text: str) -> tuple[str, int]:
    if authority.startswith("["):
        host, _, rest = authority[1:].partition("]")
        port = rest.removeprefix(":") if rest else ""
        is_good = ":" in host and (not rest or rest.startswith(":"))
    else:
        host, _, port = authority.partition(":")
        is_good = ":" not in port
    if not is_good:
        raise click.UsageError(f"{quote_value(text)}: an IPv6 address needs brackets, as in [2001:db8::1]:443")
    if not port and usual is None:
        raise click.UsageError(f"{quote_value(text)} has no port, and a policy may look at it; {_FORMS}")
    number = parse_port(port) if port or usual is None else usual
    if isinstance(number, Problem):
        raise click.UsageError(f"{quote_value(text)}: {number.message}")
    return host, number


def _read_host(host: str, text: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        name = parse_name(host)
        if isinstance(name, Problem):
            raise click.UsageError(f"{quote_value(text)}: {name.message}; {name.hint}") from None
        return name
    if isinstance(address, IPv6Address) and address.scope_id:
        raise click.UsageError(f"{quote_value(text)}: an address with a zone means something on one machine only")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
