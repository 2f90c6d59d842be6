"""
Bearer tokens (RFC 6750): JSON Web Tokens that are checked against a key set (RFC 7519, RFC 7517).

Only public keys are keys here: with a symmetric one whoever can check a token could make one. The file is read by
others and handed in. Invariants: no part of a token is in any message, and a broken key set changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jwt

from xds.server.identity import Caller, IdentityError, parse_claims

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEEWAY = 30
"""Seconds by which the clocks of issuer and server may differ."""

_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "its token has expired"),
    (jwt.ImmatureSignatureError, "its token is not valid yet"),
    (jwt.InvalidAudienceError, "its token is for another audience"),
    (jwt.InvalidIssuerError, "its token is from another issuer"),
    (jwt.MissingRequiredClaimError, "its token lacks one of exp, aud and iss"),
    (jwt.InvalidSignatureError, "the signature of its token is wrong"),
)


class KeySetError(ValueError):
    """The text is no usable set of public keys."""


class TokenVerifier:
    """Checks tokens against the newest key set; until there is one, every token is refused."""

    def __init__(self, audiences: Iterable[str], issuer: str = "") -> None:
        """`audiences`: one of these a token must be for; `issuer`: who must have made it, empty for anybody."""
        self._audiences = tuple(audiences)
        self._issuer = issuer
        self._keys: tuple[jwt.PyJWK, ...] = ()

    def replace_keys(self, text: str) -> None:
        """Take the keys of a JWKS document from now on. Raises KeySetError, and keeps those that there were."""
        try:
            keys = tuple(jwt.PyJWKSet.from_json(text).keys)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            raise KeySetError("it is not a JSON Web Key Set with a usable key") from error
        if any(key.key_type == "oct" for key in keys):
            raise KeySetError("it holds a symmetric key; only public keys may be in it")
        self._keys = keys

    def verify(self, token: str) -> Caller:
        """Return whom `token` is about. Raises IdentityError."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            candidates = [key for key in self._keys if kid is None or key.key_id == kid]
            claims = self._decode(token, candidates)
        except jwt.PyJWTError as error:
            raise IdentityError(
                next((reason for kind, reason in _REASONS if isinstance(error, kind)), "its token is malformed")
            ) from None
        caller = parse_claims(claims)
        assert caller.expires is not None, "every token ends"
        return replace(caller, expires=caller.expires + _LEEWAY)

    def _decode(self, token: str, candidates: Iterable[jwt.PyJWK]) -> dict[str, object]:
        """Check with each key in turn; a key takes its own algorithm only, whatever the token's header wants."""
        wrong = None
        for key in candidates:
            try:
                return dict(self._check(token, key))
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
                wrong = error
        if wrong is not None:
            raise wrong
        raise IdentityError("its token is signed with a key that is not in the key set")

    def _check(self, token: str, key: jwt.PyJWK) -> dict[str, object]:
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            audience=self._audiences,
            issuer=self._issuer or None,
            leeway=_LEEWAY,
            options={"require": ["exp", "aud", *(["iss"] if self._issuer else [])]},
        )
        return claims
