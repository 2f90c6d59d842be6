"""When policies are compiled and published, and what a broken document costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.virtual_time import VirtualTimeLoop, run_virtually
from tests.unit.reconcile_bench import BROKEN, MAXIMUM, QUIET, Bench, judge_all, on_bench, policy, read, state_of
from xds import judge as verdict
from xds.cache import SnapshotCache
from xds.compile import Compilation, compile_snapshot
from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError
from xds.facts import Facts
from xds.judge import UNREADABLE, Judge, SourceRead
from xds.policy.model import HeldPolicy, Policy, Workload
from xds.policy.selection import select_policy
from xds.reconcile import Burst, Debounce

if TYPE_CHECKING:
    from xds.judge import Judgement
    from xds.policy.parse import Document

POD = Workload(pod="web-0", namespace="shop")

# ---------------------------------------------------------------------------------------- the judge


def held_names(judgement: Judgement) -> list[str]:
    return [item.name for item in judgement.world.candidates if isinstance(item, HeldPolicy)]


def test_a_good_document_is_in_force() -> None:
    judgement = judge_all(Judge(), read(a=policy("one")))

    assert list(judgement.world.snapshots) == [(None, "one")]
    assert state_of(judgement, "a").is_good


def test_a_broken_document_keeps_its_last_good_policies_and_blocks_no_other() -> None:
    judge = Judge()
    before = judge_all(judge, read(a=policy("one"), b=policy("two")))

    after = judge_all(judge, read(a=BROKEN, b=policy("two", port=3129)))

    assert after.world.snapshots[None, "one"] == before.world.snapshots[None, "one"]
    assert after.world.snapshots[None, "two"] != before.world.snapshots[None, "two"]
    assert state_of(after, "a").has_last_good
    assert held_names(after) == []


def test_the_last_good_version_outlives_many_bad_ones() -> None:
    judge = Judge()
    before = judge_all(judge, read(a=policy("one")))

    worlds = [judge_all(judge, read(a=text)).world for text in (BROKEN, "kind: Pod", BROKEN)]

    assert worlds == [before.world] * 3


def test_a_mended_document_is_in_force_again() -> None:
    judge = Judge()
    judge_all(judge, read(a=policy("one")))
    judge_all(judge, read(a=BROKEN))

    mended = judge_all(judge, read(a=policy("one", port=3129)))

    assert state_of(mended, "a").is_good
    assert mended.world.snapshots == judge_all(Judge(), read(a=policy("one", port=3129))).world.snapshots


def test_a_removed_document_is_out_of_force_even_if_it_was_broken_last() -> None:
    judge = Judge()
    judge_all(judge, read(a=policy("one"), b=policy("two")))
    judge_all(judge, read(a=BROKEN, b=policy("two")))

    judgement = judge_all(judge, read(b=policy("two")))

    assert list(judgement.world.snapshots) == [(None, "two")]
    assert judge_all(judge, read(a=BROKEN, b=policy("two"))).world.snapshots.keys() == {(None, "two")}


def test_pods_of_a_broken_document_without_a_good_version_are_told_nothing() -> None:
    cache = SnapshotCache()
    claiming = policy("narrow", namespace="shop").replace("port: 3128", "port: 99999").replace(":3128", ":99999")

    cache.publish(judge_all(Judge(), read(a=claiming, b=policy("wide"))).world)

    assert cache.snapshot_for(POD) is None
    assert cache.snapshot_for(replace(POD, namespace="other")) is not None


def test_a_document_that_says_nothing_about_its_pods_may_claim_everybody() -> None:
    cache = SnapshotCache()

    cache.publish(judge_all(Judge(), read(a=BROKEN, b=policy("wide", priority=100))).world)

    assert cache.snapshot_for(POD) is None


@pytest.mark.parametrize("text", [pytest.param("", id="no text"), pytest.param("# gone\n", id="comments only")])
def test_a_document_that_was_emptied_keeps_its_last_good_policies(text: str) -> None:
    judge = Judge()
    before = judge_all(judge, read(a=policy("one"), b=policy("two")))

    after = judge_all(judge, read(a=text, b=policy("two")))

    assert after.world == before.world
    assert state_of(after, "a").has_last_good


def test_a_document_that_was_never_more_than_empty_hands_nobody_to_another_policy() -> None:
    judgement = judge_all(Judge(), read(a="", b=policy("wide")))

    cache = SnapshotCache()
    cache.publish(judgement.world)
    assert len(held_names(judgement)) == 1
    assert cache.snapshot_for(POD) is None


def test_a_document_without_text_is_treated_as_a_broken_one() -> None:
    judge = Judge()
    finding = Diagnostic(UNREADABLE, Where("a"), "the file can't be read", "check its mode")
    before = judge_all(judge, read(a=policy("one")))

    kept = judge_all(judge, SourceRead((), (finding,)))
    cold = judge_all(Judge(), SourceRead((), (finding,)))

    assert kept.world == before.world
    assert kept.diagnostics == (finding,)
    assert [item.is_unreadable for item in cold.world.candidates if isinstance(item, HeldPolicy)] == [True]


def test_a_name_in_two_documents_keeps_the_later_one_out() -> None:
    judgement = judge_all(Judge(), read(a=policy("one"), b=policy("one", port=3129)))

    assert (state_of(judgement, "a").is_good, state_of(judgement, "b").is_good) == (True, False)
    assert judgement.served[None, "one"].source == "a"
    assert held_names(judgement) == ["one"]


def test_what_is_found_beside_the_parser_stands_at_its_line() -> None:
    later = policy("one") + "  rules: [{to: {domains: [localhost]}, action: deny}]\n"

    judgement = judge_all(Judge(), read(a=policy("one"), b=later))

    assert [finding.code for finding in state_of(judgement, "b").diagnostics] == ["EX405", "EX220", "EX221"]


def test_a_last_good_policy_whose_name_was_taken_is_held() -> None:
    """It was in force under that name; handing its pods to the next candidate might allow more."""
    judge = Judge()
    judge_all(judge, read(b=policy("one", namespace="shop")))

    judgement = judge_all(judge, read(a=policy("one"), b=policy("one", namespace="shop")))

    assert judgement.served[None, "one"].source == "a"
    assert held_names(judgement) == ["one"]
    cache = SnapshotCache()
    cache.publish(judgement.world)
    assert cache.snapshot_for(POD) is None


def test_the_order_of_documents_changes_nothing() -> None:
    texts = {"a": policy("one"), "b": policy("two"), "c": BROKEN, "d": policy("one")}

    there = judge_all(Judge(), read(**texts))
    back = judge_all(Judge(), read(**dict(reversed(texts.items()))))

    assert there == back


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of policies in the order in which they are compiled; those called `buggy` or `deep` fail."""
    names: list[str] = []

    def compile_or_fail(given: Policy, facts: Facts) -> Compilation:
        names.append(given.name)
        if given.priority == 13:
            raise ZeroDivisionError
        if given.priority == 14:
            return Compilation(None, (Diagnostic("EX501", given.where, "too interleaved", "reorder"),))
        return compile_snapshot(given, facts)

    monkeypatch.setattr(verdict, "compile_snapshot", compile_or_fail)
    return names


