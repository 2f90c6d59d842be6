"""The one way in which the demo's own machinery fails: something did not start, or was not seen in time."""

from __future__ import annotations

from xds.errors import EgressXdsError, clean_lines, redact_logins


class LabError(EgressXdsError):
    """A part of the laboratory could not be set up, ended early, or did not do in time what it had to."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # The last lines of a program's log follow what is wrong with it.
        self.args = (clean_lines(redact_logins(message)),)
