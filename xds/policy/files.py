"""
Which files a policy names: logins, authorities, certificates and keys.

Nothing here opens one; an edge reads them, and compilation is handed what they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Policy, Proxy


def files_of(policy: Policy) -> frozenset[str]:
    """Return the paths of all files whose content `policy` needs."""
    return frozenset(path for proxy in policy.proxies for path in _files_of_proxy(proxy))


def _files_of_proxy(proxy: Proxy) -> Iterable[str]:
    if proxy.login is not None:
        yield proxy.login.file
    if proxy.tls.ca_file is not None:
        yield proxy.tls.ca_file
    if proxy.tls.client_certificate is not None:
        yield proxy.tls.client_certificate.certificate_file
        yield proxy.tls.client_certificate.key_file
