"""
How patient we are with a proxy: probes, attempts and pauses.

Nothing here dials anything. Invariant: every duration is within its limits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Attempts, HealthCheck, Outlier
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from collections.abc import Collection

    from xds.policy.documents import ProxyShape
    from xds.policy.findings import Findings
    from xds.policy.model import Endpoint
    from xds.policy.yaml_lines import Node

_DURATION = re.compile(r"([0-9]{1,6})(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 300.0
_LONGEST_IDLE = 7 * 24 * 3600.0


def parse_duration(text: str, longest: float = _LONGEST) -> float | Problem:
    """Return a duration such as `500ms`, `5s` or `1m` in seconds; `longest` is in seconds, too."""
    match = _DURATION.fullmatch(text.strip())
    seconds = int(match[1]) * _SECONDS[match[2]] if match is not None else 0.0
    if not 0 < seconds <= longest:
        limit = f"{longest / 60:.0f}m" if longest < _SECONDS["h"] else f"{longest / _SECONDS['h']:.0f}h"
        hint = "write e.g. `500ms`, `5s` or `1m`"
        return Problem("EX109", f"{quote(text)} is not a duration from 1ms to {limit}", hint)
    return seconds


def warn_readable_login(node: Node, findings: Findings) -> None:
    """Warn that a login goes over the network in clear text."""
    message = "the login is sent to an endpoint that is not `https://`, where everybody on the way can read it"
    findings.add("EX314", node, message, "use the proxy's `https://` port if it has one")


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Reads how often a proxy is asked, and when it counts as gone."""

    shape: ProxyShape
    node: Node
    findings: Findings

    def health(self) -> HealthCheck | None:
        """Return how endpoints are probed."""
        shape = self.shape.health
        if shape is None:
            return None
        return HealthCheck(
            interval=self._duration(shape.interval, "health", "interval"),
            timeout=self._duration(shape.timeout, "health", "timeout"),
            unhealthy_after=shape.unhealthy_after,
            healthy_after=shape.healthy_after,
        )

    def outlier(self) -> Outlier | None:
        """Return when an endpoint is left out."""
        shape = self.shape.outlier
        if shape is None:
            return None
        return Outlier(
            failures=shape.failures, ejection_time=self._duration(shape.ejection_time, "outlier", "ejectionTime")
        )

    def attempts(self) -> Attempts:
        """Return how often a tunnel is asked for."""
        shape = self.shape.attempts
        return Attempts(count=shape.count, backoff=self._duration(shape.backoff, "attempts", "backoff"))

    def idle_timeout(self) -> float | None:
        """Return when a silent tunnel is cut."""
        text = self.shape.idle_timeout
        return None if text is None else self._duration(text, "idleTimeout", longest=_LONGEST_IDLE)

    def check(self, health: HealthCheck | None, outlier: Outlier | None, endpoints: Collection[Endpoint]) -> None:
        """Report what contradicts itself."""
        if health is not None and health.timeout > health.interval:
            message = "a probe may take longer than the time to the next one"
            self.findings.add("EX340", at(self.node, "health", "timeout"), message, "make it at most the interval")
        if outlier is not None and len(endpoints) == 1:
            message = "a proxy with one endpoint has none to leave out"
            hint = "remove `outlier`, or give another endpoint"
            self.findings.add("EX341", at(self.node, "outlier"), message, hint)

    def _duration(self, text: str, *path: str, longest: float = _LONGEST) -> float:
        seconds = parse_duration(text, longest)
        if isinstance(seconds, Problem):
            self.findings.add(seconds.code, at(self.node, *path), seconds.message, seconds.hint)
            return _LONGEST
        return seconds