def test_what_did_not_change_is_not_compiled_again(compiled: list[str]) -> None:
    judge = Judge()
    judge_all(judge, read(a=policy("one"), b=policy("two")))
    compiled.clear()

    judge_all(judge, read(b=policy("two"), a=policy("one", port=3129)))

    assert compiled == ["one"]


def test_a_new_address_compiles_only_the_policies_of_that_proxy_again(compiled: list[str]) -> None:
    judge = Judge()
    documents = read(a=policy("one", host="a.example"), b=policy("two", host="b.example"))
    judge_all(judge, documents, Facts(addresses={"a.example": (ip_address("192.0.2.1"),)}))
    compiled.clear()

    judge_all(judge, documents, Facts(addresses={"a.example": (ip_address("192.0.2.2"),)}))

    assert compiled == ["one"]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("priority", [pytest.param(13, id="a bug"), pytest.param(14, id="a finding")])
def test_what_does_not_compile_keeps_its_last_good_version_and_blocks_no_other(priority: int) -> None:
    judge = Judge()
    before = judge_all(judge, read(a=policy("one"), b=policy("two")))

    with capture_logs():
        after = judge_all(judge, read(a=policy("one", priority=priority), b=policy("two", port=3129)))

    assert after.world.snapshots[None, "one"] == before.world.snapshots[None, "one"]
    assert after.world.snapshots[None, "two"] != before.world.snapshots[None, "two"]
    assert state_of(after, "a").has_last_good


@pytest.mark.usefixtures("compiled")
def test_what_never_compiled_is_held() -> None:
    with capture_logs() as logs:
        judgement = judge_all(Judge(), read(a=policy("one", priority=13)))

    assert held_names(judgement) == ["one"]
    assert [entry["event"] for entry in logs] == ["internal error"]


def test_every_proxys_host_is_wanted_also_of_last_good_versions() -> None:
    judge = Judge()
    judge_all(judge, read(a=policy("one", host="a.example")))

    hosts = judge.hosts(judge.parse(read(a=BROKEN, b=policy("two", host="b.example"))))

    assert hosts == {"a.example", "b.example"}


