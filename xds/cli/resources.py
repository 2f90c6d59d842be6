"""Shows resources, wherever they come from: a table with a summary of each, YAML and JSON. Nothing here is secret."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from xds.cli.output import count_of, render_json, render_table, render_yaml
from xds.render import render_resource
from xds.resources import Resource, ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from xds.inspection.config_dump import HeldResource

ALL = "all"
"""What stands for every type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One resource, rendered and without credentials."""

    kind: str
    name: str
    version: str
    content: Mapping[str, object]
    size: int | None = None
    """Bytes on the wire; None: not known, or private, as the size of a secret tells how long it is."""
    held: HeldResource | None = None
    """What an Envoy says of it, if it comes from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which resources are wanted."""

    kind: str = ALL
    name: str | None = None
    """A name, or a pattern as shells have it."""

    def wants(self, kind: str, name: str) -> bool:
        """Whether a resource is to be shown."""
        is_named = self.name is None or self.name == name or fnmatchcase(name, self.name)
        return is_named and self.kind in {kind, ALL}


def show_compiled(resources: Iterable[Resource], wanted: Filter) -> tuple[Shown, ...]:
    """Render those of `resources` that are wanted."""
    return tuple(
        Shown(
            kind=kind,
            name=resource.name,
            version=resource.version,
            content=render_resource(resource),
            size=None if resource.kind is ResourceType.SECRET else len(resource.body),
        )
        for resource in resources
        if wanted.wants(kind := resource.kind.name.lower(), resource.name)
    )


def show_held(resources: Iterable[HeldResource], wanted: Filter) -> tuple[Shown, ...]:
    """Take over those of an Envoy's resources that are wanted."""
    return tuple(
        Shown(kind=item.kind, name=item.name, version=item.version, content=item.content, held=item)
        for item in resources
        if wanted.wants(item.kind, item.name)
    )


def render_resources(resources: Sequence[Shown], output: str) -> str:
    """Return resources in one of the forms of `--output`."""
    if output == "table":
        return _render_table(resources)
    described = [_describe(resource) for resource in resources]
    return render_json(described) if output == "json" else render_yaml(described)


def describe_held(held: HeldResource) -> dict[str, object]:
    """Return what an Envoy says of a resource besides its content."""
    refusal = held.refusal
    return {
        "state": held.state.value,
        "updated": held.updated,
        "refused": refusal and {"version": refusal.version, "at": refusal.at, "text": refusal.text},
    }


def _describe(resource: Shown) -> dict[str, object]:
    return {
        "type": resource.kind,
        "name": resource.name,
        "version": resource.version,
        **(describe_held(resource.held) if resource.held is not None else {}),
        "resource": dict(resource.content),
    }


def _render_table(resources: Sequence[Shown]) -> str:
    if any(resource.held is not None for resource in resources):
        rows = [
            (item.kind, item.name, item.version, item.held.state.value, item.held.updated, summarise(item))
            for item in resources
            if item.held is not None
        ]
        return render_table(("TYPE", "NAME", "VERSION", "STATE", "UPDATED", "SUMMARY"), rows)
    return render_table(
        ("TYPE", "NAME", "VERSION", "BYTES", "SUMMARY"),
        [
            (item.kind, item.name, item.version, "-" if item.size is None else str(item.size), summarise(item))
            for item in resources
        ],
    )


def summarise(resource: Shown) -> str:
    """Say in a few words what is in a resource. Whoever wrote it, this does not fail."""
    match resource.content:
        case {"filter_chains": list(chains)}:
            names = [str(chain.get("name", "-")) for chain in chains if isinstance(chain, dict)]
            return f"chains: {', '.join(names)}"
        case {"virtual_hosts": list(hosts)}:
            domains = [host.get("domains") for host in hosts if isinstance(host, dict)]
            return count_of(sum(len(item) for item in domains if isinstance(item, list)), "domain")
        case {"load_assignment": {"endpoints": list(endpoints)}} | {"endpoints": list(endpoints)}:
            return f"endpoints: {', '.join(_find_addresses(endpoints))}"
        case {"listener_filters": [{"typed_config": {"server_config": {"inline_dns_table": dict(table)}}}]}:
            answers = table.get("virtual_domains")
            return (
                f"answers for {count_of(sum(map(_is_answered, answers if isinstance(answers, list) else ())), 'name')}"
            )
        case {"type": str(discovery)}:
            return discovery.lower().replace("_", " ")
        case _:
            return ""


def _is_answered(domain: object) -> bool:
    match domain:
        case {"endpoint": {"address_list": _}}:
            return True
        case _:
            return False


def _find_addresses(rendered: object) -> Iterator[str]:
    match rendered:
        case {"address": str(address), "port_value": int(port)}:
            yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        case {"server_listener_name": str(listener)}:
            yield f"the listener {listener}"
        case dict():
            for value in rendered.values():
                yield from _find_addresses(value)
        case list():
            for item in rendered:
                yield from _find_addresses(item)
        case _:
            pass
