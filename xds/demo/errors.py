"""The one way in which the demo's own machinery fails: something did not start, or was not seen in time."""

from __future__ import annotations

from xds.errors import EgressXdsError


class LabError(EgressXdsError):
    """A part of the laboratory could not be set up, ended early, or did not do in time what it had to."""
