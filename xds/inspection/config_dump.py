"""
What an Envoy says of itself: the JSON of `/config_dump?include_eds`, as values.

Only what came from a control plane counts; what stands in the bootstrap never changes. Source: Envoy API,
`envoy.admin.v3.ConfigDump` and the messages of its sections. Resources of types that are not known here are taken as
they are. Nothing is decoded: Envoy writes JSON as `xds.render` does. Invariants: no input but one that is no such JSON
makes it fail, and no credential leaves this module, whichever program wrote the JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from xds.errors import redact_logins
from xds.protocol.wire import PERISHABLE_SUFFIX
from xds.render import redact_content, redact_text
from xds.resources import RESOURCE_TYPES, ResourceType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_SECTION = re.compile(r"(?:type\.googleapis\.com/)?envoy\.admin\.v[0-9]+[a-z0-9]*\.[A-Za-z]+ConfigDump")
_STATES = {"active_state": "active", "warming_state": "warming", "draining_state": "draining"}
_PROTO_NAME = re.compile(r"[a-z][A-Za-z0-9]*")
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
"""What JSON can name and UTF-8, and so Envoy, has nothing for."""
_MAX_DEPTH = 250
"""Levels of JSON. What is deeper is no configuration: each of the 100 messages that Envoy reads in one takes two."""
_NO_DUMP = "it is no answer of Envoy's /config_dump"


class State(Enum):
    """What an Envoy does with a resource."""

    ACTIVE = "active"
    WARMING = "warming"
    """It waits for other resources before it is used."""
    DRAINING = "draining"
    """It was removed or replaced; connections of before may still use it."""
    REFUSED = "refused"
    """No version of it was ever accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An update that an Envoy did not take."""

    version: str
    text: str
    """Why, in its own words."""
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldResource:
    """A resource in an Envoy."""

    type_url: str
    name: str
    version: str
    state: State
    updated: str
    """When, as Envoy writes it (RFC 3339); empty: it does not say."""
    content: Mapping[str, object]
    """Rendered; it begins with `@type`."""
    refusal: Refusal | None = None
    """A newer one that was not taken."""

    @property
    def kind(self) -> str:
        """The type in a word."""
        return describe_type(self.type_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDump:
    """All that an Envoy holds."""

    node_id: str = ""
    """Who it says it is."""
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    is_delta: bool = True
    """Whether versions are those of single resources, and not those of whole answers."""
    resources: tuple[HeldResource, ...] = ()


def describe_type(type_url: str) -> str:
    """Return e.g. `cluster`; the message's own name if the type is not one of those that are served."""
    known = next((kind for url, kind in RESOURCE_TYPES.items() if url == type_url), None)
    return known.name.lower() if known is not None else type_url.rpartition(".")[2]


def parse_config_dump(text: str | bytes) -> ConfigDump:
    """Read a dump; fields may have their JSON names, too. Raises ValueError, which says why and repeats nothing."""
    sections = _find_sections(_load(text))
    if not sections:
        raise ValueError(_NO_DUMP)
    node, is_delta = _read_bootstrap(sections)
    metadata = _mapping(node.get("metadata"))
    labels = sorted((str(key), str(value)) for key, value in _mapping(metadata.get("labels")).items())
    named = _names_of_endpoints(sections)
    # The endpoints of every cluster are listed, those that stand in the cluster itself among them.
    held = [
        item
        for section in sections
        for item in _read_section(section)
        if item.type_url != ResourceType.ENDPOINT.type_url or item.name in named
    ]
    return ConfigDump(
        node_id=str(node.get("id", "")),
        labels=tuple(labels),
        service_account=str(metadata.get("serviceAccount", "")),
        is_delta=is_delta,
        resources=tuple(sorted(_merge_refusals(held), key=_rank)),
    )


def _merge_refusals(held: Sequence[HeldResource]) -> list[HeldResource]:
    """Say once what was refused: Envoy lists it beside what it has of that name, and some of it twice."""
    kept: dict[tuple[str, str, State], HeldResource] = {
        (item.type_url, item.name, item.state): item for item in reversed(held) if item.state is not State.REFUSED
    }
    for item in held:
        if item.state is State.REFUSED:
            same = [key for key in kept if key[:2] == (item.type_url, item.name)]
            for key in same[:1]:
                kept[key] = replace(kept[key], refusal=kept[key].refusal or item.refusal)
            if not same:
                kept[item.type_url, item.name, item.state] = item
    return list(kept.values())


def _rank(item: HeldResource) -> tuple[int, str, str, str]:
    order = [str(kind.type_url) for kind in ResourceType]
    place = order.index(item.type_url) if item.type_url in order else len(order)
    return place, item.type_url, item.name, item.state.value


