"""A message of known bytes, for tests that care about resources and not about what is in them."""

from __future__ import annotations


class Body:
    """Serialises to `content`."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def __bytes__(self) -> bytes:
        return self.content
