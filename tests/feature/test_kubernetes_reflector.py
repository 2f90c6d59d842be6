"""A collection stays right whatever the API server does: one story for each way in which it can fail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation
from tests.support.following import IMPATIENT, Following, connected, following, labels_of, pod
from xds.kubernetes.reflector import Collection, Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

QUIET = replace(IMPATIENT, silence=20.0)
"""For stories in which nobody is silent."""


@asynccontextmanager
async def story(
    directory: Path, *names: str, patience: Patience = QUIET
) -> AsyncIterator[tuple[ApiServerEmulation, Following]]:
    """A server with these pods, and a reflector of all pods."""
    async with ApiServerEmulation() as server, connected(server, directory) as api:
        for name in names:
            server.put(pod(name))
        async with following(api, patience=patience) as seen:
            yield server, seen


async def watching(server: ApiServerEmulation, seen: Following, number: int) -> None:
    """Wait until the server has that many watches taken, all in all."""
    await seen.until(lambda: server.count("watch") >= number and server.is_watched)


# --- the ordinary course


async def test_a_list_arrives_in_pages_and_is_told_once(tmp_path: Path) -> None:
    async with story(tmp_path, *"abcdefg") as (server, seen):
        assert seen.names == dict.fromkeys("abcdefg", "")
        assert seen.told == [{("a", name): "" for name in "abcdefg"}]
        lists = [request.query for request in server.requests if request.verb == "list"]
        assert [query["limit"] for query in lists] == ["3", "3", "3"]
        assert ["continue" in query for query in lists] == [False, True, True]
        assert seen.reflector.lists == 1
        assert seen.reflector.problem is None


async def test_events_are_told_one_by_one_and_what_did_not_change_is_not(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.put(pod("b", v="1"))
        server.put(pod("b", v="1") | {"status": {"phase": "Failed"}})
        server.put(pod("b", v="2"))
        server.remove("Pod", "a", "a")
        await seen.until(lambda: "a" not in seen.names)
        assert seen.told[1:] == [{("a", "b"): "1"}, {("a", "b"): "2"}, {("a", "a"): None}]
        assert seen.names == {"b": "2"}
        assert seen.reflector.events == 5, "a pod's deletion is two events"


async def test_what_is_of_no_interest_any_more_is_gone(tmp_path: Path) -> None:
    async with story(tmp_path, "a", "b") as (server, seen):
        await watching(server, seen, 1)
        server.put(pod("a", v="skip"))
        server.put(pod("c", v="skip"))
        server.put(pod("b", v="last"))
        await seen.until(lambda: seen.names.get("b") == "last")
        assert seen.told[1:] == [{("a", "a"): None}, {("a", "b"): "last"}]


async def test_an_object_of_an_odd_shape_costs_only_itself_and_is_logged_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with story(tmp_path, "a", "b") as (server, seen):
            await watching(server, seen, 1)
            server.put(pod("a", v="odd"))
            server.put(pod("a", v="odd", more="x"))
            server.put(pod("new", v="odd"))
            server.put(pod("b", v="fine"))
            await seen.until(lambda: seen.names.get("b") == "fine")
            assert seen.names == {"a": "", "b": "fine"}, "what is known of it stays"
    odd = [entry["object"] for entry in logs if entry["event"] == "object is not of the expected shape"]
    assert odd == ["a/a", "a/new"]


async def test_a_selector_by_name_sees_one_object(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"namespace": "a", "name": "one"}}
        server.put(secret)
        server.put({**secret, "metadata": {"namespace": "a", "name": "two"}})
        chosen = Collection("/api/v1/namespaces/a/secrets", field_selector="metadata.name=one")
        async with following(api, chosen, patience=QUIET) as seen:
            await watching(server, seen, 1)
            server.put({**secret, "metadata": {"namespace": "a", "name": "two", "labels": {"v": "1"}}})
            server.put({**secret, "metadata": {"namespace": "a", "name": "one", "labels": {"v": "2"}}})
            await seen.until(lambda: seen.names == {"one": "2"})
            assert len(seen.told) == 2


async def test_an_object_that_leaves_the_selection_is_gone(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a", v="1", kind="policy"))
        async with following(api, Collection("/api/v1/pods", "kind=policy"), patience=QUIET) as seen:
            await watching(server, seen, 1)
            server.put(pod("a", v="1"))
            await seen.until(lambda: not seen.names)
            assert seen.told == [{("a", "a"): "1"}, {("a", "a"): None}]


async def test_of_a_collection_of_metadata_only_metadata_travel(tmp_path: Path) -> None:
    shapes: list[frozenset[str]] = []

    def reduce(item: Mapping[str, Any]) -> str | None:
        shapes.append(frozenset(item))
        return labels_of(item)

    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a"))
        chosen = Collection("/api/v1/pods", is_metadata_only=True)
        async with following(api, chosen, reduce, QUIET) as seen:
            await watching(server, seen, 1)
            server.put(pod("b"))
            await seen.until(lambda: "b" in seen.names)
    assert set(shapes) == {frozenset({"kind", "apiVersion", "metadata"})}


async def test_a_watch_that_the_server_ends_goes_on_without_a_list(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.put(pod("b"))
        await seen.until(lambda: "b" in seen.names)
        server.expire_watches()
        server.put(pod("c"))
        await seen.until(lambda: "c" in seen.names)
        assert (seen.reflector.lists, seen.reflector.watches, seen.reflector.errors) == (1, 2, 0)
        asked = [int(request.query["timeoutSeconds"]) for request in server.requests if request.verb == "watch"]
        assert all(300 <= seconds <= 600 for seconds in asked)


async def test_a_bookmark_spares_the_list_after_the_history_was_forgotten(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.bookmark_interval = 0.05
        server.put(pod("a"))
        async with following(api, patience=QUIET) as seen:
            for name in "xyz":  # the resource version is that of all collections
                server.put({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}})
            events = seen.reflector.events
            await seen.until(lambda: seen.reflector.events >= events + 2)
            server.compact()
            server.expire_watches()
            await watching(server, seen, 2)
            server.put(pod("b"))
            await seen.until(lambda: "b" in seen.names)
            assert seen.reflector.lists == 1


# --- the history is gone


async def test_after_an_error_event_of_410_the_list_is_read_anew_and_only_differences_are_told(tmp_path: Path) -> None:
    async with story(tmp_path, "a", "b", "c", "d") as (server, seen):
        await watching(server, seen, 1)
        await server.go_away()
        server.remove("Pod", "a", "a")
        server.put(pod("b", v="new"))
        server.put(pod("e"))
        server.compact()
        await server.come_back()
        await seen.until(lambda: "e" in seen.names)
        assert seen.told[1:] == [{("a", "a"): None, ("a", "b"): "new", ("a", "e"): ""}]
        assert seen.reflector.lists == 2
        await seen.until(lambda: seen.reflector.problem is None)


async def test_after_a_status_of_410_the_list_is_read_anew(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.refuse(410)
        server.expire_watches()
        await seen.until(lambda: seen.reflector.lists == 2)
        server.put(pod("b"))
        await seen.until(lambda: "b" in seen.names)
        assert seen.reflector.problem is None


async def test_a_continue_token_that_ran_out_leads_to_a_whole_list(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        for name in "abcdefg":
            server.put(pod(name))

        def reduce(item: Mapping[str, Any]) -> str | None:
            if not server.store.oldest > 1:
                server.put(pod("new"))
                server.compact()
            return labels_of(item)

        async with following(api, reduce=reduce, patience=QUIET) as seen:
            assert set(seen.names) == {*"abcdefg", "new"}
            limits = [request.query.get("limit") for request in server.requests if request.verb == "list"]
            assert limits == ["3", "3", None]
            assert seen.reflector.errors == 0


async def test_after_a_restore_from_backup_the_list_is_read_from_scratch(tmp_path: Path) -> None:
    """The resource version is older than ours: the watch is taken, and nothing comes, not even a bookmark."""
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.bookmark_interval = 0.05
        server.put(pod("a"))
        server.store.version = 1000
        async with following(api, patience=IMPATIENT) as seen:
            await seen.until(lambda: seen.reflector.events > 0)
            server.rewind(10)
            server.put(pod("b"))
            await seen.until(lambda: "b" in seen.names)
            assert "resourceVersion" not in [r.query for r in server.requests if r.verb == "list"][-1]


async def test_a_version_that_goes_back_leads_to_a_list(tmp_path: Path) -> None:
    async with story(tmp_path, "a", "b") as (server, seen):
        await watching(server, seen, 1)
        server.inject(b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"1"}}}\n')
        await seen.until(lambda: seen.reflector.lists == 2)
        assert set(seen.names) == {"a", "b"}


# --- away and silent


async def test_nothing_is_dropped_while_the_server_is_away_and_it_is_logged_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with story(tmp_path, "a", "b") as (server, seen):
            await watching(server, seen, 1)
            await server.go_away()
            await seen.until(lambda: seen.reflector.errors >= 4)
            assert set(seen.names) == {"a", "b"}
            assert "can't watch pods" in (seen.reflector.problem or "")
            server.put(pod("c"))
            await server.come_back()
            await seen.until(lambda: "c" in seen.names and seen.reflector.problem is None)
            assert seen.told[1:] == [{("a", "c"): ""}]
            assert seen.reflector.lists == 1, "the history is still there"
    events = [entry["event"] for entry in logs]
    assert events == ["collection can't be read", "collection is read again"]


async def test_a_server_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a"))
        await server.go_away()
        async with following(api, patience=QUIET, waits=False) as seen:
            await seen.until(lambda: seen.reflector.errors >= 2)
            assert not seen.reflector.is_synced
            assert seen.reflector.last_contact is None
            assert "can't list pods" in (seen.reflector.problem or "")
            await server.come_back()
            await seen.until(lambda: seen.reflector.is_synced)
            assert set(seen.names) == {"a"}


async def test_a_server_that_takes_requests_and_answers_none_is_away(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a"))
        server.faults.silent = True
        async with following(api, waits=False) as seen:
            await seen.until(lambda: seen.reflector.problem)
            assert "does not answer" in (seen.reflector.problem or "")
            server.faults.silent = False
            await seen.until(lambda: "a" in seen.names and seen.reflector.problem is None)


async def test_a_silent_watch_is_taken_up_again_without_a_list(tmp_path: Path) -> None:
    """As a connection whose other end is gone without a word; this server sends no bookmarks."""
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.silent_watches = True
        server.put(pod("a"))
        async with following(api) as seen:
            await seen.until(lambda: seen.reflector.watches >= 3)
            assert seen.reflector.problem is None
            server.put(pod("b"))
            server.faults.silent_watches = False
            await seen.until(lambda: "b" in seen.names)
            assert seen.reflector.lists == 1


async def test_a_watch_without_the_bookmarks_that_were_there_before_leads_to_a_list(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.bookmark_interval = 0.05
        server.put(pod("a"))
        async with following(api) as seen:
            await seen.until(lambda: seen.reflector.events > 0)
            server.faults.silent_watches = True
            server.expire_watches()
            await seen.until(lambda: seen.reflector.lists >= 2)
            assert set(seen.names) == {"a"}


# --- refusals


@pytest.mark.parametrize("status", [429, 500, 503, 504], ids=str)
async def test_a_server_in_trouble_is_asked_again_later(tmp_path: Path, status: int) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a"))
        server.refuse(status, times=3)
        async with following(api, patience=QUIET) as seen:
            assert set(seen.names) == {"a"}
            assert seen.reflector.errors == 3
            server.refuse(status, times=2)
            server.expire_watches()
            await seen.until(lambda: seen.reflector.errors == 5)
            server.put(pod("b"))
            await seen.until(lambda: "b" in seen.names)
            assert seen.reflector.lists == 4, "three that failed, and one: the watch went on from where it was"


async def test_a_server_that_asks_for_time_gets_it(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.put(pod("a"))
        server.refuse(429, retry_after=1)
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with following(api, patience=QUIET):
            assert 1.0 <= loop.time() - start < 5.0
            assert server.count("list") == 2


async def test_a_right_that_is_missing_is_named_with_the_remedy_and_nothing_is_dropped(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.forbid("watch", "pods")
        server.expire_watches()
        await seen.until(lambda: seen.reflector.problem)
        assert (seen.reflector.problem or "").startswith(
            "may not watch pods: allow `list` and `watch` of pods in a ClusterRole and bind it to this service account"
        )
        assert set(seen.names) == {"a"}
        server.faults.forbidden.clear()
        server.put(pod("b"))
        await seen.until(lambda: "b" in seen.names and seen.reflector.problem is None)


async def test_a_failure_of_another_kind_is_logged_again_and_what_alternates_is_not(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with story(tmp_path, "a") as (server, seen):
            await watching(server, seen, 1)
            for _ in range(2):
                await server.go_away()
                await seen.until(lambda: "can't" in (seen.reflector.problem or ""))
                server.forbid("*", "pods")
                await server.come_back()
                await seen.until(lambda: "may not" in (seen.reflector.problem or ""))
            server.faults.tokens = {"another"}
            await seen.until(lambda: "credentials" in (seen.reflector.problem or ""))
            server.faults.tokens = None
            server.faults.forbidden.clear()
            await seen.until(lambda: seen.reflector.problem is None)
            server.forbid("*", "pods")
            server.expire_watches()
            await seen.until(lambda: seen.reflector.problem)
    told = [(entry["log_level"], entry.get("status")) for entry in logs]
    assert told == [("warning", None), ("error", 403), ("error", 401), ("info", None), ("error", 403)]
    denied = logs[1]
    assert denied["verb"] in {"list", "watch"}
    assert denied["resource"] == "pods"
    assert "allow `list` and `watch` of pods in a ClusterRole and bind it to this service account" in denied["problem"]


async def test_a_right_to_what_may_be_missing_is_no_error(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
            server.forbid("*", "nodes")
            async with following(api, Collection("/api/v1/nodes", is_optional=True), waits=False) as seen:
                await seen.until(lambda: seen.reflector.errors >= 3)
    assert [(entry["log_level"], entry["status"]) for entry in logs] == [("warning", 403)]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        pytest.param(
            "/apis/coordination.k8s.io/v1/namespaces/egress-system/leases",
            "may not list leases.coordination.k8s.io: allow `list` and `watch` of leases.coordination.k8s.io in a Role"
            " of the namespace egress-system",
            id="in a namespace, with an API group",
        ),
        pytest.param(
            "/api/v1/nodes", "may not list nodes: allow `list` and `watch` of nodes in a ClusterRole", id="all"
        ),
    ],
)
async def test_the_missing_right_is_named_as_rbac_does(tmp_path: Path, path: str, problem: str) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.forbid("*", path.rpartition("/")[2])
        async with following(api, Collection(path), waits=False) as seen:
            await seen.until(lambda: seen.reflector.problem)
            assert (seen.reflector.problem or "").startswith(problem)
            assert not seen.reflector.is_synced


@pytest.mark.parametrize("is_forbidden", [False, True], ids=["absent", "forbidden"])
async def test_an_optional_collection_that_is_not_to_be_had_is_empty_until_it_is(
    tmp_path: Path, *, is_forbidden: bool
) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        if is_forbidden:
            server.forbid("*", "servicecidrs")
        else:
            server.faults.absent.add("servicecidrs")
        chosen = Collection("/apis/networking.k8s.io/v1/servicecidrs", is_optional=True)
        async with following(api, chosen, waits=False) as seen:
            await seen.until(lambda: seen.reflector.is_synced)
            assert (seen.names, seen.told) == ({}, [])
            server.put({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {"name": "all"}})
            server.faults.absent.clear()
            server.faults.forbidden.clear()
            await seen.until(lambda: seen.names == {"all": ""} and seen.reflector.problem is None)


async def test_a_collection_that_is_needed_and_not_there_is_a_problem(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.absent.add("pods")
        async with following(api, waits=False) as seen:
            await seen.until(lambda: seen.reflector.problem)
            assert (seen.reflector.problem or "").startswith("the API server has no pods: enable that API")
            assert not seen.reflector.is_synced


async def test_credentials_that_ended_are_a_problem_that_passes(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.faults.tokens = {"another"}
        server.expire_watches()
        await seen.until(lambda: seen.reflector.problem)
        assert "does not accept the credentials" in (seen.reflector.problem or "")
        server.faults.tokens = None
        server.put(pod("b"))
        await seen.until(lambda: "b" in seen.names)
        assert seen.reflector.lists == 1


# --- nonsense


BAD_LINES = [
    pytest.param(b"{not json\n", id="a line that is no JSON"),
    pytest.param(b"[1, 2]\n", id="a line that is no object"),
    pytest.param(b'{"type":"ADDED"}\n', id="an event without an object"),
    pytest.param(b'{"type":"NEWS","object":{"metadata":{"resourceVersion":"99"}}}\n', id="an event of an unknown type"),
    pytest.param(b'{"type":[],"object":{}}\n', id="a type that is none"),
    pytest.param(b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n', id="an object without a version"),
    pytest.param(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"99"}}}\n', id="an object without a name"),
    pytest.param(b'{"type":"ADDED","object":{"metadata":[]}}\n', id="metadata of another shape"),
    pytest.param(b'{"type":"ERROR","object":{"code":"x"}}\n', id="an error without a code"),
    pytest.param(b"[" * 100_000 + b"\n", id="nesting without end"),
    pytest.param(b"\xff\xfe\x00\n", id="bytes that are no text"),
]


@pytest.mark.parametrize("line", BAD_LINES)
async def test_nonsense_costs_a_list_and_nothing_else(tmp_path: Path, line: bytes) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.inject(line)
        await seen.until(lambda: seen.reflector.lists == 2)
        server.put(pod("b"))
        await seen.until(lambda: "b" in seen.names and seen.reflector.problem is None)
        assert set(seen.names) == {"a", "b"}
        assert seen.reflector.errors == 1


async def test_a_stream_that_ends_within_an_event_costs_a_list(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.inject(b'{"type":"ADDED","object":{"metadata":{"na')
        server.expire_watches()
        await seen.until(lambda: seen.reflector.lists == 2)
        assert set(seen.names) == {"a"}


async def test_an_event_may_come_in_pieces_and_with_empty_lines(tmp_path: Path) -> None:
    async with story(tmp_path, "a") as (server, seen):
        await watching(server, seen, 1)
        server.inject(b'{"type":"ADDED","object":{"metadata":{"namespace":"a","na')
        server.inject(b'me":"b","resourceVersion":"50"}}}\n\n\r\n')
        await seen.until(lambda: "b" in seen.names)
        assert (seen.reflector.lists, seen.reflector.errors) == (1, 0)


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_pause(tmp_path: Path) -> None:
    slow = replace(QUIET, first=0.2, longest=5.0)
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.longest_watch = 0.0
        async with following(api, Collection("/api/v1/secrets"), patience=slow) as seen:
            loop = asyncio.get_running_loop()
            start = loop.time()
            await seen.until(lambda: seen.reflector.errors >= 3)
            assert loop.time() - start >= 0.1 + 0.2, "half of 0.2 s, and of 0.4 s, at the least"
            assert seen.reflector.lists == 1