# ------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    ("first", "last", "due"),
    [
        pytest.param(0.0, 0.0, 0.1, id="one event waits for quiet"),
        pytest.param(0.0, 0.5, 0.6, id="each event prolongs the wait"),
        pytest.param(0.0, 0.95, 1.0, id="but never beyond the maximum"),
    ],
)
def test_a_burst_is_due(first: float, last: float, due: float) -> None:
    assert Burst(first, last).due(Debounce(QUIET, MAXIMUM)) == pytest.approx(due)


def test_a_burst_of_a_thousand_events_is_compiled_twice_at_most() -> None:
    async def scenario(bench: Bench) -> None:
        bench.published.clear()
        for number in range(1000):
            bench.source.write(a=policy("one", port=4000 + number))
            await asyncio.sleep(0.001)
        await asyncio.sleep(2)

    bench = on_bench(scenario, a=policy("one"))

    assert 1 <= len(bench.published) <= 2
    assert bench.published[-1] == judge_all(Judge(), read(a=policy("one", port=4999))).world


def test_events_that_never_stop_do_not_put_off_publishing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.notified.clear()
        for number in range(500):
            bench.source.write(a=policy("one", port=4000 + number))
            await asyncio.sleep(0.01)

    bench = on_bench(scenario, a=policy("one"))

    gaps = [later - earlier for earlier, later in zip(bench.notified, bench.notified[1:], strict=False)]
    assert len(bench.notified) >= 4
    assert max(gaps) <= MAXIMUM + 0.02


def test_compiles_never_overlap() -> None:
    async def scenario(bench: Bench) -> None:
        bench.loop.work_time = 0.7
        for number in range(300):
            bench.source.write(a=policy("one", port=4000 + number))
            await asyncio.sleep(0.03)
        await asyncio.sleep(5)

    bench = on_bench(scenario, a=policy("one"))

    assert len(bench.published) > 3
    assert bench.loop.most_at_work == 1
    assert bench.published[-1] == judge_all(Judge(), read(a=policy("one", port=4299))).world


def test_a_change_during_a_compile_is_not_lost() -> None:
    async def scenario(bench: Bench) -> None:
        bench.loop.work_time = 1.0
        bench.source.write(a=policy("one", port=4000))
        await asyncio.sleep(QUIET + 1.5)  # the compile is under way
        bench.source.write(a=policy("one", port=4001))
        await asyncio.sleep(10)

    bench = on_bench(scenario, a=policy("one"))

    assert bench.published[-1] == judge_all(Judge(), read(a=policy("one", port=4001))).world


def test_nothing_is_published_before_the_facts_are_gathered() -> None:
    async def main(loop: VirtualTimeLoop) -> tuple[int, int]:
        bench = Bench(loop, a=policy("one"))
        bench.facts.gate.clear()
        async with bench.running():
            await asyncio.sleep(60)
            before = len(bench.published)
            assert not bench.reconciler.state.is_synced
            bench.facts.gate.set()
            await asyncio.sleep(1)
            return before, len(bench.published)

    with capture_logs():
        assert run_virtually(main) == (0, 1)


def test_touched_or_reordered_documents_wake_nobody() -> None:
    async def scenario(bench: Bench) -> None:
        bench.notified.clear()
        bench.source.notify()
        await asyncio.sleep(2)
        bench.source.texts = dict(reversed(bench.source.texts.items()))
        bench.source.notify()
        await asyncio.sleep(2)

    assert on_bench(scenario, a=policy("one"), b=policy("two")).notified == []


def test_new_facts_are_compiled() -> None:
    async def scenario(bench: Bench) -> None:
        bench.facts.change(Facts(addresses={"proxy.example": (ip_address("192.0.2.7"),)}))
        await asyncio.sleep(2)

    bench = on_bench(scenario, a=policy("one", host="proxy.example"))

    assert len(bench.notified) == 2


def test_a_source_that_fails_at_the_start_ends_the_run() -> None:
    async def main(loop: VirtualTimeLoop) -> None:
        bench = Bench(loop)
        bench.source.error = SourceError("gone")
        await bench.reconciler.run()

    with pytest.raises(ExceptionGroup) as caught:
        run_virtually(main)

    assert caught.group_contains(SourceError)


