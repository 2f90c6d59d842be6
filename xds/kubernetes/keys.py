"""
The keys that the API server signs tokens of service accounts with, fetched while the server runs.

It tells its issuer at `/.well-known/openid-configuration` and the public keys at `/openid/v1/jwks` (Kubernetes,
"Service account issuer discovery"); every service account may read both. A key can be exchanged at any time, so that
whoever meets a token of an unknown key asks at once. Nothing here checks a token.

Invariant: an API server that is away, or answers anything else, leaves the last keys in force.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import structlog

from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from xds.kubernetes.connection import ApiServer

CONFIGURATION = "/.well-known/openid-configuration"
KEY_SET = "/openid/v1/jwks"

_ACCEPT = "application/jwk-set+json, application/json"
"""The API server offers its keys as nothing but the first, and refuses who asks for JSON only."""
_TIMEOUT = 5.0
_INTERVAL = 3600.0
_PAUSE = 10.0
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0

_log = structlog.stdlib.get_logger(__name__)


class ClusterKeys:
    """
    The newest keys of one API server. Create it inside a running loop.

    Durations are seconds: `interval` is from one look to the next, `pause` the least between two that are asked for.
    """

    def __init__(self, api: ApiServer, *, interval: float = _INTERVAL, pause: float = _PAUSE) -> None:
        self._api = api
        self._interval = interval
        self._pause = pause
        self.known = asyncio.Event()
        """Set once there are keys."""
        self._keys: tuple[str, str] | None = None
        self._problem: str | None = None
        self._fetching = asyncio.Lock()
        self._rested = 0.0

    @property
    def keys(self) -> tuple[str, str] | None:
        """The key set (RFC 7517, section 5) and the issuer; None: none were told yet."""
        return self._keys

    @property
    def problem(self) -> str | None:
        """Why the last look failed; None: it did not."""
        return self._problem

    async def run(self) -> None:
        """Look at the start and now and then, until cancelled; more often while the API server does not answer."""
        retry = _FIRST_RETRY
        while True:
            async with self._fetching:
                await self._fetch()
            retry = _FIRST_RETRY if self._problem is None else min(2 * retry, _LAST_RETRY)
            await asyncio.sleep(self._interval if self._problem is None else min(retry, self._interval))

    async def renew(self) -> None:
        """Look now, unless somebody did a moment ago; whoever comes while somebody looks waits for that."""
        async with self._fetching:
            if asyncio.get_running_loop().time() >= self._rested:
                await self._fetch()

    async def _fetch(self) -> None:
        try:
            told = await self._api.request("GET", CONFIGURATION, timeout=_TIMEOUT)
            key_set = await self._api.request("GET", KEY_SET, timeout=_TIMEOUT, accept=_ACCEPT)
        except ApiError as error:
            self._note(error.message)
            return
        finally:
            # From its end on: those who waited for one that took long must not each begin another.
            self._rested = asyncio.get_running_loop().time() + self._pause
        match told, key_set:
            case {"issuer": str(issuer)}, {"keys": [_, *_]} if issuer:
                self._keys = json.dumps(key_set), issuer
                self.known.set()
                self._note(None)
            case _:
                self._note("the API server tells of no issuer, or of no keys")

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _log.warning("the keys of the cluster's tokens can't be read; those before stay", reason=problem)
        self._problem = problem
