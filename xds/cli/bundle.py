"""
A support bundle: members that are collected one after the other, what could not be had, and the archive of both.

Nothing here collects. Invariants: equal members, problems and moment give equal bytes; the file can be read by its
owner only; and whatever the scrubber knows is in no member.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import string
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.cli.scrub import Scrubber, redact_document
from xds.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = "egress-xds"
"""The directory that everything in the archive is in."""
MANIFEST, PROBLEMS = "MANIFEST.json", "problems.txt"
_MODE = 0o600
_PLAIN = frozenset(f"{string.ascii_letters}{string.digits}-_.")
_LONGEST_NAME = 100
"""Characters: what the oldest form of tar has place for, and far less than file systems have."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A part that could not be had, and why."""

    part: str
    text: str


@dataclass(slots=True)
class Bundle:
    """What was collected so far."""

    taken: float
    """When, in seconds since the epoch."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    problems: list[Problem] = field(default_factory=list)
    _members: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, content: str | bytes) -> None:
        """Add a member; a name that is taken is a bug."""
        assert name not in self._members, name
        self._members[name] = _encode(content) if isinstance(content, str) else content

    def add_json(self, name: str, value: object) -> None:
        """Add a member in JSON."""
        self.add(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def miss(self, part: str, reason: object) -> None:
        """Note that a part could not be had; the reason may quote what somebody else said."""
        self.problems.append(Problem(redact_document(part), redact_document(str(reason))))

    def members(self) -> dict[str, bytes]:
        """Return what goes into the archive by its name there, without secrets, the manifest last."""
        scrub = self.scrubber.scrub
        found = {scrub(_encode(name)).decode(): scrub(content) for name, content in sorted(self._members.items())}
        problems = "".join(f"{item.part}: {item.text}\n" for item in self.problems)
        found[PROBLEMS] = scrub(_encode(problems or "nothing is missing\n"))
        manifest = {
            "format": 1,
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.taken)),
            "members": [
                {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in found.items()
            ],
            "problems": [{"part": item.part, "problem": item.text} for item in self.problems],
        }
        found[MANIFEST] = scrub(_encode(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"))
        return found

    def archive(self) -> bytes:
        """Return a gzipped tar archive."""
        moment = int(self.taken)
        packed = io.BytesIO()
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=moment) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in sorted(self.members().items()):
                member = tarfile.TarInfo(f"{ROOT}/{name}")
                member.size, member.mtime, member.mode = len(content), moment, _MODE
                archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()


def _encode(text: str) -> bytes:
    """Encode any text: JSON and names of files may have halves of surrogate pairs in them."""
    return text.encode(errors="backslashreplace")


def check_target(path: Path, *, is_forced: bool) -> None:
    """Raise SettingsError if `path` can't be written, before anything is collected for it."""
    if path.is_dir():
        raise SettingsError(f"--output {path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise SettingsError(f"--output {path}: there is no directory {path.parent}; make it: mkdir -p {path.parent}")
    if path.exists() and not is_forced:
        raise SettingsError(f"--output {path} exists; name another file, or replace it with --force")


def write_archive(path: Path, content: bytes, *, is_forced: bool) -> None:
    """
    Write a file that only its owner can read, whole or not at all.

    Raises SettingsError if it can't be written, or if there is one that may not be replaced.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            if is_forced:
                draft.replace(path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError as error:
        raise SettingsError(f"--output {path} exists; name another file, or replace it with --force") from error
    except OSError as error:
        raise SettingsError(f"--output {path} can't be written: {error.strerror}; name another place") from error


def file_name(text: str) -> str:
    """Return `text` as part of a member's name, in characters that every system takes."""
    return "".join(character if character in _PLAIN else "_" for character in text) or "_"


def numbered(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each name, and how its member is called: numbers keep apart what reads alike."""
    for number, name in enumerate(names, start=1):
        yield name, f"{number:03}-{file_name(name)}"[:_LONGEST_NAME]
