"""What a directory of policies holds, and that every way of changing it is noticed."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from xds.errors import SourceError
from xds.sources import directory
from xds.sources.directory import DirectorySource, read_documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE = 10.0
"""Seconds until an event counts as missed."""
NEVER = 3600.0


def names(path: Path) -> list[str]:
    return [Path(document.source).name for document in read_documents(path).documents]


def test_visible_yaml_files_are_documents_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", ".hidden.yaml", "notes.txt", "a.yaml~", "c.YAML"):
        (tmp_path / name).write_text("x")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text("x")

    assert names(tmp_path) == ["a.yaml", "b.yml"]


def test_a_single_file_is_one_document_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_text("text", encoding="utf-8")

    (document,) = read_documents(file).documents

    assert (document.source, document.text, document.namespace) == (str(file), "text", None)


def test_an_empty_directory_is_an_empty_world(tmp_path: Path) -> None:
    assert read_documents(tmp_path).documents == ()


def test_a_missing_directory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"does not exist; .*mkdir"):
        read_documents(tmp_path / "none")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfkey: v\n")

    assert read_documents(tmp_path).documents[0].text == "key: v\n"


def make_latin1(path: Path) -> None:
    path.write_bytes(b"a: 1\nb: caf\xe9\n")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere.yaml")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(directory.MAX_BYTES + 1)


@pytest.mark.parametrize("make", [make_latin1, make_directory, make_pipe, make_dangling, make_loop, make_large])
def test_an_unreadable_document_is_one_finding_and_blocks_no_other(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "good.yaml").write_text("x")
    bad = tmp_path / "bad.yaml"
    make(bad)

    read = read_documents(tmp_path)

    assert [document.source for document in read.documents] == [str(tmp_path / "good.yaml")]
    assert [finding.where.source for finding in read.unreadable] == [str(bad)]
    assert read.unreadable[0].hint
    assert read.unreadable[0].is_error


def test_the_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    make_latin1(tmp_path / "a.yaml")

    assert read_documents(tmp_path).unreadable[0].where.line == 2


def test_a_directory_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise documents that never existed together would be compiled together."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("old")
    genuine = directory._read_file
    changed: list[Path] = []

    def read_and_change(file: Path) -> object:
        found = genuine(file)
        if not changed:
            changed.append(file)
            for name in ("a.yaml", "b.yaml"):
                (tmp_path / name).write_text("newer")
        return found

    monkeypatch.setattr(directory, "_read_file", read_and_change)

    assert [document.text for document in read_documents(tmp_path).documents] == ["newer", "newer"]


# ------------------------------------------------------------------------------------------ watching


class Watcher:
    """Listens to a source; `expect` waits until what it wants to see has been announced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: asyncio.Queue[None] = asyncio.Queue()

    async def listen(self, source: DirectorySource) -> None:
        async for _ in source.changes():
            self._events.put_nowait(None)

    async def began(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._events.get()

    async def expect(self, **texts: str) -> None:
        """Wait for events until a reading that follows one holds exactly these documents."""
        async with asyncio.timeout(PATIENCE):
            while True:
                await self._events.get()
                with suppress(SourceError):
                    read = read_documents(self._path)
                    if {Path(item.source).stem: item.text for item in read.documents} == texts:
                        return


@asynccontextmanager
async def watching(path: Path, rescan: float = NEVER) -> AsyncIterator[Watcher]:
    watcher = Watcher(path)
    task = asyncio.create_task(watcher.listen(DirectorySource(path, rescan=rescan)))
    try:
        await watcher.began()
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "a.yaml").write_text("1")
    return path


async def test_a_file_written_in_place_is_noticed(policies: Path) -> None:
    async with watching(policies) as watcher:
        (policies / "a.yaml").write_text("2")
        await watcher.expect(a="2")


async def test_a_file_replaced_by_renaming_is_noticed(policies: Path) -> None:
    async with watching(policies) as watcher:
        (policies / ".a.yaml.swp").write_text("2")
        (policies / ".a.yaml.swp").replace(policies / "a.yaml")
        await watcher.expect(a="2")


async def test_new_and_removed_files_are_noticed(policies: Path) -> None:
    async with watching(policies) as watcher:
        (policies / "b.yaml").write_text("2")
        await watcher.expect(a="1", b="2")
        (policies / "a.yaml").unlink()
        await watcher.expect(b="2")


