"""
The proxy variables of a process or of a pod's containers.

Clients disagree about which spelling wins and what stands in for what is missing (N16), so the dialect chooses and
the others are told. Nothing here reads an environment: text or a manifest is handed in. Invariant: a variable whose
value is not in the input makes nothing direct.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.importers.imported import NOTHING, Changes, Home
from xds.importers.no_proxy import Item, read_entries
from xds.importers.proxy_urls import read_url
from xds.importers.reading import Reader, join
from xds.importers.variables import Target, Variables, build_policy, choose_target
from xds.policy.findings import quote
from xds.policy.model import Dialect
from xds.policy.names import is_subdomain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.importers.imported import Imported, Wish
    from xds.importers.proxy_urls import ProxyUrl

_NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_OTHERS = ("ftp_proxy", "socks_proxy", "rsync_proxy", "grpc_proxy", "ws_proxy", "wss_proxy", "no_grpc_proxy")
_LINE = re.compile(r"\s*(?:export\s+|declare\s+-x\s+|set\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_JAVA = re.compile(r"-D(?:https?\.(?:proxyHost|proxyPort|nonProxyHosts)|socksProxyHost)=")
_TEMPLATES = (("spec",), ("spec", "template", "spec"), ("spec", "jobTemplate", "spec", "template", "spec"))
"""Where a pod, what makes pods, and a CronJob have the specification of a pod."""
_MADE_LABELS = ("pod-template-hash", "controller-revision-hash", "pod-template-generation")
"""Labels that a controller adds to its pods, and changes."""


@dataclass(frozen=True, slots=True)
class Variable:
    """The value of one variable and its place; `value` None: it is set, but not in the input."""

    value: str | None
    key: str
    line: int | None = None


Settings = dict[str, Variable]
"""The proxy variables by name, as they are spelled."""


def is_environment(text: str) -> bool:
    """Whether `text` is lines, or NUL-separated parts, of which one is a proxy variable."""
    return any(name.lower() in _NAMES for name, _, _ in _split(text))


def is_workload(document: object) -> bool:
    """Whether a decoded document is a pod, or makes pods."""
    return _find_pod(Reader(document, "", Changes(""))) is not None


def import_text(text: str, wish: Wish) -> Imported:
    """
    Return the policy of what `env` prints, or of `/proc/PID/environ`.

    Raises SourceError if no HTTP proxy is named.
    """
    changes = Changes(wish.source)
    found: Settings = {}
    for name, value, line in _split(text):
        _take(found, name, Variable(value, name, line), changes)
    return _build(found, {}, "", wish, changes)


def import_workload(document: object, wish: Wish, container: str = "") -> Imported:
    """
    Return the policy of the containers of a pod, or of what makes pods, for these pods.

    Raises SourceError if it is none, if it has no such container, or if no HTTP proxy is named.
    """
    changes = Changes(wish.source)
    root = Reader(document, "", changes)
    pod = _find_pod(root)
    if pod is None:
        raise SourceError(f"{wish.source} has no containers; give a Pod, or what makes pods, e.g. a Deployment")
    found = _read_containers(pod, container, wish, changes)
    metadata = root.child("metadata")
    labels = _labels_of(root)
    if not labels:
        message = "the pods have no labels, so that the policy is for every pod in its scope"
        changes.changed("metadata.labels", message, "add `selector` in the long form, or give the pods a label")
    selector = {"podLabels": {"matchLabels": labels}} if labels else {}
    namespace = metadata.text("namespace")
    if namespace and not is_subdomain(namespace):
        changes.lost("metadata.namespace", "this is no name of a namespace, so left out", "correct it")
        namespace = ""
    if namespace and wish.home is Home.CLUSTER:
        message = f"the pods are in the namespace {quote(namespace)}, and where the ConfigMap stands says whose it is"
        changes.note("metadata.namespace", message, f"import with --namespace {namespace}")
    return _build(found, selector, namespace, wish, changes)


def _split(text: str) -> list[tuple[str, str, int]]:
    parts = text.split("\0") if "\0" in text else text.splitlines()
    found = []
    for number, part in enumerate(parts, 1):
        match = _LINE.fullmatch(part)
        if match:
            value = match[2] if "\0" in text else match[2].strip()
            unquoted = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
            found.append((match[1], unquoted, number))
    return found


def _take(found: Settings, name: str, variable: Variable, changes: Changes) -> None:
    """Keep a proxy variable; tell of what is like one."""
    if name.lower() in _NAMES:
        if variable.value != "":
            found[name] = variable
    elif name.lower() in _OTHERS:
        changes.lost(variable.key, f"{name} is left out: a policy decides by destination", NOTHING, variable.line)
    elif variable.value is not None and _JAVA.search(variable.value):
        message = f"{name} has proxy settings of Java in it, which are not read"
        changes.lost(variable.key, message, "compare its hosts with `noProxy`, and remove them", variable.line)


def _find_pod(root: Reader) -> Reader | None:
    for path in _TEMPLATES:
        reader = root
        for key in path:
            if not isinstance(reader.raw(key), dict):
                break
            reader = reader.child(key)
        else:
            if isinstance(reader.raw("containers"), list):
                return reader
    return None


def _labels_of(root: Reader) -> Mapping[str, str]:
    """Return labels that tell these pods from others."""
    spec = root.child("spec")
    if isinstance(spec.raw("containers"), list):
        labels = root.child("metadata").child("labels").labels()
    else:
        wanted = spec.child("selector").child("matchLabels").labels() if isinstance(spec.raw("selector"), dict) else {}
        template = (spec.child("jobTemplate").child("spec") if spec.has("jobTemplate") else spec).child("template")
        labels = wanted or template.child("metadata").child("labels").labels()
    return {key: value for key, value in sorted(labels.items()) if key not in _MADE_LABELS}


def _read_containers(pod: Reader, wanted: str, wish: Wish, changes: Changes) -> Settings:
    """Return the variables of the first container that has some, and tell of those that have others."""
    containers = [*pod.children("initContainers"), *pod.children("containers")]
    names = [item.text("name") for item in containers]
    if wanted and wanted not in names:
        raise SourceError(f"{wish.source} has no container {quote(wanted)}; it has: {', '.join(map(quote, names))}")
    chosen: Settings = {}
    of = ""
    # Those that run all the time come first.
    for reader in sorted(containers, key=lambda item: "initContainers" in item.path):
        name = reader.text("name")
        if wanted and name != wanted:
            continue
        found = _read_container(reader, changes)
        if not chosen:
            chosen, of = found, name
        elif found and _values(found) != _values(chosen):
            message = f"the container {quote(name)} has other proxy settings than {quote(of)}, whose are taken"
            changes.lost(reader.path, message, "a policy is for whole pods: import each with --container and compare")
    return chosen


def _read_container(reader: Reader, changes: Changes) -> Settings:
    found: Settings = {}
    for item in reader.children("env"):
        name = item.text("name")
        variable = Variable(None if item.raw("valueFrom") is not None else item.text("value"), join(item.path, "value"))
        _take(found, name, variable, changes)
    if reader.has("envFrom"):
        message = "variables that come from ConfigMaps and Secrets are not in the manifest, so not read"
        hint = "import the process's own: kubectl exec POD -- env | xds import env -"
        changes.lost(join(reader.path, "envFrom"), message, hint)
    return found


def _values(found: Settings) -> dict[str, str | None]:
    return {name: variable.value for name, variable in found.items()}


def _build(found: Settings, selector: Mapping[str, object], namespace: str, wish: Wish, changes: Changes) -> Imported:
    dialect = Dialect(wish.dialect)
    chosen = {name: _choose(name, found, dialect, changes) for name in _NAMES}
    _tell_upper_case(found, changes)
    read = {name: _read(chosen[name], changes) for name in ("http_proxy", "https_proxy")}
    others = [name for name in read if chosen[name] is None]
    everything = _read_everything(chosen["all_proxy"], others, changes)
    for name in others:
        if everything == "direct":
            what = "plain HTTP" if name == "http_proxy" else "TLS, and all other TCP,"
            message = (
                f"{name} is not set, and no other variable is sure to stand in: {what} goes past the proxy, as it did"
            )
            changes.changed(name, message, "write the proxy's URL in place of `direct` if that is not meant")
    items = chosen["no_proxy"]
    entries: tuple[str, ...] = ()
    if items is not None and items.value is None:
        changes.lost(items.key, "its value is not in the input: nothing bypasses the proxy", "add the list", items.line)
    elif items is not None and items.value is not None:
        entries = read_entries([Item(items.value, items.key, items.line)], dialect, changes)
    return build_policy(
        Variables(
            http=read["http_proxy"] or everything,
            https=read["https_proxy"] or everything,
            no_proxy=entries,
            namespace=namespace,
            selector=selector,
        ),
        wish,
        changes,
    )


def _choose(name: str, found: Settings, dialect: Dialect, changes: Changes) -> Variable | None:
    """Return the variable in the spelling that the dialect's clients look at first."""
    upper, lower = found.get(name.upper()), found.get(name)
    spellings = [found[key] for key in found if key.lower() == name]
    if not spellings:
        return None
    if upper is None or lower is None:
        return upper or lower or spellings[0]
    if upper.value != lower.value:
        taken = name.upper() if dialect is Dialect.GO else name
        message = f"{name.upper()} and {name} differ: {taken} is taken; Go looks at the upper case first, others do not"
        changes.changed(lower.key, message, "import with the --dialect of the clients that are meant", lower.line)
    return upper if dialect is Dialect.GO else lower


