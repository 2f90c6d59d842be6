"""Which nodes a node matcher means (envoy/type/matcher/v3)."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict

from xds.admin.matching import MatcherError, matches_any
from xds.gen.discovery_pb2 import Node
from xds.gen.status_pb2 import NodeMatcher

NODE = Node(id="web-0.shop")
NODE.metadata.update(
    {"labels": {"app": "web", "tier": "front"}, "replicas": 3, "on": True, "gone": None, "zones": ["a", "b"]}
)


def metadata(value: object, *path: str) -> dict[str, object]:
    return {"node_metadatas": [{"path": [{"key": key} for key in path], "value": value}]}


@pytest.mark.parametrize(
    ("matcher", "is_match"),
    [
        pytest.param({}, True, id="an empty matcher matches everybody"),
        pytest.param({"node_id": {"exact": "web-0.shop"}}, True, id="exact"),
        pytest.param({"node_id": {"exact": "web-0"}}, False, id="exact is the whole id"),
        pytest.param({"node_id": {"prefix": "web-"}}, True, id="prefix"),
        pytest.param({"node_id": {"suffix": ".shop"}}, True, id="suffix"),
        pytest.param({"node_id": {"suffix": ".db"}}, False, id="another suffix"),
        pytest.param({"node_id": {"contains": "0.s"}}, True, id="contains"),
        pytest.param({"node_id": {"exact": "WEB-0.shop"}}, False, id="case counts"),
        pytest.param({"node_id": {"exact": "WEB-0.shop", "ignore_case": True}}, True, id="case is ignored on demand"),
        pytest.param(metadata({"string_match": {"exact": "web"}}, "labels", "app"), True, id="a label"),
        pytest.param(metadata({"string_match": {"exact": "web"}}, "labels", "tier"), False, id="another label"),
        pytest.param(metadata({"string_match": {"exact": "web"}}, "labels"), False, id="a map is no string"),
        pytest.param(metadata({"present_match": True}, "labels", "app"), True, id="something is there"),
        pytest.param(metadata({"present_match": True}, "labels", "x", "y"), False, id="nothing is there"),
        pytest.param(metadata({"present_match": False}, "nowhere"), True, id="absence is asked for"),
        pytest.param(metadata({"double_match": {"exact": 3}}, "replicas"), True, id="a number"),
        pytest.param(metadata({"double_match": {"range": {"start": 1, "end": 3}}}, "replicas"), False, id="half-open"),
        pytest.param(metadata({"double_match": {"range": {"start": 3, "end": 4}}}, "replicas"), True, id="its start"),
        pytest.param(metadata({"double_match": {"exact": 0}}, "labels"), False, id="a map is no number"),
        pytest.param(metadata({"bool_match": True}, "on"), True, id="a truth value"),
        pytest.param(metadata({"bool_match": False}, "on"), False, id="the other truth value"),
        pytest.param(metadata({"null_match": {}}, "gone"), True, id="null"),
        pytest.param(metadata({"null_match": {}}, "nowhere"), False, id="nothing is not null"),
        pytest.param(
            metadata({"list_match": {"one_of": {"string_match": {"exact": "b"}}}}, "zones"), True, id="one of a list"
        ),
        pytest.param(
            metadata({"list_match": {"one_of": {"string_match": {"exact": "c"}}}}, "zones"), False, id="none of a list"
        ),
        pytest.param(
            metadata({"or_match": {"value_matchers": [{"bool_match": True}, {"null_match": {}}]}}, "gone"),
            True,
            id="one of two values",
        ),
        pytest.param(
            {"node_id": {"prefix": "web-"}, **metadata({"bool_match": False}, "on")}, False, id="all parts must match"
        ),
    ],
)
def test_a_node_is_matched(matcher: dict[str, object], *, is_match: bool) -> None:
    assert matches_any([ParseDict(matcher, NodeMatcher())], NODE) is is_match


def test_one_matching_matcher_of_several_is_enough_and_none_at_all_means_everybody() -> None:
    no, yes = (ParseDict({"node_id": {"prefix": prefix}}, NodeMatcher()) for prefix in ("db-", "web-"))

    assert matches_any([no, yes], NODE)
    assert not matches_any([no], NODE)
    assert matches_any([], NODE)


def nested(depth: int) -> object:
    return {"null_match": {}} if depth == 0 else {"or_match": {"value_matchers": [nested(depth - 1)]}}


@pytest.mark.parametrize(
    "matcher",
    [
        pytest.param({"node_id": {"safe_regex": {"regex": "(a+)+b"}}}, id="a regular expression"),
        pytest.param({"node_id": {}}, id="a pattern that is not known"),
        pytest.param(metadata({}, "labels"), id="no value pattern"),
        pytest.param(metadata({"double_match": {}}, "replicas"), id="no number"),
        pytest.param(metadata({"bool_match": True}), id="no path"),
        pytest.param({"node_metadatas": [{"path": [{"key": "on"}]}]}, id="no value"),
        pytest.param(metadata(nested(40), "on"), id="too deep"),
        pytest.param({"node_id": {"exact": "else"}, **metadata({}, "on")}, id="in a part that would not matter"),
    ],
)
def test_a_matcher_that_can_not_be_honoured_is_an_error(matcher: dict[str, object]) -> None:
    with pytest.raises(MatcherError):
        matches_any([ParseDict(matcher, NodeMatcher())], NODE)
