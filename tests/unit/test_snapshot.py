"""Snapshots: closed, unambiguous, and versioned by nothing but their content."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import pytest

from tests.support.body import Body
from xds.names import Version
from xds.resources import Reference, Resource, ResourceType, build_resource
from xds.snapshot import Diff, build_snapshot, diff_resources, drop_resources

CLUSTER, ROUTE = ResourceType.CLUSTER, ResourceType.ROUTE


def resource(name: str, content: bytes = b"", kind: ResourceType = CLUSTER, refers_to: str | None = None) -> Resource:
    references = [] if refers_to is None else [Reference(CLUSTER.type_url, refers_to)]
    return build_resource(kind, name, Body(content), references)


def test_a_snapshot_has_a_table_for_every_type() -> None:
    snapshot = build_snapshot([])

    assert {kind: dict(snapshot.of(kind)) for kind in ResourceType} == {kind: {} for kind in ResourceType}
    assert set(snapshot.versions) == set(ResourceType)


def test_resources_are_found_by_type_and_name() -> None:
    a, b, route = resource("a"), resource("b"), resource("a", kind=ROUTE)
    snapshot = build_snapshot([b, route, a])

    assert list(snapshot.of(CLUSTER).items()) == [("a", a), ("b", b)], "sorted by name"
    assert dict(snapshot.of(ROUTE)) == {"a": route}


@pytest.mark.parametrize("content", [b"", b"other"], ids=["equal", "different"])
def test_a_name_that_is_defined_twice_is_a_bug(content: bytes) -> None:
    with pytest.raises(AssertionError, match="CLUSTER a is defined twice"):
        build_snapshot([resource("a"), resource("a", content)])


def test_a_reference_to_nothing_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="ROUTE r refers to gone, which is not there"):
        build_snapshot([resource("r", kind=ROUTE, refers_to="gone")])


def test_a_reference_to_the_name_of_another_type_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="refers to a"):
        build_snapshot([resource("r", kind=ROUTE, refers_to="a"), resource("a", kind=ROUTE)])


def test_a_reference_to_what_is_there_is_closed() -> None:
    snapshot = build_snapshot([resource("r", kind=ROUTE, refers_to="a"), resource("a")])

    assert list(snapshot.of(ROUTE)) == ["r"]


def test_the_order_of_resources_means_nothing() -> None:
    found = [resource("a"), resource("b", b"content"), resource("r", kind=ROUTE, refers_to="a")]
    snapshots = [build_snapshot(order) for order in permutations(found)]

    assert len({snapshot.version for snapshot in snapshots}) == 1
    assert all(snapshot == snapshots[0] for snapshot in snapshots)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param([resource("a", b"other")], id="content"),
        pytest.param([resource("b")], id="a name"),
        pytest.param([resource("a"), resource("b")], id="one more"),
        pytest.param([], id="one less"),
    ],
)
def test_only_the_version_of_the_changed_type_moves(changed: list[Resource]) -> None:
    route = resource("r", kind=ROUTE)
    before, after = build_snapshot([resource("a"), route]), build_snapshot([*changed, route])

    assert {kind for kind in ResourceType if before.versions[kind] != after.versions[kind]} == {CLUSTER}
    assert before.version != after.version


def test_the_same_resource_under_another_type_is_another_snapshot() -> None:
    assert build_snapshot([resource("a")]).version != build_snapshot([resource("a", kind=ROUTE)]).version


def test_a_snapshot_can_not_be_changed() -> None:
    snapshot = build_snapshot([resource("a")])

    with pytest.raises(TypeError):
        snapshot.of(CLUSTER)["b"] = resource("b")  # type: ignore[index]  # that it can't be assigned is the point
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.resources = {}  # type: ignore[misc]  # as above


A, B = resource("a"), resource("b", b"content")
OLD = Version("0123456789abcdef")


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        pytest.param({}, {}, Diff((), ()), id="nothing of nothing"),
        pytest.param({}, {"b": B, "a": A}, Diff((A, B), ()), id="a new client gets everything, sorted"),
        pytest.param(
            {"a": A.version, "b": B.version}, {"a": A, "b": B}, Diff((), ()), id="who has it all gets nothing"
        ),
        pytest.param({"a": OLD, "b": B.version}, {"a": A, "b": B}, Diff((A,), ()), id="what changed is sent again"),
        pytest.param(
            {"z": OLD, "b": B.version, "y": OLD}, {"b": B}, Diff((), ("y", "z")), id="what went is named, sorted"
        ),
        pytest.param({"a": A.version}, {"b": B}, Diff((B,), ("a",)), id="one went and one came"),
    ],
)
def test_a_diff_is_what_separates_have_from_want(
    have: dict[str, Version], want: dict[str, Resource], expected: Diff
) -> None:
    assert diff_resources(have, want) == expected


def test_what_is_dropped_is_gone_and_all_else_is_the_very_same() -> None:
    whole = build_snapshot([resource("a"), resource("b"), resource("r", kind=ROUTE, refers_to="a")])
    part = drop_resources(whole, CLUSTER, ["b", "not there"])

    assert list(part.of(CLUSTER)) == ["a"]
    assert part.of(CLUSTER)["a"] is whole.of(CLUSTER)["a"]
    assert part.of(ROUTE) is whole.of(ROUTE)
    assert part == build_snapshot([resource("a"), resource("r", kind=ROUTE, refers_to="a")])


def test_what_is_referred_to_can_not_be_dropped() -> None:
    whole = build_snapshot([resource("a"), resource("r", kind=ROUTE, refers_to="a")])

    with pytest.raises(AssertionError, match="CLUSTER of a is referred to"):
        drop_resources(whole, CLUSTER, ["a"])