def _tell_upper_case(found: Settings, changes: Changes) -> None:
    if "HTTP_PROXY" in found and "http_proxy" not in found:
        message = "curl does not look at HTTP_PROXY in upper case, so its plain HTTP went past the proxy"
        changes.changed(found["HTTP_PROXY"].key, message, NOTHING, found["HTTP_PROXY"].line)


def _read(variable: Variable | None, changes: Changes) -> Target | None:
    if variable is None:
        return None
    return choose_target(_read_url(variable, changes), is_given=True, otherwise="deny")


def _read_url(variable: Variable, changes: Changes) -> ProxyUrl | None:
    if variable.value is None:
        message = "its value is not in the input, so what it decides is refused"
        changes.lost(variable.key, message, "write the proxy's URL in place of `deny`", variable.line)
        return None
    return read_url(variable.value, variable.key, changes, variable.line)


def _read_everything(variable: Variable | None, names: list[str], changes: Changes) -> Target:
    """Return what stands in for variables that are not set."""
    if variable is None:
        return "direct"
    if not names:
        message = "ALL_PROXY is left out, as both other variables are set"
        changes.note(variable.key, message, NOTHING, variable.line)
        return "direct"
    url = _read_url(variable, changes)
    if url is not None:
        message = (
            f"ALL_PROXY stands in for {' and '.join(names)}, as for curl; Go and Python's urllib do not look at it"
        )
        changes.changed(variable.key, message, "write `direct` where that is not meant", variable.line)
    return url or "deny"
