"""The pages of the HTTP port: metrics, and the two probes of Kubernetes. What they say is decided elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.admin.http import Page
from xds.admin.metrics import Observed, metrics_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.admin.readiness import Readiness

_UNAVAILABLE = 503


def build_pages(observed: Observed) -> Mapping[str, Callable[[], Page]]:
    """
    Return the pages by path.

    `/healthz` answers as long as the loop turns. `/readyz` is 503 with the reason before the first world is served
    and while the server ends; a problem later on is none of its business, since the last good world stays.
    """
    return {
        "/metrics": metrics_page(observed),
        "/healthz": lambda: Page(b"alive\n"),
        "/readyz": lambda: _ready(observed.readiness, observed.awaited()),
    }


def _ready(readiness: Readiness, awaited: tuple[str, ...]) -> Page:
    if readiness.reason is None:
        return Page(b"ready\n")
    return Page("".join(f"{line}\n" for line in (readiness.reason, *awaited)).encode(), _UNAVAILABLE)
