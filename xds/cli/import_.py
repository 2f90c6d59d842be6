"""`xds import`: print the policy that foreign configuration amounts to, and tell what changed in meaning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.options import render_epilog
from xds.cli.output import count_of, render_json, render_yaml
from xds.errors import SourceError, clean_text, redact_logins
from xds.importers.imported import Change, Home, Imported, Weight, Wish
from xds.policy.config_maps import LABEL
from xds.policy.findings import quote
from xds.policy.model import Dialect
from xds.policy.names import is_subdomain, name_of_source

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = {
    "aks": "AKS httpProxyConfig",
    "openshift": "OpenShift Proxy",
    "env": "proxy variables",
    "istio": "Istio tunnels",
    "pac": "PAC files",
}
"""The sources, as the first word of the command says them, and what they are."""

_EXACT = ("istio", "pac")
"""Those whose names mean what they say."""

_STDIN = "-"
_MOST_BYTES = 4 * 1024 * 1024
_MOST_REASONS = 3
_NO_POD = "--container needs a FILE with a pod, or with what makes pods"
_OWN_GROUP = "egress-xds/"
_SHORT = frozenset({"httpProxy", "httpsProxy"})
_SHORT_ONLY = frozenset({"trustedCA", "noProxyVerify", "dialect", "mode", "explicit"})
"""Keys of the short form that AKS' configuration does not have."""
_COLOURS = {Weight.NOTE: "cyan", Weight.CHANGED: "yellow", Weight.LOST: "red"}


@click.command(
    name="import",
    epilog=render_epilog(
        "xds import aks proxy.json > corp.yaml",
        "kubectl exec POD -- env | xds import env -",
        "xds import pac proxy.pac --configmap | xds validate -",
        "xds diff -f corp.yaml DIR",
        codes="0 if nothing changed in meaning, 1 if something did, 2 for input that can't be used.",
    ),
)
@click.argument("words", metavar="[aks|openshift|env|istio|pac] FILE…", nargs=-1)
@click.option("--name", help="The policy's name; that of the file if left out.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", help="Form of the output.")
@click.option(
    "--dialect",
    type=click.Choice([item.value for item in Dialect]),
    help="The clients whose reading of the variables is meant; go if left out.",
)
@click.option("--configmap", is_flag=True, help="Wrap the policy into a ConfigMap with the label of policies.")
@click.option("--namespace", help="With --configmap: the namespace that it stands in.")
@click.option("--pid", type=click.IntRange(min=1), help="With env: read the variables of this process.")
@click.option("--container", default="", help="With env and a pod: read those of this container.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    words: tuple[str, ...],
    name: str | None,
    output: str,
    dialect: str | None,
    configmap: bool,
    namespace: str | None,
    pid: int | None,
    container: str,
) -> None:
    """
    Print the policy that other configuration amounts to; `-` is stdin.

    That is AKS' httpProxyConfig (JSON), OpenShift's Proxy object, the proxy variables of a pod or process, Istio's
    tunnels, or a PAC file; which of them is found out if no word says it. What changed in meaning is told on
    stderr, or in the JSON. No login is ever printed: the policy refers to where it should be.
    """
    kind, files = _split_words(words)
    if pid is not None:
        kind, files = _check_pid(kind, files, pid)
    if not files:
        raise click.UsageError("no FILE is given; `-` reads stdin. See: xds import --help")
    if namespace is not None and not configmap:
        raise click.UsageError("--namespace needs --configmap")
    _check_names(name, namespace)
    texts = [(file, _read(file)) for file in files]
    kind = kind or _guess(texts)
    _check_options(kind, dialect, container)
    wish = Wish(
        source=", ".join("stdin" if file == _STDIN else file for file in files),
        name=name or _name_of(files[0], kind),
        dialect=dialect or Dialect.GO.value,
        home=Home.CLUSTER if configmap else Home.FILES,
    )
    imported = _check(_import(kind, texts, wish, container), wish)
    document = _wrap(imported, wish, namespace) if configmap else dict(imported.policy)
    if output == "json":
        click.echo(render_json(_describe(kind, wish, document, imported.changes)))
    else:
        _show(kind, document, imported.changes)
    click.echo(_summarise(imported), err=True)
    ctx.exit(0 if imported.is_same else 1)


def _check_names(*names: str | None) -> None:
    """Raise click.UsageError for one that no object can have."""
    for name in names:
        if name is not None and not is_subdomain(name):
            raise click.UsageError(
                f"{quote(name)} is no name for an object: use lower-case letters, digits, `-` and `.`"
            )


