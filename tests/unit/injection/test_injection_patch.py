"""Patches: applied as RFC 6902 says they give what is after, and they say little more than what changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.json_patch import apply_patch
from xds.injection.patch import render_patch


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
        ({"a": [1, 1, 2]}, {"a": [1, 2]}, [{"op": "remove", "path": "/a/0"}]),
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
    ],
)
def test_a_patch_is_what_changed(before: dict[str, Any], after: dict[str, Any], patch: list[dict[str, Any]]) -> None:
    assert render_patch(before, after) == patch
    assert apply_patch(before, patch) == {
        key: list(item) if isinstance(item, tuple) else item for key, item in after.items()
    }
