"""
Tokens that the API server itself judges (authentication.k8s.io/v1, TokenReview).

Unlike a signature, that tells of a token whose pod was deleted or whose account is gone. What was found is remembered
for a few seconds, under a hash of the token; few requests are made at once, and none takes long. Nothing here decides
which node a token is for.

Invariants: who could not be asked has not agreed; no token, nor any part of one, is remembered or in any message.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import TYPE_CHECKING

from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds.kubernetes.connection import ApiServer

    Verdict = Mapping[str, object] | str

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"

_TIMEOUT = 10.0
_AT_ONCE = 32
_REMEMBERED = 5.0
_MAX_REMEMBERED = 16_384
_MAX_TOLD = 200
_MAX_REPEATED = 12

_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_EXTRA = "authentication.kubernetes.io/pod-"


class TokenReviews:
    """
    Has tokens judged.

    One of `audiences` a token must be for. `clock` gives seconds since the epoch. `timeout` is how long one review may
    take, in seconds, the wait for others included; `at_once` how many are made at the same time.
    """

    def __init__(
        self,
        api: ApiServer,
        audiences: Iterable[str],
        *,
        clock: Callable[[], float],
        timeout: float = _TIMEOUT,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._api = api
        self._audiences = list(audiences)
        self._clock = clock
        self._timeout = timeout
        self._turns = asyncio.Semaphore(at_once)
        self._known: dict[bytes, tuple[float, Verdict]] = {}

    async def review(self, token: str) -> Mapping[str, object] | str:
        """
        Return the claims of a good token in the form of the API server's own, or why it is none.

        Raises ConnectionError if the API server does not judge it, or not in time.
        """
        expires = _parse_end(token)
        if expires is None:
            return "its token is no JSON Web Token that ends"
        key = sha256(token.encode()).digest()
        until, verdict = self._known.get(key, (0.0, ""))
        if self._clock() < until:
            return verdict
        verdict = _judge(await self._ask(token), self._audiences, expires, token)
        self._remember(key, min(self._clock() + _REMEMBERED, expires), verdict)
        return verdict

    async def _ask(self, token: str) -> Mapping[str, object]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": self._audiences},
        }
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                answer = await self._api.request("POST", PATH, body=body, timeout=self._timeout)
        except TimeoutError:
            raise ConnectionError("the API server did not review its token in time") from None
        except ApiError as error:
            said = _without(token, error.message)
            raise ConnectionError(f"the API server does not review its token: {said}") from None
        status = answer.get("status")
        if not isinstance(status, dict):
            raise ConnectionError("the API server's review of its token holds no status")
        return status

    def _remember(self, key: bytes, until: float, verdict: Verdict) -> None:
        # The oldest go first: all are remembered for the same time, give or take.
        self._known.pop(key, None)
        while len(self._known) >= _MAX_REMEMBERED or (
            self._known and next(iter(self._known.values()))[0] <= self._clock()
        ):
            del self._known[next(iter(self._known))]
        self._known[key] = until, verdict


def _judge(status: Mapping[str, object], audiences: list[str], expires: float, token: str) -> Verdict:
    """Read the `status` of a TokenReview."""
    if status.get("authenticated") is not True:
        error = status.get("error")
        said = f": {_without(token, error)}" if isinstance(error, str) else ""
        return f"the API server refuses its token{said}"
    # A server that looks at no audience leaves them out: "the client should validate that" (TokenReviewStatus).
    accepted = status.get("audiences")
    if not isinstance(accepted, list) or not any(audience in accepted for audience in audiences):
        return "its token is for another audience"
    match status.get("user"):
        case {"username": str(name), **others} if found := _ACCOUNT.fullmatch(name):
            claim = {"namespace": found[1], "serviceaccount": {"name": found[2]}, **_parse_pod(others.get("extra"))}
            return {"exp": expires, "kubernetes.io": claim}
        case _:
            return "its token is not that of a service account"


def _parse_pod(extra: object) -> dict[str, object]:
    """Return the claim of the pod that a token is bound to; empty for none."""
    found: dict[str, object] = {}
    for name in ("name", "uid"):
        match extra:
            case dict() if f"{_EXTRA}{name}" in extra:
                values = extra[f"{_EXTRA}{name}"]
                # More or fewer than one are handed on as they are, to be refused.
                found[name] = values[0] if isinstance(values, list) and len(values) == 1 else values
            case _:
                pass
    return {"pod": found} if found else {}


def _parse_end(token: str) -> float | None:
    """Return when a token says that it ends, in seconds since the epoch; that is as good as the token is."""
    parts = token.split(".")
    try:
        claims = json.loads(urlsafe_b64decode(f"{parts[1]}==")) if len(parts) == 3 else None  # noqa: PLR2004  # RFC 7519
    except (ValueError, RecursionError):
        return None
    match claims:
        case {"exp": int() | float() as expires} if not isinstance(expires, bool):
            return float(expires)
        case _:
            return None


def _without(token: str, text: str) -> str:
    """Return words about a token, unless they repeat a piece of it."""
    if any(part[:_MAX_REPEATED] in text for part in token.split(".")):
        return "it gives no reason that could be told"
    return text[:_MAX_TOLD]
