"""
What the walk says where it meets something that it does not know: that it does not know.

Resources may be another server's, so that is no bug. Invariant: nothing in this room guesses.
"""

from __future__ import annotations

from typing import TypeVar

from xds.errors import EgressXdsError

T = TypeVar("T")


class UnknownConfigurationError(EgressXdsError):
    """The resources hold something whose effect is not known here, so that nothing is said about the connection."""

    def __init__(self, what: object) -> None:
        """Take what was met: a message of Envoy, or words."""
        kind = what if isinstance(what, str) else type(what).__name__
        super().__init__(
            f"the configuration has something that is not understood here: {kind}; "
            "what an Envoy makes of it shows in its access log"
        )


def need(value: T | None, what: str) -> T:
    """Return `value`, which a configuration that is understood has."""
    if value is None:
        raise UnknownConfigurationError(what)
    return value


def expect(condition: object, what: str) -> None:
    """Raise UnknownConfigurationError unless `condition` holds."""
    if not condition:
        raise UnknownConfigurationError(what)
