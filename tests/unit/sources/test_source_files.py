"""The files that policies name: what each is read as, and that every way of changing one is noticed at once."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xds.facts import FileContent, FileProblem
from xds.sources.files import MAX_BYTES, WatchedFiles, read_files

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
"""Seconds until a change counts as missed."""
QUICK = 0.01


def problem_of(path: Path) -> str:
    found = read_files([str(path)])[str(path)]
    assert isinstance(found, FileProblem)
    assert found.hint
    return found.message


def test_a_file_is_its_text_without_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "login").write_bytes(b"\xef\xbb\xbfuser:password\n")
    path = str(tmp_path / "login")

    assert read_files([path]) == {path: FileContent("user:password\n")}


def test_what_a_file_holds_does_not_show() -> None:
    assert "secret" not in repr(FileContent("secret"))
    assert "secret" not in str({"path": FileContent("secret")})


def test_what_is_no_file_of_text_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x30\x82\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")

    assert "does not exist" in problem_of(tmp_path / "missing")
    assert "does not exist" in problem_of(tmp_path / "missing" / "below")
    assert "not a regular file" in problem_of(tmp_path)
    assert "not a regular file" in problem_of(tmp_path / "pipe")
    assert "not UTF-8" in problem_of(tmp_path / "binary")
    assert "1 MiB" in problem_of(tmp_path / "large")


def test_a_file_that_may_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file may be read, so the refusal is the kernel's in words only."""
    (tmp_path / "login").write_text("x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)

    assert "Permission denied" in problem_of(tmp_path / "login")


def replace(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def swap(directory: Path, text: str) -> None:
    """Do as the kubelet does with a mounted Secret: a new directory, and `..data` swapped to it."""
    fresh = directory / f"..{text}"
    fresh.mkdir()
    (fresh / "login").write_text(text)
    (directory / "..tmp").symlink_to(fresh.name)
    (directory / "..tmp").replace(directory / "..data")


def mounted(directory: Path) -> Path:
    swap(directory, "one")
    (directory / "login").symlink_to("..data/login")
    return directory / "login"


def plain(directory: Path) -> Path:
    (directory / "login").write_text("one")
    return directory / "login"


def linked(directory: Path) -> Path:
    (directory / "elsewhere").mkdir()
    (directory / "elsewhere" / "real").write_text("one")
    (directory / "login").symlink_to(directory / "elsewhere" / "real")
    return directory / "login"


@pytest.mark.parametrize(
    ("prepare", "change"),
    [
        pytest.param(plain, lambda path: replace(path, "two"), id="renamed over"),
        pytest.param(plain, lambda path: path.write_text("two"), id="written in place with the same size"),
        pytest.param(plain, lambda path: path.unlink(), id="removed"),
        pytest.param(mounted, lambda path: swap(path.parent, "two"), id="swapped like a mounted Secret"),
        pytest.param(
            linked, lambda path: replace(path.parent / "elsewhere" / "real", "two"), id="changed behind a link"
        ),
        pytest.param(lambda directory: directory / "late", lambda path: path.write_text("two"), id="made later"),
        pytest.param(
            lambda directory: directory / "late" / "login",
            lambda path: (path.parent.mkdir(), path.write_text("two")),
            id="made later with its directory",
        ),
    ],
)
async def test_a_change_is_told_once_and_read_anew(
    tmp_path: Path, prepare: Callable[[Path], Path], change: Callable[[Path], object]
) -> None:
    path = prepare(tmp_path)
    files = WatchedFiles(look_interval=QUICK)
    before = await files.collect(frozenset({str(path)}))
    changes = files.changes()
    change(path)

    async with asyncio.timeout(PATIENCE):
        await anext(changes)
    after = await files.collect(frozenset({str(path)}))

    assert after != before
    with suppress(TimeoutError):
        async with asyncio.timeout(20 * QUICK):
            await anext(changes)
            pytest.fail("the same change was told twice")


async def test_only_what_was_asked_for_last_is_watched(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    new.write_text("1")
    files = WatchedFiles(look_interval=QUICK)
    await files.collect(frozenset({str(old)}))
    assert await files.collect(frozenset({str(new)})) == {str(new): FileContent("1")}
    changes = files.changes()
    old.write_text("22")

    with suppress(TimeoutError):
        async with asyncio.timeout(20 * QUICK):
            await anext(changes)
            pytest.fail("a file that nobody names was watched")
    assert await files.collect(frozenset()) == {}
