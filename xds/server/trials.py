"""
The edge of canaries: the tick that ends trials, and the words for how they end.

What is tried on whom is decided by `xds.canary`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

import structlog

from xds.canary import End
from xds.errors import redact_logins
from xds.staging import StagedCache

if TYPE_CHECKING:
    from xds.cache import SnapshotCache
    from xds.canary import Outcome

TICK = 0.5
"""Seconds between two looks at the time of trials."""

_MAX_LOGGED = 500
_MAX_NODES = 5

_log = structlog.stdlib.get_logger(__name__)


async def expire_trials(cache: SnapshotCache) -> None:
    """End trials in time until cancelled; a cache without any needs nothing."""
    while isinstance(cache, StagedCache):
        await asyncio.sleep(TICK)
        cache.expire()


def log_outcome(outcome: Outcome) -> None:
    """Say how a trial ended; a refusal is for people to see to."""
    namespace, name = outcome.key
    log = _log.bind(policy=name, namespace=namespace, version=outcome.version, sidecars=len(outcome.nodes))
    match outcome.end:
        case End.PASSED:
            log.info("canaries run the policy; the others follow")
        case End.TIMED_OUT:
            log.warning("canaries did not answer in time; the others follow", silent=outcome.nodes[:_MAX_NODES])
        case End.REFUSED:
            assert outcome.refusal is not None
            log.error(
                "a canary refused the policy; all sidecars keep the last good version until the policy changes",
                node=outcome.refusal.node,
                type=outcome.refusal.kind.name.lower(),
                text=redact_logins(outcome.refusal.text[:_MAX_LOGGED]),
            )
        case _:
            assert_never(outcome.end)
