"""
What everything that writes to the API server needs: how to ask, time and chance, and saying once what goes wrong.

Time and chance are values here, so that whoever writes can be tried out in a time of its own. Nothing here makes a
request. Invariant: what goes wrong again and again in the same way is logged once, and once more when it is mended.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xds.kubernetes.connection import ApiError

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, INVALID = 401, 403, 404, 409, 422

_log = structlog.get_logger(__name__)


class Asking(Protocol):
    """Whoever takes requests for the API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 10.0,  # noqa: ASYNC109  # of one request, part of what is asked for
    ) -> dict[str, object]:
        """Ask once and return the decoded answer; `timeout` is in seconds. Raises ApiError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Environs:
    """Time and chance."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds on a clock that nobody sets."""
    wall: Callable[[], float] = time.time
    """Seconds since 1970, only ever written and never compared."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random
    """A number from 0 up to 1."""


def micro_time(seconds: float) -> str:
    """Return a moment as `MicroTime` of the Kubernetes API: RFC 3339 with exactly six digits."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def whole_time(seconds: float) -> str:
    """Return a moment as `Time` of the Kubernetes API: RFC 3339 in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Complaints:
    """What is wrong at the moment with each kind of request."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], tuple[int | None, str]] = {}

    def note(self, error: ApiError, verb: str, resource: str, namespace: str) -> None:
        """Log that `verb` on `resource` in `namespace` failed, unless that is known already."""
        place = (verb, resource, namespace)
        what = (error.status, error.reason)
        if self._known.get(place) == what:
            return
        self._known[place] = what
        log = _log.bind(verb=verb, resource=resource, namespace=namespace, status=error.status, reason=error.reason)
        if error.status == FORBIDDEN:
            role = f"a Role of the namespace {namespace}"
            hint = f"allow `{verb}` of {resource} in {role} and bind it to this service account"
            log.error("the API server forbids this", hint=hint, what=error.message)
        elif error.status == UNAUTHORIZED:
            log.error("the API server does not accept the credentials", hint="renew them", what=error.message)
        else:
            log.warning("the API server did not take this; it is tried again", what=error.message)

    def settle(self, verb: str, resource: str, namespace: str) -> None:
        """Log that it works again, if it did not."""
        if self._known.pop((verb, resource, namespace), None) is not None:
            _log.info("the API server takes this again", verb=verb, resource=resource, namespace=namespace)
