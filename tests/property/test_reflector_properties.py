"""Whatever an API server says, a reflector goes on, and what it told adds up to what it has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from xds.kubernetes.connection import ApiError, ApiServer
from xds.kubernetes.reflector import Collection, ObjectKey, Patience, Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

AT_ONCE = Patience(first=0.0, longest=1e9, denied=0.0)

junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "object", "metadata", "items", "name", "code", "details"]), inner)
    ),
    max_leaves=8,
)


def items(versions: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    named = {"name": st.sampled_from("abc"), "namespace": st.just("n"), "resourceVersion": versions.map(str)}
    return st.fixed_dictionaries(
        {"metadata": st.fixed_dictionaries(named), "value": st.sampled_from(["one", "one", "two", "skip", "odd"])}
    )


errors = st.builds(
    ApiError,
    st.sampled_from([None, 400, 401, 403, 404, 409, 410, 429, 500, 504]),
    st.sampled_from(["Unreachable", "Silent", "Expired", "Malformed", ""]),
    st.just("as it happens"),
)
known = st.fixed_dictionaries(
    {"type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), "object": items(st.just(60))}
)
strange = (
    errors
    | st.fixed_dictionaries({"type": st.sampled_from(["ERROR", "NEWS", "ADDED"]), "object": items(st.integers(0, 99))})
    | st.dictionaries(st.sampled_from(["type", "object"]), junk)
)
watches = st.tuples(st.lists(known, max_size=6), st.lists(strange, max_size=1)).map(
    lambda parts: [*parts[0], *parts[1]]
)
lists_of = st.lists(items(st.just(50)), max_size=4)
whole = st.fixed_dictionaries({"metadata": st.just({"resourceVersion": "50"}), "items": lists_of})
part = st.fixed_dictionaries(
    {"metadata": st.fixed_dictionaries({"resourceVersion": st.just("50"), "continue": st.sampled_from("xy")})},
    optional={"items": lists_of | st.none()},
)
answers = st.one_of(whole, whole, whole, part, errors, st.dictionaries(st.sampled_from(["metadata", "items"]), junk))


class Scripted(ApiServer):
    """Answers what it was given, and then nothing any more."""

    def __init__(self, lists: list[Any], streams: list[list[Any]]) -> None:
        self._lists, self._streams = lists, streams
        self.done = asyncio.Event()

    async def request(self, *_: object, **__: object) -> dict[str, Any]:
        if not self._lists:
            await self._end()
        answer: dict[str, Any] | ApiError = self._lists.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def watch(self, *_: object, **__: object) -> AsyncGenerator[dict[str, object]]:
        if not self._streams:
            await self._end()
        for event in self._streams.pop(0):
            if isinstance(event, ApiError):
                raise event
            yield event

    async def _end(self) -> None:
        self.done.set()
        await asyncio.Event().wait()


def value_of(item: Mapping[str, Any]) -> str | None:
    if item["value"] == "odd":
        raise ValueError
    # Equal and not the same, as what is decoded anew.
    return None if item["value"] == "skip" else f"{item['value']} of {item['metadata']['name']}"


@given(st.lists(answers, min_size=1, max_size=8), st.lists(watches, min_size=1, max_size=8))
@settings(deadline=None)
async def test_what_was_told_adds_up_to_what_there_is_and_nothing_is_told_twice(
    lists: list[Any], streams: list[list[Any]]
) -> None:
    api = Scripted(lists, streams)
    told: dict[ObjectKey, str] = {}

    def note(changes: Mapping[ObjectKey, str | None]) -> None:
        assert changes
        for key, value in changes.items():
            assert told.get(key) != value
            if value is None:
                del told[key]
            else:
                told[key] = value
        assert told == reflector.items

    reflector: Reflector[str] = Reflector(api, Collection("/api/v1/pods"), value_of, note, patience=AT_ONCE)
    run = asyncio.create_task(reflector.run())
    ended = asyncio.create_task(api.done.wait())
    await asyncio.wait([run, ended], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert ended.done()
    assert not run.done(), run
    run.cancel()
    await asyncio.wait([run])
    assert told == reflector.items
    assert reflector.is_synced or not told
