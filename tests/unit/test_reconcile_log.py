"""What the reconciler logs: each change once, and what takes long before it is done."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.virtual_time import run_virtually
from tests.unit.reconcile_bench import BROKEN, QUIET, Bench, judge_all, policy, read
from xds import judge as verdict
from xds.compile import Compilation, compile_snapshot
from xds.facts import Facts
from xds.judge import Judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.virtual_time import VirtualTimeLoop
    from xds.policy.model import Policy


def test_the_state_dates_each_verdict_and_the_log_gives_it_once() -> None:
    async def main(loop: VirtualTimeLoop) -> Bench:
        bench = Bench(loop, a=policy("one"), b=policy("two"))
        async with bench.running():
            await asyncio.sleep(10)
            bench.source.write(a=BROKEN)
            await asyncio.sleep(10)
            bench.source.write(b=policy("two", port=3129))
            await asyncio.sleep(10)
        return bench

    with capture_logs() as logs:
        state = run_virtually(main).reconciler.state

    bad, good = state.documents
    assert (bad.is_good, bad.has_last_good, good.is_good) == (False, True, True)
    assert bad.since == pytest.approx(10 + QUIET)
    assert good.since == pytest.approx(QUIET)
    assert [item.since for item in state.policies] == pytest.approx([QUIET, 20 + QUIET])
    refused = [entry for entry in logs if entry["event"].startswith("document refused")]
    assert [entry["document"] for entry in refused] == ["a"]
    assert "last good" in refused[0]["event"]
    assert any(entry["event"] == "finding" and entry["where"].startswith("a:") for entry in logs)


def test_the_log_tells_of_documents_that_come_and_go_and_bounds_what_it_says_of_one() -> None:
    many = "".join(f"key{number}: 1\n" for number in range(15))

    async def main(loop: VirtualTimeLoop) -> None:
        bench = Bench(loop, a=policy("one"), b=policy("two"))
        async with bench.running():
            await asyncio.sleep(2)
            bench.source.texts = {"a": policy("one") + many}
            bench.source.notify()
            await asyncio.sleep(2)

    with capture_logs() as logs:
        run_virtually(main)

    said = [(entry["event"], entry.get("document")) for entry in logs]
    assert said.count(("finding", "a")) == 10
    assert ("document in force", "b") in said
    assert ("document gone", "b") in said
    assert [entry["count"] for entry in logs if entry["event"].startswith("more findings")] == [5]


def test_the_log_warns_once_whenever_the_last_policy_is_out_of_force() -> None:
    async def main(loop: VirtualTimeLoop) -> None:
        bench = Bench(loop)
        async with bench.running():
            for texts in ({}, {"a": policy("one")}, {}, {"a": BROKEN}, {"a": BROKEN, "b": ""}, {}):
                bench.source.texts = dict(texts)
                for address in ("192.0.2.7", "192.0.2.8"):
                    bench.facts.change(Facts(addresses={"proxy.example": (ip_address(address),)}))
                    await asyncio.sleep(2)

    with capture_logs() as logs:
        run_virtually(main)

    said = [entry for entry in logs if entry["event"].startswith("no policy is in force")]
    assert [entry["log_level"] for entry in said] == ["warning"] * 4
    nothing, again, broken, last = said
    assert nothing == again == last
    assert "every connection is refused" in nothing["event"]
    assert "always direct" in nothing["event"]
    assert "xds validate" in nothing["hint"]
    assert "pods that no document claims" in broken["event"]
    assert "mend" in broken["hint"]


LARGE = policy("one") + "#" * (1 << 20)


def said_of_large(logs: Sequence[Mapping[str, object]]) -> list[tuple[object, ...]]:
    large = [entry for entry in logs if str(entry["event"]).startswith("large document")]
    assert {entry["log_level"] for entry in large} <= {"info"}
    return [(entry["event"], entry["step"], entry["document"]) for entry in large]


BEGUN, DONE = "large document, this may take long", "large document done"


@pytest.mark.parametrize("priority", [pytest.param(0, id="that is good"), pytest.param(13, id="that meets a bug")])
def test_a_large_document_is_told_before_and_after_each_step(monkeypatch: pytest.MonkeyPatch, priority: int) -> None:
    before_compiling: list[list[tuple[object, ...]]] = []

    def compile_or_fail(given: Policy, facts: Facts) -> Compilation:
        if given.name == "one":
            before_compiling.append(said_of_large(logs))
        if given.priority == 13:
            raise ZeroDivisionError
        return compile_snapshot(given, facts)

    monkeypatch.setattr(verdict, "compile_snapshot", compile_or_fail)
    ticks = iter((0.0, 1.25, 10.0, 52.0))
    monkeypatch.setattr(verdict, "monotonic", lambda: next(ticks))
    with capture_logs() as logs:
        judge_all(Judge(), read(a=LARGE.replace("priority: 0", f"priority: {priority}"), b=policy("two")))

    steps = [(BEGUN, "parse", "a"), (DONE, "parse", "a"), (BEGUN, "compile", "a")]
    assert before_compiling == [steps]
    assert said_of_large(logs) == [*steps, (DONE, "compile", "a")]
    assert [entry["seconds"] for entry in logs if entry["event"] == DONE] == [1.2, 42.0]
    assert [entry["characters"] for entry in logs if entry["event"] == BEGUN] == [
        len(LARGE) + len(str(priority)) - 1
    ] * 2


def test_a_large_document_is_told_only_when_there_is_work_to_do() -> None:
    judge = Judge()
    judge_all(judge, read(a=LARGE))
    proxy_moved = Facts(addresses={"proxy.example": (ip_address("192.0.2.7"),)})
    with capture_logs() as logs:
        judge_all(judge, read(a=LARGE, b=policy("two")), proxy_moved)
        judge_all(judge, read(a=LARGE, b=policy("two", port=3129)))

    assert said_of_large(logs) == []


def test_new_facts_of_a_large_document_are_work_for_the_compiler_only() -> None:
    judge, documents = Judge(), read(a=LARGE.replace("192.0.2.1", "proxy.example"))
    judge_all(judge, documents)
    with capture_logs() as logs:
        judge_all(judge, documents, Facts(addresses={"proxy.example": (ip_address("192.0.2.7"),)}))

    assert said_of_large(logs) == [(BEGUN, "compile", "a"), (DONE, "compile", "a")]
