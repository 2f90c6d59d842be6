"""
Which Kubernetes this is: asked of the API server while the server runs, because a cluster is upgraded under it.

It matters to whoever makes pods: containers that start first and stay, native sidecars, are there from 1.29 on
(KEP-753). Nothing here makes a pod. Invariant: an API server that is away leaves what was known before.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import structlog

from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.kubernetes.connection import ApiServer

VERSION = "/version"

_NATIVE_SIDECARS = (1, 29)
_NUMBER = re.compile(r"[0-9]{1,4}")
_TIMEOUT = 5.0
_INTERVAL = 600.0
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0
"""Seconds."""
_DENIED = frozenset({401, 403, 404})

_log = structlog.stdlib.get_logger(__name__)


class ClusterVersion:
    """The version of one API server, as it was told last. Create it inside a running loop."""

    def __init__(self, api: ApiServer, *, interval: float = _INTERVAL) -> None:
        self._api = api
        self._interval = interval
        self._has_native_sidecars: bool | None = None

    @property
    def has_native_sidecars(self) -> bool | None:
        """Whether init containers may stay; None: not known yet."""
        return self._has_native_sidecars

    async def run(self) -> None:
        """Look at the start and now and then, until cancelled; sooner while there is no answer."""
        retry = _FIRST_RETRY
        while True:
            if await self._look():
                retry = _FIRST_RETRY
                await asyncio.sleep(self._interval)
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY)

    async def _look(self) -> bool:
        try:
            told = parse_version(await self._api.request("GET", VERSION, timeout=_TIMEOUT))
        except ApiError as error:
            if error.status not in _DENIED:
                return False
            told = None
        if told is None and self._has_native_sidecars is None:
            # All that are maintained are, and in an older one a pod would not start; it would not go direct.
            _log.warning("the API server does not tell its version; it is taken to be 1.29 or newer")
        if told is not None or self._has_native_sidecars is None:
            self._has_native_sidecars = told is None or told >= _NATIVE_SIDECARS
        return True


_KEYS = ("major", "minor")


def parse_version(told: Mapping[str, object]) -> tuple[int, int] | None:
    """Return major and minor version (`29+` is 29, as some vendors tell it); None: they are not told."""
    major, minor = (_NUMBER.match(text) if isinstance(text := told.get(key), str) else None for key in _KEYS)
    return None if major is None or minor is None else (int(major[0]), int(minor[0]))
