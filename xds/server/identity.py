"""
What a caller has proven about itself, and which node it may therefore be.

A certificate or a token names a namespace, and perhaps a service account and a pod. A node that claims otherwise is
refused; what it left open is filled in. Labels are proven by neither, so that they are the caller's word, unless
the cluster tells which pods there are: then a proof has to fit the pod that is known, and what is claimed is not heard.

Pure: how a proof is checked is the business of `credentials`, `tokens` and the API server. Invariant: a bound workload
differs from no proof in anything that the proof tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds.server.node import NAMESPACE_NAME, POD_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.policy.model import Workload
    from xds.workloads import Pod

_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}/ns/([^/]+)(?:/sa/([^/]+))?(?:/pod/([^/]+))?")
_SUBJECT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")

_FOR_EVER = 1e11
"""Seconds since the epoch that no token lives to see."""


class IdentityError(ValueError):
    """The caller is nobody known, or not the node that it names. The message is for the server's log."""


class ExpiredError(IdentityError):
    """What the caller proved itself with has ended meanwhile."""


class UndecidedError(Exception):
    """Whoever could tell who the caller is can't be asked at the moment. The message is for the server's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What one proof tells; an empty text is something that it leaves open."""

    namespace: str
    service_account: str = ""
    pod: str = ""
    pod_uid: str = ""
    """`metadata.uid` of the pod: tells it from an earlier or a later one of the same name."""
    expires: float | None = None
    """When the proof ends, in seconds since the epoch."""

    def __post_init__(self) -> None:
        """Refuse names that are none, above all an empty namespace, which would be every one. Raises IdentityError."""
        names = [name for name in (self.service_account, self.pod) if name]
        if not NAMESPACE_NAME.fullmatch(self.namespace) or not all(map(POD_NAME.fullmatch, names)):
            raise IdentityError("its proof holds a namespace, account or pod that is no name")

    def bind(self, workload: Workload, *, now: float) -> Workload:
        """
        Return `workload` with what is proven of it.

        Raises IdentityError if it claims anything else, and ExpiredError if the proof has ended at `now`: TLS resumes
        a session without another look at the certificate, and a first request may be long in coming.
        """
        self._check_end(now)
        for what, proven, claimed in (
            ("namespace", self.namespace, workload.namespace),
            ("pod", self.pod, workload.pod),
            ("service account", self.service_account, workload.service_account),
        ):
            if proven and claimed and proven != claimed:
                raise IdentityError(f"its {what} is {proven!r}, and it claims to be {claimed!r}")
        return replace(workload, service_account=workload.service_account or self.service_account)

    def confirm(self, pod: Pod, *, now: float) -> None:
        """
        Refuse a caller that is not `pod`; unlike a claim, what is known of a pod leaves nothing open.

        Raises IdentityError, and ExpiredError if the proof has ended at `now`.
        """
        self._check_end(now)
        for what, proven, known in (
            ("namespace", self.namespace, pod.workload.namespace),
            ("pod", self.pod, pod.workload.pod),
            ("service account", self.service_account, pod.workload.service_account),
            ("pod's uid", self.pod_uid, pod.uid),
        ):
            if proven and proven != known:
                raise IdentityError(f"its {what} is {proven!r}, and that of the pod that it names is {known!r}")

    def _check_end(self, now: float) -> None:
        if self.expires is not None and self.expires <= now:
            raise ExpiredError("its proof has ended")


def parse_spiffe_id(text: str, *, expires: float | None = None) -> Caller:
    """
    Read `spiffe://DOMAIN/ns/NAMESPACE[/sa/ACCOUNT][/pod/POD]` (SPIFFE ID, section 2). Raises IdentityError.

    The domain is not looked at: whom the authority of clients signs for is up to the authority.
    """
    match = _SPIFFE.fullmatch(text)
    if match is None:
        raise IdentityError("its certificate's SPIFFE ID is not spiffe://DOMAIN/ns/NAMESPACE[/sa/ACCOUNT][/pod/POD]")
    namespace, account, pod = match.groups("")
    return Caller(namespace=namespace, service_account=account, pod=pod, expires=expires)


def parse_claims(claims: Mapping[str, object]) -> Caller:
    """
    Read the claims of a token whose signature holds. Raises IdentityError.

    They are those of Kubernetes' bound service account tokens; others need a subject of the same form.
    """
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 < expires < _FOR_EVER:
        raise IdentityError("its token has no end that is a time")
    match claims:
        case {"kubernetes.io": {"namespace": str(namespace), "serviceaccount": {"name": str(account)}, **rest}} if (
            account
        ):
            pod, uid = _parse_pod(rest)
            return Caller(namespace=namespace, service_account=account, pod=pod, pod_uid=uid, expires=float(expires))
        case {"sub": str(subject)} if (found := _SUBJECT.fullmatch(subject)) and "kubernetes.io" not in claims:
            return Caller(namespace=found[1], service_account=found[2], expires=float(expires))
        case _:
            raise IdentityError("its token names no namespace and service account")


def _parse_pod(claim: Mapping[object, object]) -> tuple[str, str]:
    """Return name and uid of the pod that a token is bound to; only one that says nothing of a pod is bound to none."""
    match claim:
        case {"pod": {"name": str(name), "uid": str(uid)}} if name and uid:
            return name, uid
        case {"pod": {"name": str(name), **others}} if name and "uid" not in others:
            return name, ""
        case {"pod": _}:
            raise IdentityError("its token is bound to a pod without a name, or with an odd uid")
        case _:
            return "", ""
