"""
The variables of an application: of proxies, and of what it trusts.

Nothing here says what the values are. Invariant: what an application says itself stays as it is, and whoever injects
is told so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.injection.names import TRUST_DIRECTORY, TRUST_VOLUME
from xds.injection.pod import name_of, read_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.injection.environment import Variables
    from xds.injection.pod import Object

_OF_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")
"""What sends an application to a proxy of its own choice."""

_JAVA = "JAVA_TOOL_OPTIONS"


@dataclass(frozen=True, slots=True)
class Told:
    """A container with what it was told, and what it says itself."""

    container: Object
    warnings: tuple[str, ...] = ()


def add_proxies(container: Object, variables: Variables) -> Told:
    """Add the variables of proxies. Upper and lower case are one: clients differ in which they read first."""
    own = _own(container)
    wanted = variables.items()
    kept = {
        name.upper()
        for name, value in wanted
        for other in (name.upper(), name.lower())
        if other in own and own[other].get("value") != value
    }
    added = [{"name": name, "value": value} for name, value in wanted if name.upper() not in kept and name not in own]
    warnings = list(_tell(container, sorted(kept)))
    if added and read_objects(container, "envFrom"):
        warnings.append(
            f"the container {name_of(container)} takes variables from elsewhere (envFrom): those of proxies among them "
            "no longer count"
        )
    return Told(_with(container, "env", added), tuple(warnings))


def warn_of_proxies(container: Object) -> Told:
    """Change nothing, and say which proxy a captured container goes to by itself, whatever the policy says."""
    own = _own(container)
    found = [name for name in _OF_PROXIES if name in own and own[name].get("value") != ""]
    warning = (
        f"the container {name_of(container)} sets {', '.join(found)} itself: clients that heed it go to that proxy, "
        "whatever the policy says; remove it"
    )
    return Told(container, (warning,) if found else ())


def add_trust(container: Object) -> Told:
    """Add the volume with what is trusted, and the variables that make runtimes read it."""
    own = _own(container)
    wanted = [item for item in _render_trust().items() if item[0] != _JAVA]
    kept = [name for name, value in wanted if name in own and own[name].get("value") != value]
    added: list[Object] = [{"name": name, "value": value} for name, value in wanted if name not in own]
    mounted = any(mount.get("name") == TRUST_VOLUME for mount in read_objects(container, "volumeMounts"))
    mount = {"name": TRUST_VOLUME, "mountPath": TRUST_DIRECTORY, "readOnly": True}
    told = _add_java(_with(container, "env", added))
    container = _with(told.container, "volumeMounts", [] if mounted else [mount])
    return Told(container, (*_tell(container, kept), *told.warnings))


def _add_java(container: Object) -> Told:
    """Append to the options of Java, of which there is one variable for all."""
    own = _own(container).get(_JAVA)
    given = None if own is None else own.get("value")
    if own is not None and not isinstance(given, str):
        return Told(container, tuple(_tell(container, [_JAVA])))
    options = _render_trust(given if isinstance(given, str) else None)[_JAVA]
    if options == given:
        return Told(container, () if TRUST_DIRECTORY in options else tuple(_tell(container, [_JAVA])))
    if own is None:
        return Told(_with(container, "env", [{"name": _JAVA, "value": options}]))
    longer = {**own, "value": options}
    variables = read_objects(container, "env")
    return Told({**container, "env": [longer if variable is own else variable for variable in variables]})


def _render_trust(java_options: str | None = None) -> Mapping[str, str]:
    from xds.trust import render_variables  # noqa: PLC0415  # it reads certificates, for which few pods ask

    return render_variables(TRUST_DIRECTORY, java_options)


def _own(container: Object) -> dict[str, Object]:
    """Return the variables of a container; of several of one name the last is in force."""
    return {name_of(variable): variable for variable in read_objects(container, "env")}


def _with(container: Object, key: str, items: Sequence[Object]) -> Object:
    return {**container, key: [*read_objects(container, key), *items]} if items else container


def _tell(container: Object, kept: Iterable[str]) -> Iterable[str]:
    for name in kept:
        yield f"the container {name_of(container)} sets {name} itself, which stays as it is"
