"""
Files that are exchanged whole: whoever reads one sees all of the old or all of the new.

Invariant: what somebody planted in the directory is neither followed nor written to; what has the name is replaced.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_USUAL = 0o666
"""Less what the process's mask takes away (umask(2))."""


def exchange_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Put `content` at `path`, with the permissions `mode`; None leaves them to the mask. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _USUAL)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
