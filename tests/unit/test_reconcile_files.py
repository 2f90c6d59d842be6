"""Files that policies name, on their way into force: whose snapshot changes, and what a bad one costs."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.certificates import DAY, Authority
from tests.support.virtual_time import VirtualTimeLoop, run_virtually
from tests.unit.reconcile_bench import MAXIMUM, QUIET, FakeFacts, FakeSource, judge_all, policy, read, state_of
from xds.facts import Facts, File, FileContent, FileProblem
from xds.judge import Judge
from xds.reconcile import Debounce, Inputs, Reconciler
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from xds.cache import World
    from xds.judge import Judgement
    from xds.snapshot import Snapshot

CANARY = "canary-password"


def with_login(name: str, file: str) -> str:
    """Write a policy whose proxy demands the login in `file`."""
    return policy(name).replace("3128'}]}", f"3128'}}], auth: {{basic: {{file: {file}}}}}}}")


def with_authority(name: str, pem: str) -> str:
    """Write a policy whose proxy is trusted because of `pem`."""
    tls = f"tls: {{ca: {b64encode(pem.encode()).decode()}}}"
    return policy(name, host="proxy.example").replace("http:", "https:").replace("3128'}]}", f"3128'}}], {tls}}}")


def facts(now: float | None = None, **texts: str | None) -> Facts:
    """Return facts with these files in `/`; None is one that can't be read."""
    known = {
        f"/{name}": FileProblem("it does not exist", "put it there") if text is None else FileContent(text)
        for name, text in texts.items()
    }
    return Facts(files=known, now=now)


def snapshot_of(judgement: Judgement, name: str) -> Snapshot:
    return judgement.served[None, name].snapshot


def test_every_file_that_may_be_needed_is_asked_for() -> None:
    judge = Judge()
    judge_all(judge, read(a=with_login("one", "/one")), facts(one="u:p"))

    assert judge.files(judge.parse(read(a=with_login("one", "/other"), b=with_login("two", "/two")))) == {
        *("/one", "/other", "/two"),
    }


def test_a_new_login_changes_the_secret_of_its_own_policy_only() -> None:
    judge, documents = Judge(), read(a=with_login("one", "/one"), b=with_login("two", "/two"))
    before = judge_all(judge, documents, facts(one="u:1", two="u:2"))
    after = judge_all(judge, documents, facts(one="u:changed", two="u:2"))

    assert snapshot_of(after, "two") is snapshot_of(before, "two")
    changed = {
        kind
        for kind in ResourceType
        if snapshot_of(after, "one").versions[kind] != snapshot_of(before, "one").versions[kind]
    }
    assert changed == {ResourceType.SECRET}


@pytest.mark.parametrize("text", [pytest.param(None, id="gone"), pytest.param("", id="empty"), CANARY])
def test_a_bad_file_keeps_what_its_policy_had_and_concerns_no_other(text: str | None) -> None:
    judge, documents = Judge(), read(a=with_login("one", "/one"), b=with_login("two", "/two"))
    before = judge_all(judge, documents, facts(one="u:1", two="u:2"))
    after = judge_all(judge, documents, facts(one=text, two="u:changed"))

    assert snapshot_of(after, "one") is snapshot_of(before, "one")
    assert snapshot_of(after, "two") != snapshot_of(before, "two")
    assert state_of(after, "a").has_last_good
    assert state_of(after, "b").is_good
    assert CANARY not in str(after)


def test_without_a_good_file_from_the_start_pods_are_told_nothing() -> None:
    judgement = judge_all(Judge(), read(a=with_login("one", "/one")), facts(one=None))

    assert judgement.served == {}
    assert [candidate.name for candidate in judgement.world.candidates] == ["one"]


def test_a_certificate_that_ends_is_noticed_though_nothing_else_changed() -> None:
    authority = Authority(lifetime=30 * DAY)
    judge, documents = Judge(), read(a=with_authority("one", authority.certificate))
    moments = [0.0, 2_000_000_000.0, 9_000_000_000.0]
    judgements = [judge_all(judge, documents, facts(now=now)) for now in moments]

    assert [state_of(judgement, "a").is_good for judgement in judgements] == [True, False, False]
    assert [finding.code for finding in judgements[1].diagnostics] == ["EX324"]
    assert snapshot_of(judgements[2], "one") is snapshot_of(judgements[0], "one")


class FakeFiles:
    """Files by path, and events on demand."""

    def __init__(self, **texts: str) -> None:
        self.texts = {f"/{name}": text for name, text in texts.items()}
        self.asked: list[frozenset[str]] = []
        self._events: asyncio.Queue[None] = asyncio.Queue()

    def write(self, **texts: str) -> None:
        self.texts |= {f"/{name}": text for name, text in texts.items()}
        self._events.put_nowait(None)

    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]:
        self.asked.append(paths)
        return {path: FileContent(self.texts[path]) for path in paths}

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._events.get()
            yield


def test_a_changed_file_is_in_force_after_the_quiet_time_and_shows_in_no_log() -> None:
    published: list[tuple[float, World]] = []
    files = FakeFiles(one=f"u:{CANARY}")

    async def main(loop: VirtualTimeLoop) -> float:
        reconciler = Reconciler(
            inputs=Inputs(FakeSource(a=with_login("one", "/one")), FakeFacts(), files),
            publish=lambda world: published.append((loop.time(), world)),
            debounce=Debounce(QUIET, MAXIMUM),
            clock=loop.time,
        )
        task = asyncio.create_task(reconciler.run())
        await asyncio.sleep(2)
        changed = loop.time()
        files.write(one=f"u:{CANARY}-second")
        await asyncio.sleep(2)
        files.write(one=CANARY)
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.wait([task])
        return changed

    with capture_logs() as logs:
        changed = run_virtually(main)

    (_, first), (at, second), (_, third) = published
    assert at - changed <= QUIET + 0.05
    assert first.snapshots[None, "one"] != second.snapshots[None, "one"]
    assert third.snapshots[None, "one"] is second.snapshots[None, "one"]
    assert set(files.asked) == {frozenset({"/one"})}
    assert any(entry.get("code") == "EX322" for entry in logs)
    assert CANARY not in str(logs)
    assert CANARY not in str(published)
