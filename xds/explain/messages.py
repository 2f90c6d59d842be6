"""
Reading Envoy's messages: what is inside an Any, and text with command operators in it.

Nothing here knows what a message is for. Invariant: a parsed message is shared between readers, and none changes it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from envoy_data_plane.google.protobuf import Any

from xds.compile import matcher_messages  # noqa: F401  # registers the matchers that Envoy's own package lacks
from xds.explain.unknown import UnknownConfigurationError, expect, need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from betterproto2 import Message

_OPERATOR = re.compile(r"%(?:%|([A-Z_]+(?:\([^)]*\))?)%)")
_MOST = 4096
"""Messages that are remembered."""

M = TypeVar("M", bound="Message")


class Extension(Protocol):
    """Whatever has a configuration of a type of its own."""

    @property
    def typed_config(self) -> Any | None:
        """The configuration."""
        ...


def unpack(extension: Extension) -> Message:
    """Return the message inside an extension or filter."""
    packed = need(extension.typed_config, "an extension without configuration")
    return _parse(packed.type_url, packed.value)


def unpack_as(packed: Any, kind: type[M]) -> M:
    """Return the message inside `packed`, which must be a `kind`."""
    message = _parse(packed.type_url, packed.value)
    if not isinstance(message, kind):
        raise UnknownConfigurationError(message)
    return message


@lru_cache(maxsize=_MOST)
def _parse(type_url: str, value: bytes) -> Message:
    """Parse what is inside an Any; nobody changes the result, so equal bytes share it."""
    try:
        message = Any(type_url=type_url, value=value).unpack()
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownConfigurationError(type_url) from error
    return need(message, type_url)


@lru_cache(maxsize=64)
def parse_resource(kind: type[M], body: bytes) -> M:
    """Parse a resource that is asked for often."""
    return kind.parse(body)


def expand(text: str, values: Mapping[str, str]) -> str:
    """
    Expand command operators; `%%` is a plain character.

    Raises UnknownConfigurationError for one that is not known, or a lone `%`.
    """
    expect("%" not in _OPERATOR.sub("", text), f"the format {text}")

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return "%"
        expect(found[1] in values, f"the command operator {found[0]}")
        return values[found[1]]

    return _OPERATOR.sub(value, text)
