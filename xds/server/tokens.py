"""
Bearer tokens (RFC 6750): JSON Web Tokens that are checked against a key set (RFC 7519, RFC 7517).

Only public keys are keys here: with a symmetric one whoever can check a token could make one. The file is read by
others and handed in. Tokens that somebody else has checked are read here too, so that one rule holds for both.
Invariants: no part of a token is in any message, and a broken key set changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import jwt

from xds.server.identity import Caller, IdentityError, parse_claims

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LEEWAY = 30
"""Seconds by which the clocks of issuer and server may differ."""

_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
"""What may be signed with a kind or curve of key (RFC 7518, section 3.1; RFC 8037)."""
_PRIVATE = frozenset({"d", "k", "p", "q"})
_SMALLEST_RSA = 2048
_BROKEN = (ValueError, TypeError, OverflowError, RecursionError, NotImplementedError, AttributeError)
"""What libraries raise at texts that nobody meant."""

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


class UnknownKeyError(IdentityError):
    """The key that signed a token is not in the key set; a newer set may hold it."""


def identify(claims: Mapping[str, object]) -> Caller:
    """Return whom the claims of a token are about that was found to be good. Raises IdentityError."""
    caller = parse_claims(claims)
    assert caller.expires is not None, "every token ends"
    return replace(caller, expires=caller.expires + _LEEWAY)


class TokenVerifier:
    """Checks tokens against the newest key set; until there is one, every token is refused."""

    def __init__(self, audiences: Iterable[str], issuer: str = "") -> None:
        """`audiences`: one of these a token must be for; `issuer`: who must have made it, empty for anybody."""
        self._audiences = tuple(audiences)
        self._issuer = issuer
        self._keys: tuple[jwt.PyJWK, ...] = ()

    def replace_issuer(self, issuer: str) -> None:
        """Believe only tokens that say that they are of `issuer` from now on."""
        self._issuer = issuer

    def replace_keys(self, text: str) -> int:
        """
        Take the keys of a JWKS document from now on and return how many of its members are left out.

        Raises KeySetError, and keeps the keys that there were.
        """
        members = _members(text)
        keys = tuple(key for member in members if (key := _read_key(member)) is not None)
        if not keys:
            raise KeySetError("it is not a JSON Web Key Set with a usable key")
        self._keys = keys
        return len(members) - len(keys)

    def verify(self, token: str) -> Caller:
        """Return whom `token` is about. Raises IdentityError, and UnknownKeyError if a newer key set might help."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            candidates = [key for key in self._keys if kid is None or key.key_id == kid]
            claims = self._decode(token, candidates)
        except IdentityError:
            raise
        except (jwt.PyJWTError, *_BROKEN) as error:
            raise IdentityError(
                next((reason for kind, reason in _REASONS if isinstance(error, kind)), "its token is malformed")
            ) from None
        return identify(claims)

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
        raise UnknownKeyError("its token is signed with a key that is not in the key set")

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


def _members(text: str) -> list[dict[str, object]]:
    """Return the members of a key set. Raises KeySetError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KeySetError("it is not JSON") from error
    match document:
        case {"keys": list(members)} if all(isinstance(member, dict) for member in members):
            pass
        case _:
            raise KeySetError("it is not a JSON Web Key Set")
    if any(member.get("kty") == "oct" for member in members):
        raise KeySetError("it holds a symmetric key; only public keys may be in it")
    if any(not _PRIVATE.isdisjoint(member) for member in members):
        raise KeySetError("it holds a private key; only public keys may be in it, and that one is not secret any more")
    return members


def _read_key(member: dict[str, object]) -> jwt.PyJWK | None:
    """Return the key of a member; None if nothing could be signed with it that would be believed."""
    kind = member.get("crv") or member.get("kty")
    allowed = _ALGORITHMS.get(kind, ()) if isinstance(kind, str) else ()
    algorithm = member.get("alg", next(iter(allowed), ""))
    if algorithm not in allowed or member.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(member, str(algorithm))
    except (jwt.PyJWTError, *_BROKEN):
        return None
    return None if kind == "RSA" and key.key.key_size < _SMALLEST_RSA else key