def _check_options(kind: str, dialect: str | None, container: str) -> None:
    """Raise click.UsageError for an option that another kind has."""
    if dialect is not None and kind in _EXACT:
        raise click.UsageError(f"--dialect is for lists of NO_PROXY, and {KINDS[kind]} have none")
    if container and kind != "env":
        raise click.UsageError(_NO_POD)


def _show(kind: str, document: dict[str, object], changes: Sequence[Change]) -> None:
    click.echo(f"# Made by xds import {kind}, which told {_count(changes)}.\n{_render(document)}")
    for change in changes:
        click.echo(_style(change), err=True)


def _split_words(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if words and words[0] in KINDS:
        return words[0], tuple(words[1:])
    return "", tuple(words)


def _check_pid(kind: str, files: Sequence[str], pid: int) -> tuple[str, tuple[str, ...]]:
    if kind not in ("", "env") or files:
        raise click.UsageError("--pid reads the variables of a process: xds import env --pid PID, without a FILE")
    return "env", (f"/proc/{pid}/environ",)


def _read(file: str) -> str:
    """Return the text of a file, or of stdin."""
    try:
        if file == _STDIN:
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        hint = "see that the process runs, and that you may read it" if file.startswith("/proc/") else "see: ls -l"
        raise SourceError(f"{file} can't be read: {error.strerror}; {hint}") from error
    if len(data) > _MOST_BYTES:
        raise SourceError(f"{file} is larger than {_MOST_BYTES >> 20} MiB; give the configuration only")
    return data.decode("utf-8", errors="replace")


def _decode(file: str, text: str) -> list[object]:
    """Return the documents of JSON or YAML, those of lists one by one."""
    from xds.importers.decoding import decode  # noqa: PLC0415  # PAC files and variables need none

    found: list[object] = []
    for document in decode(text, file):
        items = document.get("items") if isinstance(document, dict) and "kind" in document else None
        found += items if isinstance(items, list) else [document]
    return [document for document in found if document is not None]


def _guess(texts: Sequence[tuple[str, str]]) -> str:
    """Return the kind of what was read."""
    from xds.importers import aks, environment, istio, openshift  # noqa: PLC0415  # only if no word says the kind

    file, text = texts[0]
    if "FindProxyForURL" in text:
        return "pac"
    try:
        documents = _decode(file, text)
    except SourceError:
        documents = []
    _check_foreign(file, documents)
    for document in documents:
        for kind, fits in (
            ("openshift", openshift.is_openshift),
            ("istio", istio.is_istio),
            ("env", environment.is_workload),
            ("aks", aks.is_aks),
        ):
            if fits(document):
                return kind
    if environment.is_environment(text):
        return "env"
    raise SourceError(
        f"{file} is none of: {', '.join(KINDS.values())}; if it is, name its kind: xds import {'|'.join(KINDS)} FILE"
    )


def _name_of(file: str, kind: str) -> str:
    if file == _STDIN or file.startswith("/proc/"):
        return kind
    name = name_of_source(file)
    return name if is_subdomain(name) else kind


def _import(kind: str, texts: Sequence[tuple[str, str]], wish: Wish, container: str) -> Imported:
    if kind == "istio":
        from xds.importers.istio import import_istio  # noqa: PLC0415  # one kind per run

        return import_istio([document for file, text in texts for document in _decode(file, text)], wish)
    if len(texts) > 1:
        raise click.UsageError(f"{KINDS[kind]}: only one FILE can be imported at once")
    file, text = texts[0]
    if kind == "pac":
        from xds.importers.pac import import_pac  # noqa: PLC0415  # needs the parser of an extra

        return _check_some(import_pac(text, wish), wish)
    if kind == "env":
        return _import_environment(file, text, wish, container)
    documents = _decode(file, text)
    document = documents[0] if documents else None
    _check_foreign(file, documents)
    from xds.importers.openshift import import_openshift, is_openshift  # noqa: PLC0415  # as above

    if kind == "aks":
        from xds.importers.aks import import_aks  # noqa: PLC0415  # as above

        if is_openshift(document):
            raise SourceError(f"{file} looks like OpenShift's Proxy; try: xds import openshift {file}")
        return import_aks(document, wish)
    return import_openshift(next(filter(is_openshift, documents), document), wish)


def _check_foreign(file: str, documents: Sequence[object]) -> None:
    """Raise SourceError if one of `documents` is a policy, from which an import would drop what it does not know."""
    for document in documents:
        if not isinstance(document, dict):
            continue
        is_long = str(document.get("apiVersion", "")).startswith(_OWN_GROUP)
        is_short = "kind" not in document and not _SHORT_ONLY.isdisjoint(document) and not _SHORT.isdisjoint(document)
        if is_long or is_short:
            raise SourceError(f"{file} is a policy already; see: xds validate {file}")


def _check_some(imported: Imported, wish: Wish) -> Imported:
    """Raise SourceError if all that an import came to is to refuse everything."""
    spec = imported.policy["spec"]
    assert isinstance(spec, dict)
    if spec.get("proxies") or spec.get("rules") or spec["default"] != {"action": "deny"}:
        return imported
    lost = [change for change in imported.changes if change.weight is Weight.LOST]
    told = "; ".join(change.message for change in lost[:_MOST_REASONS])
    raise SourceError(
        f"nothing of {wish.source} could be compiled, so that everything would be refused"
        f"{f' ({told})' if told else ''}; write the policy by hand, or import another file"
    )


def _import_environment(file: str, text: str, wish: Wish, container: str) -> Imported:
    from xds.importers import environment  # noqa: PLC0415  # as above

    if not environment.is_environment(text) or "apiVersion" in text:
        try:
            workload = next(filter(environment.is_workload, _decode(file, text)), None)
        except SourceError:
            workload = None
        if workload is not None:
            return environment.import_workload(workload, wish, container)
    if container:
        raise click.UsageError(_NO_POD)
    return environment.import_text(text, wish)


def _check(imported: Imported, wish: Wish) -> Imported:
    """Add what the policy's own parser says against it: nobody should find that out later."""
    from xds.policy.parse import Document, parse_document  # noqa: PLC0415  # its models take a while to import

    secrets = wish.name if wish.home is Home.CLUSTER else None
    found = parse_document(Document(wish.source, render_json(imported.policy), secrets=secrets)).diagnostics
    errors = tuple(
        Change(Weight.LOST, finding.where, f"the policy is not good: {finding.code}: {finding.message}", finding.hint)
        for finding in found
        if finding.is_error
    )
    return Imported(imported.policy, (*imported.changes, *errors))


def _wrap(imported: Imported, wish: Wish, namespace: str | None) -> dict[str, object]:
    metadata: dict[str, object] = {"name": wish.name}
    if namespace is not None:
        metadata["namespace"] = namespace
    metadata["labels"] = {LABEL: "true"}
    data = {f"{wish.name}.yaml": f"{render_yaml(imported.policy)}\n"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _render(document: dict[str, object]) -> str:
    """Return YAML; the document in a ConfigMap stands there as it would in a file."""
    data = document.get("data")
    if not isinstance(data, dict):
        return render_yaml(document)
    head = render_yaml({key: value for key, value in document.items() if key != "data"})
    lines = [f"{head}\ndata:"]
    for key, text in data.items():
        lines.append(f"  {key}: |")
        lines += [f"    {line}".rstrip() for line in text.splitlines()]
    return "\n".join(lines)


def _describe(kind: str, wish: Wish, document: object, changes: Sequence[Change]) -> dict[str, object]:
    return {
        "kind": kind,
        "source": wish.source,
        "name": wish.name,
        "document": document,
        **{weight.value: sum(change.weight is weight for change in changes) for weight in Weight},
        "changes": [
            {
                "weight": change.weight.value,
                "source": change.where.source,
                "line": change.where.line,
                "key": change.where.key,
                "message": change.message,
                "hint": change.hint,
            }
            for change in changes
        ],
    }


def _style(change: Change) -> str:
    weight = click.style(change.weight.value, fg=_COLOURS[change.weight], bold=True)
    place = click.style(clean_text(redact_logins(str(change.where))), bold=True)
    return f"{place}: {weight}: {clean_text(f'{change.message}; {change.hint}')}"


def _count(changes: Sequence[Change]) -> str:
    """Return e.g. `2 changes of meaning, 1 loss and 3 notes`."""
    lost, changed, notes = (
        sum(change.weight is weight for change in changes) for weight in (Weight.LOST, Weight.CHANGED, Weight.NOTE)
    )
    changes_of = f"{changed} change{'' if changed == 1 else 's'} of meaning"
    return f"{changes_of}, {lost} loss{'' if lost == 1 else 'es'} and {count_of(notes, 'note')}"


def _summarise(imported: Imported) -> str:
    # What a policy refers to is for the server to read, and hardly on this machine.
    option = " --no-files" if _refers_to_file(imported.policy) else ""
    then = f"xds validate{option} FILE, and: xds diff{option} -f FILE DIR"
    return f"{_count(imported.changes)}. Save the output, then: {then}"


def _refers_to_file(value: object) -> bool:
    if isinstance(value, Mapping):
        return isinstance(value.get("file"), str) or any(map(_refers_to_file, value.values()))
    return isinstance(value, list | tuple) and any(map(_refers_to_file, value))
