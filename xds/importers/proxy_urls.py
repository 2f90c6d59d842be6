"""
URLs of proxies as the variables have them: with a login, without a scheme or a port, or of another kind of proxy.

Invariant: the text of a login is in no message, no `repr` and no policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.importers.imported import NOTHING
from xds.policy.hosts import Problem
from xds.policy.listeners import check_upstream
from xds.policy.proxies import parse_endpoint

if TYPE_CHECKING:
    from xds.importers.imported import Changes

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_PORTS = {"http": 80, "https": 443}
_AN_HTTP_PROXY = "give the URL of an HTTP proxy that takes CONNECT: `http://host:port`"


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """A proxy without its login: `http://host:port` or `https://host:port`, and what logs in there."""

    url: str
    login: str = field(default="", repr=False)
    """Compared, and never shown: two logins at one address are two proxies."""

    @property
    def has_login(self) -> bool:
        """Whether the URL held a login."""
        return bool(self.login)

    @property
    def is_tls(self) -> bool:
        """Whether TLS is spoken with the proxy itself."""
        return self.url.startswith("https://")


def build_url(scheme: str, host: str, port: int | str) -> str:
    """Return the URL of a proxy; an IPv6 address gets its brackets."""
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{shown}:{port}"


def read_url(text: str, key: str, changes: Changes, line: int | None = None) -> ProxyUrl | None:
    """Return the proxy that `text` names; None, and a change that says why, if no policy can name it."""
    match = _SCHEME.fullmatch(text.strip())
    scheme, rest = (match[1].lower(), match[2]) if match else ("http", text.strip())
    if scheme not in _PORTS:
        # What stands before `://` may be a login whose scheme was left out.
        kind = f"a {scheme} proxy" if scheme.startswith("socks") else "no HTTP proxy"
        changes.lost(key, f"this is {kind}, which no policy can name", _AN_HTTP_PROXY, line)
        return None
    userinfo, _, authority = rest.rpartition("@")
    authority, path = _cut_path(authority)
    if "/" in userinfo or "%40" in authority:
        changes.lost(key, "the proxy's URL can't be read for its `@`", _AN_HTTP_PROXY, line)
        return None
    if not re.search(r":[0-9]+\Z", authority) and re.fullmatch(r"\[[^\]]*\]|[^:]*", authority.removesuffix(":")):
        authority = f"{authority.removesuffix(':')}:{_PORTS[scheme]}"
        changes.changed(
            key,
            f"the proxy's URL has no port: {_PORTS[scheme]} is taken, as by Go; curl takes 1080 for http",
            "write the port that the proxy listens on",
            line,
        )
    url = f"{scheme}://{authority}"
    endpoint = parse_endpoint(url)
    problem = endpoint if isinstance(endpoint, Problem) else check_upstream(endpoint)
    if problem is not None:
        changes.lost(key, problem.message, problem.hint, line)
        return None
    if match is None:
        changes.note(key, "the proxy's URL has no scheme: http is taken, as by curl and Go", NOTHING, line)
    if path:
        changes.note(key, "what follows the port of the proxy's URL means nothing, so it is left out", NOTHING, line)
    return ProxyUrl(url, userinfo if userinfo.strip(":") else "")


def _cut_path(authority: str) -> tuple[str, str]:
    """Return host and port, and what follows them but a single slash."""
    match = re.search(r"[/?#]", authority)
    if match is None:
        return authority, ""
    return authority[: match.start()], authority[match.start() :].removeprefix("/")