def test_a_source_that_fails_later_changes_nothing_and_is_said_once() -> None:
    problems: list[str | None] = []

    async def scenario(bench: Bench) -> None:
        bench.notified.clear()
        bench.source.error = SourceError("gone")
        for _ in range(3):
            bench.source.notify()
            await asyncio.sleep(2)
            problems.append(bench.reconciler.state.problem)
        bench.source.error = None
        bench.source.notify()
        await asyncio.sleep(2)
        problems.append(bench.reconciler.state.problem)

    async def main(loop: VirtualTimeLoop) -> Bench:
        bench = Bench(loop, a=policy("one"))
        async with bench.running():
            await asyncio.sleep(2)
            await scenario(bench)
        return bench

    with capture_logs() as logs:
        bench = run_virtually(main)

    assert bench.notified == []
    assert problems == ["gone", "gone", "gone", None]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["the last good state stays in force"]


def test_a_bug_outside_of_one_document_keeps_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    async def scenario(bench: Bench) -> None:
        bench.notified.clear()
        monkeypatch.setattr(verdict, "check_names", stumble)
        bench.source.write(a=policy("one", port=4000))
        await asyncio.sleep(2)
        assert bench.reconciler.state.problem is not None
        monkeypatch.undo()
        bench.source.write(a=policy("one", port=4001))
        await asyncio.sleep(2)
        assert bench.reconciler.state.problem is None

    bench = on_bench(scenario, a=policy("one"))

    assert len(bench.notified) == 1
    assert bench.published[-1] == judge_all(Judge(), read(a=policy("one", port=4001))).world


def test_a_last_good_version_that_new_facts_break_is_served_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    documents = read(a=policy("one", host="proxy.example"))
    before = judge_all(judge, documents)

    def refuse(given: Policy, facts: Facts) -> Compilation:
        if facts.addresses:
            return Compilation(None, (Diagnostic("EX501", given.where, "too interleaved", "reorder"),))
        return compile_snapshot(given, facts)

    monkeypatch.setattr(verdict, "compile_snapshot", refuse)
    after = judge_all(judge, documents, Facts(addresses={"proxy.example": (ip_address("192.0.2.7"),)}))

    assert after.world.snapshots == before.world.snapshots
    assert state_of(after, "a").has_last_good


def test_a_document_that_stops_the_parser_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(document: Document) -> None:
        raise ZeroDivisionError(document.source)

    monkeypatch.setattr(verdict, "parse_document", stumble)
    with capture_logs() as logs:
        judgement = judge_all(Judge(), read(a=policy("one")))

    assert [item.is_unreadable for item in judgement.world.candidates if isinstance(item, HeldPolicy)] == [True]
    assert [(entry["event"], entry["source"]) for entry in logs] == [("internal error", "a")]


PAY = Workload(pod="p", namespace="shop", labels=(("app", "pay"),))
WEB = Workload(pod="p", namespace="shop", labels=(("app", "web"),))


def for_app(name: str, app: str, *, is_good: bool = True) -> str:
    text = policy(name).replace("spec:\n", f"spec:\n  selector: {{podLabels: {{matchLabels: {{app: {app}}}}}}}\n")
    return text if is_good else f"{text}  rules: [{{to: {{domains: ['**']}}, action: deny}}]\n"


def test_a_bad_edit_that_claims_more_pods_does_not_leave_them_to_a_wider_policy() -> None:
    """With a memory of better days and without one, the same pods are told nothing."""
    edited = f"{for_app('team', 'web')}---\n{for_app('strict', 'pay', is_good=False)}"
    judge = Judge()
    judge_all(judge, read(team=for_app("team", "web"), wide=policy("wide")))

    with_history = judge_all(judge, read(team=edited, wide=policy("wide"))).world
    without = judge_all(Judge(), read(team=edited, wide=policy("wide"))).world

    for world in (with_history, without):
        assert isinstance(select_policy(world.candidates, PAY), HeldPolicy)
    assert with_history.snapshots.keys() == {(None, "team"), (None, "wide")}
    chosen = select_policy(with_history.candidates, WEB)
    assert isinstance(chosen, Policy)
    assert chosen.name == "team"


def test_a_last_good_version_is_in_force_for_its_own_pods_whatever_the_bad_one_claims() -> None:
    judge = Judge()
    judge_all(judge, read(team=policy("team", namespace="shop"), wide=policy("wide")))

    world = judge_all(judge, read(team=for_app("team", "pay", is_good=False), wide=policy("wide"))).world

    chosen = select_policy(world.candidates, PAY)
    assert isinstance(chosen, Policy)
    assert chosen.name == "team"


@pytest.mark.parametrize("has_history", [True, False])
def test_a_broken_copy_of_a_name_is_refused_and_not_the_good_original(has_history: bool) -> None:
    judge = Judge()
    if has_history:
        judge_all(judge, read(b=policy("one")))

    judgement = judge_all(judge, read(a=for_app("one", "pay", is_good=False), b=policy("one")))

    assert {state.source: state.is_good for state in judgement.documents} == {"a": False, "b": True}
    assert judgement.served[None, "one"].source == "b"
