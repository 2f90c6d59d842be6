"""
A directory of policy documents, or a single file, watched.

Every `*.yaml` and `*.yml` directly inside is a document; hidden names are ignored, symbolic links are followed,
so a mounted ConfigMap works (its `..data` link is swapped as a whole). The kernel's events only wake the
reader; a slow re-scan finds what they miss: links to files elsewhere, network file systems, a directory
that was removed and made again. One unreadable file is a diagnostic of its own and blocks no other.
Nothing here parses; OSError and UnicodeDecodeError do not leave this module.
"""

from __future__ import annotations

import stat
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError
from xds.judge import UNREADABLE, SourceRead
from xds.policy.parse import Document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from watchfiles.main import FileChange

SUFFIXES = frozenset({".yaml", ".yml"})

MAX_BYTES = 16 * 1024 * 1024
"""The largest document that is read: beyond it, it is hardly a policy, and memory is shared."""

_STEP = 20
"""Milliseconds without a further event before the kernel's events are handed on."""
_LONGEST_STEP = 100
_RETRY = 1.0
"""Seconds between looks for a directory that is gone."""
_ATTEMPTS = 5
"""Readings of a directory that changes meanwhile; the next event brings another anyway."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What changes when a file does."""

    name: str
    inode: int
    size: int
    modified: int


class DirectorySource:
    """The documents below `path`; their sources are named as `path` was given."""

    def __init__(self, path: Path, *, rescan: float = 10.0) -> None:
        """`rescan` is the longest time in seconds until a change is noticed that no event told of."""
        self._path = path
        self._rescan = rescan

    async def read(self) -> SourceRead:
        """
        Read every document.

        Raises SourceError if `path` is missing or can't be listed.
        """
        import asyncio  # noqa: PLC0415  # who only reads, once, needs none of it

        return await asyncio.to_thread(read_documents, self._path)

    async def changes(self) -> AsyncIterator[None]:
        """Yield once when watching has begun, then on every event and every re-scan."""
        import asyncio  # noqa: PLC0415  # who only reads, once, needs none of it

        while True:
            # What follows up to the first wait happens before the receiver of this item can look at the
            # directory, so no change falls between its reading and our watching.
            yield
            target = _find_target(self._path)
            if target is None:
                await asyncio.sleep(_RETRY)
                continue
            try:
                async with aclosing(_watch(target.directory, self._rescan)) as events:
                    async for changes in events:
                        yield
                        if target.is_hit(changes) or _find_target(self._path) != target:
                            break
            except _unwatchable() as error:
                # Typically fs.inotify.max_user_instances. The re-scan alone still finds every change.
                import structlog  # noqa: PLC0415  # who only reads a directory needs nothing that watching does

                log = structlog.get_logger(__name__)
                log.warning("no file events, re-scanning only", path=str(self._path), reason=str(error))
                await asyncio.sleep(self._rescan)


@dataclass(frozen=True, slots=True)
class _Target:
    """A directory to watch; the numbers tell it from another of the same name, unless they are used again."""

    directory: Path
    device: int
    inode: int

    def is_hit(self, changes: set[FileChange]) -> bool:
        """Whether the directory itself changed, typically was removed, which ends the kernel's watch on it."""
        own = self.directory.absolute()
        return any(Path(changed).absolute() == own for _, changed in changes)


def _find_target(path: Path) -> _Target | None:
    """Return the directory that `path` is, or is in; None: there is nothing now."""
    try:
        directory = path if stat.S_ISDIR(path.stat().st_mode) else path.parent
        found = directory.stat()
    except OSError:
        return None
    return _Target(directory, found.st_dev, found.st_ino)


def _unwatchable() -> tuple[type[Exception], ...]:
    """Return what watching may fail with."""
    from watchfiles._rust_notify import WatchfilesRustInternalError  # noqa: PLC0415  # as above

    return (OSError, WatchfilesRustInternalError)


def _watch(directory: Path, rescan: float) -> AsyncGenerator[set[FileChange], None]:
    from watchfiles import awatch  # noqa: PLC0415  # as above

    return awatch(
        directory,
        watch_filter=None,
        debounce=_LONGEST_STEP,
        step=_STEP,
        rust_timeout=int(rescan * 1000),
        yield_on_timeout=True,
        recursive=False,
        ignore_permission_denied=True,
    )


def read_documents(path: Path) -> SourceRead:
    """
    Read the documents of a directory, or the one file that `path` is.

    A directory that changes meanwhile is read again, so that documents belong together: a ConfigMap is
    swapped as a whole. Raises SourceError as `DirectorySource.read`.
    """
    before = _stamps(path)
    read = _read_files(_files(path))
    for _ in range(_ATTEMPTS):
        after = _stamps(path)
        if after == before:
            break
        before, read = after, _read_files(_files(path))
    return read


def _files(path: Path) -> list[Path]:
    """List the documents. Raises SourceError."""
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        return sorted(item for item in path.iterdir() if is_document(item))
    except FileNotFoundError as error:
        raise refuse_missing(path) from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}; check its owner and mode: ls -ld {path}") from error


def refuse_missing(path: Path) -> SourceError:
    """Return what to say of a path that does not exist; one that looks like a file's is no directory to make."""
    remedy = (
        f"check the path: ls {path.parent}"
        if path.suffix
        else (f"give a directory of *.yaml files, or make it: mkdir {path}")
    )
    return SourceError(f"{path} does not exist; {remedy}")


def is_document(path: Path) -> bool:
    """Whether `path` is meant as a policy document: visible, and YAML by its name."""
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def _stamps(path: Path) -> frozenset[_Stamp]:
    return frozenset(stamp for file in _files(path) if (stamp := _stamp(file)) is not None)


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return _Stamp(file.name, found.st_ino, found.st_size, found.st_mtime_ns)


def _read_files(files: Iterable[Path]) -> SourceRead:
    outcomes = [outcome for file in files if (outcome := _read_file(file)) is not None]
    return SourceRead(
        documents=tuple(outcome for outcome in outcomes if isinstance(outcome, Document)),
        unreadable=tuple(outcome for outcome in outcomes if isinstance(outcome, Diagnostic)),
    )


def _read_file(file: Path) -> Document | Diagnostic | None:
    """Read one document; None: it was removed meanwhile."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would block for ever
            return _unreadable(file, "it is not a regular file", "remove it, or rename it")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        # A link that points nowhere is not a removal: its document is unknown, not gone.
        if isinstance(error, FileNotFoundError) and not file.is_symlink():
            return None
        return _unreadable(file, f"the file can't be read: {error.strerror}", f"try: ls -lL {file}")
    if len(content) > MAX_BYTES:
        return _unreadable(file, f"the file is larger than {MAX_BYTES >> 20} MiB", "split it into several")
    try:
        return Document(source=str(file), text=content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _unreadable(file, "the file is not UTF-8 text", "save it as UTF-8", line)


def _unreadable(file: Path, message: str, hint: str, line: int | None = None) -> Diagnostic:
    return Diagnostic(UNREADABLE, Where(str(file), line=line), message, hint)
