"""Resources: bytes as google protobuf would write them, and versions that depend on nothing but content."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import UInt64Value

from tests.support.body import Body
from xds.names import TypeUrl
from xds.resources import RESOURCE_TYPES, Reference, ResourceType, build_resource, encode_varint, hash_version


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16_383, 16_384, 2**32 - 1, 2**63, 2**64 - 1])
def test_a_varint_is_what_google_protobuf_writes(value: int) -> None:
    written = UInt64Value(value=value).SerializeToString()

    assert encode_varint(value) == (written[1:] or b"\0"), "after the tag; a zero is left out there"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
@pytest.mark.parametrize("kind", ResourceType)
def test_an_any_is_what_google_protobuf_reads(kind: ResourceType, size: int) -> None:
    resource = build_resource(kind, "a", Body(b"x" * size))

    packed = Any.FromString(resource.any_body)

    assert packed == Any(type_url=kind.type_url, value=resource.body)
    if size:
        assert resource.any_body == packed.SerializeToString(deterministic=True)


def test_a_resource_keeps_its_body_as_it_was_serialised() -> None:
    resource = build_resource(ResourceType.CLUSTER, "a", Body(b"content"))

    assert (resource.kind, resource.name, resource.body) == (ResourceType.CLUSTER, "a", b"content")


def test_equal_content_has_an_equal_version() -> None:
    one, other = (build_resource(ResourceType.CLUSTER, "a", Body(b"content")) for _ in range(2))

    assert one == other


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a", b"other", id="other content"),
        pytest.param("b", b"content", id="another name"),
        pytest.param("acontent", b"", id="the same bytes cut elsewhere"),
    ],
)
def test_a_version_depends_on_name_and_content(name: str, content: bytes) -> None:
    version = build_resource(ResourceType.CLUSTER, "a", Body(b"content")).version

    assert build_resource(ResourceType.CLUSTER, name, Body(content)).version != version


@pytest.mark.parametrize(("name", "content"), [("a", b"other"), ("b", b"content")])
def test_a_secrets_version_depends_on_name_and_content_too(name: str, content: bytes) -> None:
    version = build_resource(ResourceType.SECRET, "a", Body(b"content")).version

    assert build_resource(ResourceType.SECRET, "a", Body(b"content")).version == version
    assert build_resource(ResourceType.SECRET, name, Body(content)).version != version
    assert len(version) == len(build_resource(ResourceType.CLUSTER, "a", Body(b"content")).version)


def test_a_secrets_version_is_no_quick_hash_to_try_passwords_on() -> None:
    secret = build_resource(ResourceType.SECRET, "a", Body(b"content"))

    assert secret.version not in {hash_version(b"a", b"content"), hash_version(b"content")}


def test_the_content_of_a_resource_does_not_show() -> None:
    assert "canary" not in repr(build_resource(ResourceType.SECRET, "a", Body(b"canary")))


def test_a_version_says_nothing_of_references() -> None:
    """They are read from the content, so they can't differ where it does not."""
    reference = Reference(ResourceType.CLUSTER.type_url, "a")
    plain, with_reference = (build_resource(ResourceType.ROUTE, "r", Body(b""), found) for found in ([], [reference]))

    assert plain.version == with_reference.version


def test_references_are_sorted_and_each_is_there_once() -> None:
    a, b = (Reference(ResourceType.CLUSTER.type_url, name) for name in "ab")

    assert build_resource(ResourceType.ROUTE, "r", Body(b""), [b, a, b]).references == (a, b)


@pytest.mark.parametrize(
    ("parts", "others"),
    [
        pytest.param([b"ab", b"c"], [b"a", b"bc"], id="cut elsewhere"),
        pytest.param([b""], [], id="an empty part"),
        pytest.param([b"a", b"b"], [b"b", b"a"], id="in another order"),
    ],
)
def test_versions_of_different_parts_differ(parts: list[bytes], others: list[bytes]) -> None:
    assert hash_version(*parts) != hash_version(*others)


def test_a_version_is_the_same_in_every_release() -> None:
    """A change here re-sends everything to everybody once; it must be a decision."""
    assert hash_version(b"a", b"bc") == "3fafa1cf2f19a7c1"


def test_additions_are_pushed_before_what_refers_to_them() -> None:
    assert [kind.name for kind in ResourceType] == ["CLUSTER", "ENDPOINT", "LISTENER", "ROUTE", "SECRET"]


def test_every_type_is_found_by_its_url() -> None:
    assert {url: kind.type_url for url, kind in RESOURCE_TYPES.items()} == {url: url for url in RESOURCE_TYPES}
    assert len(RESOURCE_TYPES) == len(ResourceType)
    assert RESOURCE_TYPES[TypeUrl("type.googleapis.com/envoy.config.cluster.v3.Cluster")] is ResourceType.CLUSTER


def test_only_clusters_and_listeners_have_wildcards() -> None:
    """The xDS protocol, "How the client specifies what resources to return"."""
    assert [kind.name for kind in ResourceType if kind.allows_wildcard] == ["CLUSTER", "LISTENER"]
