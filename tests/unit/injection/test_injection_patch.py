"""Patches: applied as RFC 6902 says they give what is after, and they say little more than what changed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.json_patch import apply_patch
from tests.unit.injection.pod_shapes import SIDECAR, around, pod
from xds.injection.inject import inject
from xds.injection.patch import render_patch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({"a": {"b": 1}}, {"a": {}}, [{"op": "remove", "path": "/a/b"}]),
        ({}, {"a/b~c": 1}, [{"op": "add", "path": "/a~1b~0c", "value": 1}]),
        ({"a": None}, {"a": []}, [{"op": "replace", "path": "/a", "value": []}]),
        ({"a": [1, 2]}, {"a": (1, 2)}, []),
        (
            {"c": [{"name": "x", "v": 1}]},
            {"c": [{"name": "new"}, {"name": "x", "v": 2}]},
            [{"op": "add", "path": "/c/0", "value": {"name": "new"}}, {"op": "replace", "path": "/c/1/v", "value": 2}],
        ),
        (
            {"c": [{"name": "x"}, {"name": "y"}, {"name": "z"}]},
            {"c": [{"name": "y"}]},
            [{"op": "remove", "path": "/c/2"}, {"op": "remove", "path": "/c/0"}],
        ),
        ({"a": [1, 1, 2]}, {"a": [1, 2]}, [{"op": "remove", "path": "/a/1"}]),
        (
            {"c": [{"name": "x"}, {"name": "y"}]},
            {"c": [{"name": "y"}, {"name": "x"}]},
            [{"op": "remove", "path": "/c/0"}, {"op": "add", "path": "/c/1", "value": {"name": "x"}}],
        ),
    ],
    ids=[
        "nothing changed",
        "true is not 1",
        "less",
        "a name that a pointer must escape",
        "null is not nothing",
        "a tuple is a list",
        "entries are told by their names",
        "removed from the end",
        "equal entries",
        "another order",
    ],
)
def test_a_patch_is_what_changed(before: dict[str, Any], after: dict[str, Any], patch: list[dict[str, Any]]) -> None:
    assert render_patch(before, after) == patch
    assert apply_patch(before, patch) == {
        key: list(item) if isinstance(item, tuple) else item for key, item in after.items()
    }


class Lines:
    """Counts the lines of code that are run."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _frame: FrameType, event: str, _argument: object) -> Self:
        self.count += event == "line"
        return self


def count_work(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Return how many lines of any code are run to tell what changed."""
    lines, previous = Lines(), sys.gettrace()
    sys.settrace(lines)
    try:
        render_patch(before, after)
    finally:
        sys.settrace(previous)
    return lines.count


@pytest.mark.parametrize(
    "entry",
    [lambda number: {"name": f"v{number}"}, lambda _: {"name": "v"}, lambda _: 1],
    ids=["entries of many names", "entries of one name", "entries of one value"],
)
def test_four_times_as_much_takes_four_times_the_work(entry: Callable[[int], object]) -> None:
    def work(number: int) -> int:
        before = [entry(index) for index in range(number)]
        return count_work({"volumes": before}, {"volumes": [{"name": "first"}, *before[1:], {"name": "last"}]})

    assert work(4000) < 5 * work(1000)


def test_a_pod_with_as_many_volumes_as_may_be_gets_a_small_patch() -> None:
    crowded = pod()
    crowded["spec"]["volumes"] = [{"name": f"v{number}", "emptyDir": {}} for number in range(1000)]

    injected = inject(crowded, around(), SIDECAR).pod

    assert len(render_patch(crowded, injected)) < 10
    assert apply_patch(crowded, render_patch(crowded, injected)) == json.loads(json.dumps(injected))
