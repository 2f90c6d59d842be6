"""
The files that policies name: read when somebody asks, and looked at several times a second for changes.

Looking beats the kernel's events here: the files are few, a look is one `stat`, and it finds what events of one
directory miss, such as a link to elsewhere, a mounted Secret whose `..data` link is swapped, a directory that comes
later or a network file system. Files that belong together are read together, as far as that can be known.
Nothing here judges what a file holds. Invariants: no content leaves this module but as `FileContent`, and OSError
and UnicodeDecodeError do not leave it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xds.facts import FileContent, FileProblem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from xds.facts import File

MAX_BYTES = 1 << 20
"""The largest file that is read; bundles of certificate authorities take 200 KiB."""

LOOK_INTERVAL = 0.25
"""Seconds from one look for changes to the next."""

_ATTEMPTS = 5
"""Readings of files that change meanwhile; the next look brings another anyway."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What changes when a file does, or when another takes its place."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


_Stamps = dict[str, _Stamp | None]


class WatchedFiles:
    """The files that were asked for last, kept an eye on."""

    def __init__(self, *, look_interval: float = LOOK_INTERVAL) -> None:
        """`look_interval` is in seconds."""
        self._look_interval = look_interval
        self._stamps: _Stamps = {}

    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]:
        """Return what each of `paths` holds, and watch exactly these from now on; never raises."""
        if not paths:
            self._stamps = {}
            return {}
        import asyncio  # noqa: PLC0415  # who only reads, once, needs none of it

        self._stamps, files = await asyncio.to_thread(_read_together, sorted(paths))
        return files

    async def changes(self) -> AsyncIterator[None]:
        """Yield whenever a file is no longer what `collect` returned; never raises."""
        import asyncio  # noqa: PLC0415  # who only reads, once, needs none of it

        while True:
            await asyncio.sleep(self._look_interval)
            before = self._stamps
            now = await asyncio.to_thread(_stamp_all, before) if before else before
            # Whoever collected meanwhile knows better; and each change is told once.
            if now != before and self._stamps is before:
                self._stamps = now
                yield


def read_files(paths: Iterable[str]) -> Mapping[str, File]:
    """Return what each of `paths` holds."""
    return _read_together(sorted(set(paths)))[1]


def _read_together(paths: Iterable[str]) -> tuple[_Stamps, Mapping[str, File]]:
    """Read until nothing changed meanwhile: a certificate and its key are often swapped as one."""
    before = _stamp_all(paths)
    files = {path: _read(path) for path in before}
    for _ in range(_ATTEMPTS):
        after = _stamp_all(before)
        if after == before:
            break
        before, files = after, {path: _read(path) for path in after}
    return before, files


def _stamp_all(paths: Iterable[str]) -> _Stamps:
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> _Stamp | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: str) -> File:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would block for ever
            return FileProblem("it is not a regular file", "name a file")
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return FileProblem("it does not exist", "put it there, or correct the path; it is read where the server runs")
    except OSError as error:
        reason = error.strerror or "unknown reason"
        return FileProblem(f"it can't be read: {reason}", "let the user that runs the server read it")
    if len(content) > MAX_BYTES:
        return FileProblem(f"it is larger than {MAX_BYTES >> 20} MiB", "it holds more than is wanted; correct the path")
    try:
        return FileContent(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return FileProblem("it is not UTF-8 text", "save it as text; certificates and keys are wanted in PEM")