def _load(text: str | bytes) -> object:
    try:
        loaded: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{_NO_DUMP}: it is not JSON") from None  # what json says may repeat the text
    return loaded


def _find_sections(loaded: object) -> list[Mapping[str, object]]:
    configs = _sequence(_mapping(loaded).get("configs"))
    sections = [item for item in map(_mapping, configs) if _SECTION.fullmatch(str(item.get("@type", "")))]
    # A key of a map, such as one of metadata, may look like a JSON name: Envoy's own dumps are left alone.
    has_json_names = any(_CAPITAL.search(key) for section in sections for key in section)
    return [_mapping(_copy(section, _proto_name if has_json_names else str)) for section in sections]


def _copy(value: object, rename: Callable[[str], str], depth: int = 0) -> object:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{_NO_DUMP}: it is too deep")
    match value:
        case dict():
            return {rename(_encodable(key)): _copy(item, rename, depth + 1) for key, item in value.items()}
        case list():
            return [_copy(item, rename, depth + 1) for item in value]
        case str():
            return _encodable(value)
        case _:
            return value


def _encodable(text: str) -> str:
    return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text)


def _proto_name(key: str) -> str:
    """`lastUpdated` is `last_updated`; only other programs than Envoy write the former. `serviceAccount` is our own."""
    if key == "serviceAccount" or not _PROTO_NAME.fullmatch(key):
        return key
    return _CAPITAL.sub(lambda found: f"_{found[1].lower()}", key)


def _read_bootstrap(sections: Sequence[Mapping[str, object]]) -> tuple[Mapping[str, object], bool]:
    """Return the node, and whether it asks for changes only."""
    for section in sections:
        bootstrap = _mapping(section.get("bootstrap"))
        if bootstrap:
            ads = _mapping(_mapping(bootstrap.get("dynamic_resources")).get("ads_config"))
            return _mapping(bootstrap.get("node")), ads.get("api_type") not in ("GRPC", "AGGREGATED_GRPC")
    return {}, True


def _names_of_endpoints(sections: Sequence[Mapping[str, object]]) -> frozenset[str]:
    """Return the names by which clusters ask for endpoints."""
    clusters = [
        _mapping(_mapping(entry).get("cluster"))
        for section in sections
        for entries in section.values()
        for entry in _sequence(entries)
    ]
    return frozenset(
        str(_mapping(cluster.get("eds_cluster_config")).get("service_name") or cluster.get("name"))
        for cluster in clusters
        if cluster.get("type") == "EDS"
    )


def _read_section(section: Mapping[str, object]) -> Iterator[HeldResource]:
    for key, entries in section.items():
        if key.startswith("dynamic_") or key == "ecds_filters":
            state = State.WARMING if "_warming_" in key else State.ACTIVE
            for entry in map(_mapping, _sequence(entries)):
                yield from _read_entry(entry, state)


def _read_entry(entry: Mapping[str, object], state: State) -> Iterator[HeldResource]:
    """Read one resource. A listener may be there more than once, in several states."""
    name = str(entry.get("name", ""))
    refusal = _read_refusal(entry.get("error_state"))
    states = [(State(word), _mapping(entry[key])) for key, word in _STATES.items() if key in entry]
    found = [
        _build(content, variant, name, situation)
        for situation, variant in states or [(state, entry)]
        for content in _find_contents(variant)
    ]
    if not found and refusal is not None:
        failed = _mapping(_mapping(entry.get("error_state")).get("failed_configuration"))
        found = [_build({"@type": "", **failed}, {}, name, State.REFUSED)]
    for index, item in enumerate(found):
        yield item if index else replace(item, refusal=refusal)


def _find_contents(entry: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Find the resource in an entry, or several that have one version; each section calls it differently."""
    for key, value in entry.items():
        if key != "error_state":
            candidates = _sequence(value) if isinstance(value, list) else [value]
            yield from (item for item in map(_mapping, candidates) if isinstance(item.get("@type"), str))


def _build(content: Mapping[str, object], entry: Mapping[str, object], name: str, state: State) -> HeldResource:
    return HeldResource(
        type_url=str(content["@type"]),
        name=str(content.get("name") or content.get("cluster_name") or name),
        version=_text(entry.get("version_info")).removesuffix(PERISHABLE_SUFFIX),
        state=state,
        updated=_text(entry.get("last_updated")),
        content=redact_content(content),
    )


def _read_refusal(error: object) -> Refusal | None:
    state = _mapping(error)
    if not state:
        return None
    return Refusal(
        version=_text(state.get("version_info")),
        text=redact_logins(redact_text(_text(state.get("details")))),
        at=_text(state.get("last_update_attempt")),
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