def mount(path: Path, version: str, **texts: str) -> None:
    """Write a ConfigMap's new content as kubelet does: a new directory, then `..data` swapped in one step."""
    content = path / f"..{version}"
    content.mkdir()
    for name, text in texts.items():
        (content / f"{name}.yaml").write_text(text)
    (path / "..data_tmp").symlink_to(content.name)
    (path / "..data_tmp").replace(path / "..data")
    for name in texts:
        if not (path / f"{name}.yaml").is_symlink():
            (path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    for old in path.glob("..[0-9]*"):
        if old != content:
            shutil.rmtree(old)


async def test_a_config_map_that_is_swapped_is_noticed_time_and_again(tmp_path: Path) -> None:
    mount(tmp_path, "1", a="1", b="1")
    async with watching(tmp_path) as watcher:
        mount(tmp_path, "2", a="2", b="2")
        await watcher.expect(a="2", b="2")
        mount(tmp_path, "3", a="3", b="3")
        await watcher.expect(a="3", b="3")


def remake(path: Path) -> None:
    """Remove a directory and make another, which may well get the same inode."""
    shutil.rmtree(path)
    path.mkdir()


async def test_a_directory_removed_and_made_again_is_watched_again(policies: Path) -> None:
    async with watching(policies) as watcher:
        remake(policies)
        (policies / "a.yaml").write_text("2")
        await watcher.expect(a="2")
        (policies / "a.yaml").write_text("3")
        await watcher.expect(a="3")


async def test_a_directory_that_is_missing_for_a_while_is_watched_when_it_is_back(
    policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_RETRY", 0.05)
    async with watching(policies) as watcher:
        shutil.move(policies, policies.with_name("away"))
        await watcher.began()
        shutil.move(policies.with_name("away"), policies)
        (policies / "a.yaml").write_text("2")
        await watcher.expect(a="2")
        (policies / "a.yaml").write_text("3")
        await watcher.expect(a="3")


async def test_a_directory_is_watched_by_a_relative_path_too(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(policies.parent)
    async with watching(Path("policies")) as watcher:
        remake(policies)
        (policies / "a.yaml").write_text("2")
        await watcher.expect(a="2")
        (policies / "a.yaml").write_text("3")
        await watcher.expect(a="3")


def repoint(link: Path, target: str) -> None:
    """Make a link point elsewhere in one step."""
    following = link.with_name("following")
    following.symlink_to(target)
    following.replace(link)


async def test_a_link_to_a_directory_is_watched_and_so_is_where_it_points_next(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(name)
    link = tmp_path / "link"
    link.symlink_to("one")
    async with watching(link, rescan=0.5) as watcher:
        (tmp_path / "one" / "a.yaml").write_text("1")
        await watcher.expect(a="1")
        repoint(link, "two")
        await watcher.expect(a="two")
        (tmp_path / "two" / "a.yaml").write_text("2")
        await watcher.expect(a="2")


async def test_a_single_file_is_watched(policies: Path) -> None:
    async with watching(policies / "a.yaml") as watcher:
        (policies / "new").write_text("2")
        (policies / "new").replace(policies / "a.yaml")
        await watcher.expect(a="2")
        (policies / "a.yaml").write_text("3")
        await watcher.expect(a="3")


async def test_what_no_event_tells_is_found_by_the_rescan(policies: Path, tmp_path: Path) -> None:
    """The kernel reports on the directory, not on where a link in it points to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("1")
    (policies / "a.yaml").unlink()
    (policies / "a.yaml").symlink_to(elsewhere)
    async with watching(policies, rescan=0.2) as watcher:
        elsewhere.write_text("2")
        await watcher.expect(a="2")


async def test_without_events_the_rescan_alone_finds_changes(policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node whose users have used up fs.inotify.max_user_instances."""

    def refuse(*_: object) -> None:
        raise OSError("Too many open files (os error 24)")

    monkeypatch.setattr(directory, "_watch", refuse)
    with capture_logs() as logs:
        async with watching(policies, rescan=0.05) as watcher:
            (policies / "a.yaml").write_text("2")
            await watcher.expect(a="2")

    assert "no file events, re-scanning only" in {entry["event"] for entry in logs}
