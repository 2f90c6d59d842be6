"""An issuer of tokens, as a Kubernetes API server is one: it signs with its own key and publishes the public half."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import Mapping

AUDIENCE = "egress-xds"


class Issuer:
    """Signs with ES256, or with RS256 as an API server does."""

    def __init__(self, kid: str = "one", *, is_rsa: bool = False) -> None:
        self.kid = kid
        self.algorithm = "RS256" if is_rsa else "ES256"
        self._rsa = rsa.generate_private_key(65537, 2048) if is_rsa else None
        self._ec = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        if self._rsa is not None:
            key = RSAAlgorithm.to_jwk(self._rsa.public_key(), as_dict=True)
        else:
            key = ECAlgorithm.to_jwk(self._ec.public_key(), as_dict=True)
        return {**key, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, claims: Mapping[str, Any], **headers: str) -> str:
        """Return a token."""
        return jwt.encode(settle(claims), self._rsa or self._ec, self.algorithm, headers={"kid": self.kid, **headers})


def settle(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return claims whose times, given as what is left from now on, are moments."""
    return {
        name: time.time() + value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in claims.items()
    }


def key_set(*issuers: Issuer) -> str:
    """Return the JWKS of issuers."""
    return json.dumps({"keys": [issuer.jwk for issuer in issuers]})


def claims(namespace: str = "shop", account: str = "web", pod: str = "web-0", **others: object) -> dict[str, Any]:
    """Return what Kubernetes says in a bound token; without a pod, in one that is not bound to any."""
    bound: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": account, "uid": "1"}}
    if pod:
        bound["pod"] = {"name": pod, "uid": "2"}
    return {
        "iss": "https://kubernetes.default.svc",
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "aud": [AUDIENCE],
        "exp": timedelta(hours=1),
        "kubernetes.io": bound,
        **others,
    }
