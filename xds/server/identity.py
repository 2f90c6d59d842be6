"""
What a caller has proven about itself, and which node it may therefore be.

A certificate or a token names a namespace, and perhaps a service account and a pod. A node that claims otherwise is
refused; what it left open is filled in. Labels are proven by neither, so that they are the caller's word.

Pure: how a proof is checked is the business of `credentials` and `tokens`. Invariant: a bound workload differs from no
proof in anything that the proof tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.policy.model import Workload

_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}/ns/(?P<ns>[^/]+)(/sa/(?P<sa>[^/]+))?(/pod/(?P<pod>[^/]+))?")
_SUBJECT = re.compile(r"system:serviceaccount:(?P<ns>[^:]+):(?P<sa>[^:]+)")


class IdentityError(ValueError):
    """The caller is nobody known, or not the node that it names. The message is for the server's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What one proof tells; an empty text is something that it leaves open."""

    namespace: str
    service_account: str = ""
    pod: str = ""
    expires: float | None = None
    """When the proof ends, in seconds since the epoch."""

    def bind(self, workload: Workload) -> Workload:
        """Return `workload` with what is proven of it. Raises IdentityError if it claims anything else."""
        for what, proven, claimed in (
            ("namespace", self.namespace, workload.namespace),
            ("pod", self.pod, workload.pod),
            ("service account", self.service_account, workload.service_account),
        ):
            if proven and claimed and proven != claimed:
                raise IdentityError(f"its {what} is {proven!r}, and it claims to be {claimed!r}")
        return replace(workload, service_account=workload.service_account or self.service_account)


def parse_spiffe_id(text: str, *, expires: float | None = None) -> Caller:
    """
    Read `spiffe://DOMAIN/ns/NAMESPACE[/sa/ACCOUNT][/pod/POD]` (SPIFFE ID, section 2). Raises IdentityError.

    The domain is not looked at: whom the authority of clients signs for is up to the authority.
    """
    match = _SPIFFE.fullmatch(text)
    if match is None:
        raise IdentityError("its certificate's SPIFFE ID is not spiffe://DOMAIN/ns/NAMESPACE[/sa/ACCOUNT][/pod/POD]")
    return Caller(namespace=match["ns"], service_account=match["sa"] or "", pod=match["pod"] or "", expires=expires)


def parse_claims(claims: Mapping[str, object]) -> Caller:
    """
    Read the claims of a token whose signature holds. Raises IdentityError.

    They are those of Kubernetes' bound service account tokens; others need a subject of the same form.
    """
    expires = claims.get("exp")
    assert isinstance(expires, int | float), "a token without an end is not verified"
    match claims:
        case {"kubernetes.io": {"namespace": str(namespace), "serviceaccount": {"name": str(account)}, **rest}}:
            pod = rest.get("pod")
            name = pod.get("name") if isinstance(pod, dict) else None
            return Caller(
                namespace=namespace,
                service_account=account,
                pod=name if isinstance(name, str) else "",
                expires=float(expires),
            )
        case {"sub": str(subject)} if (found := _SUBJECT.fullmatch(subject)) and "kubernetes.io" not in claims:
            return Caller(namespace=found["ns"], service_account=found["sa"], expires=float(expires))
        case _:
            raise IdentityError("its token names no namespace and service account")
