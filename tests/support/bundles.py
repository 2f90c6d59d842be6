"""Support bundles in tests: what is in one, and whether any text can be found in it, however it was written."""

from __future__ import annotations

import re
import tarfile
from base64 import b64decode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{6,}")
_USUAL = bytes.maketrans(b"-_", b"+/")


def read_bundle(path: Path) -> dict[str, bytes]:
    """Return the members by name, without the directory that all are in."""
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name.removeprefix("egress-xds/")] = stream.read()
    return found


def leaks(members: dict[str, bytes], canary: str) -> list[str]:
    """Return the members in which `canary` can be found: as it is, or in what base64 decodes to."""
    wanted = canary.encode()
    return [name for name, content in members.items() if any(wanted in form for form in _forms(name.encode(), content))]


def _forms(name: bytes, content: bytes) -> Iterator[bytes]:
    yield name
    yield content
    for match in _ENCODED.finditer(content):
        for skipped in range(4):
            text = match[0][skipped:]
            whole = text[: len(text) // 4 * 4]
            yield b64decode(whole.translate(_USUAL))
