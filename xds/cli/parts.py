"""
The parts of a support bundle, each collected for itself: one that can't be had costs the others nothing.

Invariant: texts that somebody wrote and what others rendered are redacted here, and what is learnt to be secret on the
way is left out by the bundle.
"""

from __future__ import annotations

import asyncio
import json
import platform
import re
import shutil
import subprocess
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import distributions
from typing import TYPE_CHECKING

from xds.capture import TABLES, Family, find_nftables, table_words
from xds.cli.bundle import numbered
from xds.cli.fleet_text import describe_fleet
from xds.cli.output import describe_diagnostic
from xds.cli.resources import Filter as Wanted
from xds.cli.resources import render_resources, show_compiled
from xds.cli.scrub import redact_document, redact_policy, redact_values
from xds.cli.world import choose_place, open_world
from xds.errors import EgressXdsError, SettingsError, UnreachableError
from xds.facts import FileContent
from xds.inspection.client_status import StatusReader
from xds.inspection.envoy_admin import parse_place, read_bounded
from xds.inspection.fleet import Filter, put_together
from xds.inspection.pages import MAX_BYTES, MAX_DUMP, fetch_page
from xds.policy.model import HeldPolicy, Policy
from xds.policy.selection import Candidates
from xds.render import redact_content, redact_text
from xds.resources import ResourceType
from xds.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from xds.bootstrap import Authority, UnixPath
    from xds.cli.bundle import Bundle
    from xds.cli.collect import Request
    from xds.cli.world import OpenWorld
    from xds.facts import Facts
    from xds.judge import Judgement
    from xds.kubernetes.control_planes import ControlPlanes
    from xds.policy.model import Workload

_OK = 200
_PAGES = ("/metrics", "/readyz", "/healthz")
_OF_ENVOY = {
    "server_info.json": "/server_info",
    "config_dump.json": "/config_dump?include_eds",
    "clusters.json": "/clusters?format=json",
    "listeners.json": "/listeners?format=json",
    "stats.txt": "/stats?usedonly",
}
_SYSTEM_PATH = "/usr/sbin:/sbin"
"""Where programs of the system are that are not on everybody's PATH."""
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_JSON_NAME = re.compile(r"[a-z][A-Za-z0-9]*")


_UNFORESEEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What a mistake in this program comes to as a rule; RecursionError is one of RuntimeError."""


async def collect(request: Request, bundle: Bundle) -> None:
    """Collect all that `request` asks for."""
    with _part("versions", bundle):
        bundle.add_json("versions.json", _describe_versions())
    with _part("settings", bundle):
        bundle.add_json("settings-of-this-command.json", _describe_settings(request.settings))
    if request.paths or request.settings.kubernetes:
        with _part("policies", bundle):
            await _collect_policies(request, bundle)
    await _collect_replicas(request, bundle)
    if request.captures:
        with _part("capture", bundle):
            _collect_capture(request, bundle)
    for text, name in numbered(list(request.envoys)):
        with _part(f"envoys/{name}", bundle):
            _collect_envoy(text, f"envoys/{name}", request, bundle)
    for path, (shown, name) in zip(request.dumps, numbered(list(map(str, request.dumps))), strict=True):
        with _part(shown, bundle):
            _collect_dump(path, shown, f"dumps/{name}", bundle)


@contextmanager
def _part(name: str, bundle: Bundle) -> Iterator[None]:
    """Note what keeps a part from being collected, also what nobody thought of: it costs the other parts nothing."""
    try:
        yield
    except EgressXdsError as error:
        bundle.miss(name, error)
    except _UNFORESEEN as error:
        # Its text may repeat anything.
        bundle.miss(name, f"it can't be collected ({type(error).__name__}); this is a mistake in this program")


# --------------------------------------------------------------------------------------------- this machine


def _describe_versions() -> dict[str, object]:
    known = {item.metadata["Name"].lower(): item.version for item in distributions() if item.metadata["Name"]}
    return {
        "egress-xds": known.get("egress-xds"),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "distributions": dict(sorted(known.items())),
    }


def _describe_settings(settings: Settings) -> list[dict[str, object]]:
    """Return what is in effect for this command, not for a server: its flags, else variables, else defaults."""
    usual = Settings()
    described = []
    for option in OPTIONS:
        value = getattr(settings, option.field)
        described.append(
            {
                "flag": option.flag,
                "variable": option.variable,
                "value": redact_values(_plain(value)),
                "isDefault": value == getattr(usual, option.field),
            }
        )
    return described


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _collect_capture(request: Request, bundle: Bundle) -> None:
    """Keep the kernel's rules of this network namespace; they are read and not changed."""
    for family in Family:
        for table in TABLES:
            try:
                bundle.add(f"capture/{family.value}-{table}.txt", _save_rules(family, table, request.within))
            except (OSError, subprocess.SubprocessError) as error:
                bundle.miss(f"capture/{family.value}-{table}", _explain_failure(error))
        # Where there is no nft, nobody captured with it; a family without a table of ours is the usual case.
        if nft := _find_program("nft"):
            try:
                bundle.add(f"capture/{family.value}-nftables.txt", _save_nftables(nft, family, request.within))
            except (OSError, subprocess.SubprocessError) as error:
                bundle.miss(f"capture/{family.value}-nftables", _explain_failure(error))


def _save_rules(family: Family, table: str, within: float) -> str:
    program = _find_program(family.save_command)
    if program is None:
        raise FileNotFoundError(0, f"{family.save_command} is not installed")
    return _run([program, "-t", table], within)


def _save_nftables(nft: str, family: Family, within: float) -> str:
    """Return our table of a family; empty if there is none."""
    if family not in find_nftables(_run([nft, "list", "tables"], within)):
        return ""
    return _run([nft, "list", "table", *table_words(family)], within)


def _find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)


def _run(command: list[str], within: float) -> str:
    return subprocess.run(  # noqa: S603  # fixed words, and a program that was found
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=within, check=True
    ).stdout


def _explain_failure(error: OSError | subprocess.SubprocessError) -> str:
    match error:
        case subprocess.CalledProcessError(stderr=str(complaint)) if complaint.strip():
            return complaint.strip().splitlines()[0]
        case OSError(strerror=str(reason)):
            return reason
        case _:
            return type(error).__name__


# ------------------------------------------------------------------------------------------------- policies


async def _collect_policies(request: Request, bundle: Bundle) -> None:
    place = choose_place(
        request.paths,
        request.settings,
        resolves=request.resolves,
        reads_files=request.reads_files,
        piped=request.piped,
    )
    async with open_world(place) as world:
        judgement, facts = await world.judge()
        _learn(facts, bundle)
        _add_world(world, judgement, bundle)


def _learn(facts: Facts, bundle: Bundle) -> None:
    """Take what is in the files of policies for secrets, unless it is a certificate, which everybody may see."""
    for file in facts.files.values():
        if not isinstance(file, FileContent):
            continue
        if "PRIVATE KEY" in file.text:
            bundle.scrubber.learn_key(file.text)
        elif "-----BEGIN CERTIFICATE-----" not in file.text:
            bundle.scrubber.learn_login(file.text)


def _add_world(world: OpenWorld, judgement: Judgement, bundle: Bundle) -> None:
    sources = sorted(document.source for document in world.read.documents)
    texts = {document.source: document.text for document in world.read.documents}
    names = dict(numbered(sources))
    for source, name in names.items():
        bundle.add(f"policies/{name}", redact_policy(texts[source]))
    for finding in world.read.unreadable:
        bundle.miss(finding.where.source, f"{finding.message}; {finding.hint}")
    described = {
        "documents": [
            {
                "source": state.source,
                "member": f"policies/{names[state.source]}" if state.source in names else None,
                "good": state.is_good,
                "policies": ["/".join(filter(None, key)) for key in state.in_force],
            }
            for state in judgement.documents
        ],
        "diagnostics": [describe_diagnostic(finding) for finding in judgement.diagnostics],
    }
    bundle.add_json("findings.json", redact_values(described))
    snapshots = {"/".join(filter(None, key)): served.snapshot for key, served in judgement.served.items()}
    for policy, name in numbered(sorted(snapshots)):
        found = [item for kind in ResourceType for item in snapshots[policy].of(kind).values()]
        bundle.add(f"resources/{name}.yaml", render_resources(show_compiled(found, Wanted()), "yaml") + "\n")
    if world.place.is_cluster:
        bundle.add_json("pods.json", _describe_pods(world, judgement))


def _describe_pods(world: OpenWorld, judgement: Judgement) -> list[dict[str, object]]:
    candidates = Candidates(judgement.world.candidates)
    return [
        {
            "node": node,
            "serviceAccount": pod.workload.service_account,
            "labels": dict(pod.workload.labels),
            "namespaceLabels": dict(pod.workload.namespace_labels),
            "hasSidecar": node in world.injected,
            **_describe_selected(candidates, pod.workload),
        }
        for node, pod in sorted(world.pods.items())
    ]


def _describe_selected(candidates: Candidates, workload: Workload) -> dict[str, object]:
    match candidates.select(workload):
        case None:
            return {"told": "refuse-all", "policy": None}
        case HeldPolicy(where=where):
            return {"told": "nothing", "policy": None, "heldBy": str(where)}
        case Policy(namespace=namespace, name=name):
            return {"told": "policy", "policy": "/".join(filter(None, (namespace, name)))}


# ------------------------------------------------------------------------------------------------- replicas


async def _collect_replicas(request: Request, bundle: Bundle) -> None:
    for part, collect_part in (("status", _collect_status), ("metrics", _collect_pages)):
        with _part(part, bundle):
            await collect_part(request, bundle)


async def _collect_status(request: Request, bundle: Bundle) -> None:
    async with _replicas(request, request.admins, request.admin_port, bundle) as (found, planes):
        async with StatusReader() as reader:
            answers = await reader.ask(found, within=request.within)
        fleet = put_together(answers, await _expect(planes, bundle), Filter())
    for problem in fleet.problems:
        bundle.miss("status", problem)
    bundle.add_json("status.json", redact_values(describe_fleet(fleet, bundle.taken)))


async def _collect_pages(request: Request, bundle: Bundle) -> None:
    async with _replicas(request, request.pages, request.page_port, bundle) as (found, planes):
        for replica, name in numbered(sorted(found)):
            for page in _PAGES:
                try:
                    bundle.add(f"replicas/{name}{page}.txt", await _fetch(found[replica], page, request.within))
                except EgressXdsError as error:
                    reason = "" if planes is None else planes.problem_of(replica)
                    bundle.miss(f"{replica}{page}", reason or error)


@asynccontextmanager
async def _replicas(
    request: Request, addresses: tuple[str, ...], port: int, bundle: Bundle
) -> AsyncIterator[tuple[Mapping[str, str], ControlPlanes | None]]:
    """Open the way to the replicas; yield their addresses by name, and who knows the cluster."""
    settings = request.settings
    if not settings.kubernetes:
        yield {address: address for address in addresses}, None
        return
    try:
        from xds.kubernetes.connection import connect  # noqa: PLC0415  # an optional dependency, and a heavy one
        from xds.kubernetes.control_planes import ControlPlanes  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--kubernetes needs the package {error.name}; install it: pip install '.[kubernetes]'"
        ) from error

    api = await connect(settings.kubeconfig, settings.context)
    try:
        async with ControlPlanes(api, settings.namespace or api.namespace, port) as planes:
            found = await planes.find()
            for name, problem in planes.problems.items():
                bundle.miss(f"replica {name}", problem)
            yield found, planes
    finally:
        await api.close()


async def _expect(planes: ControlPlanes | None, bundle: Bundle) -> frozenset[str] | None:
    """Return the sidecars that there should be; None: that is not known."""
    try:
        return None if planes is None else await planes.expected()
    except UnreachableError as error:
        bundle.miss("sidecars that should be there", error)
        return None


async def _fetch(address: str, page: str, within: float) -> str:
    """Return a page; of a probe that fails, too, for it says why. Raises UnreachableError."""
    status, body = await asyncio.to_thread(fetch_page, parse_place(address), page, within=within)
    text = redact_document(body.decode(errors="replace"))
    return text if status == _OK else f"status {status}\n{text}"


# --------------------------------------------------------------------------------------------------- Envoys


def _collect_envoy(text: str, name: str, request: Request, bundle: Bundle) -> None:
    try:
        place = parse_place(text)
    except EgressXdsError as error:
        bundle.miss("envoy", error)
        return
    problems: dict[str, str] = {}
    for member, target in _OF_ENVOY.items():
        try:
            body = _ask(place, target, request.within)
            bundle.add(f"{name}/{member}", _redact_answer(body, member))
        except (EgressXdsError, ValueError) as error:
            problems[f"{name}/{member}"] = str(error)
    if len(problems) == len(_OF_ENVOY):
        problems = {name: f"none of an Envoy's pages was had: {next(iter(problems.values()))}"}
    for part, problem in problems.items():
        bundle.miss(part, problem)


def _ask(place: Authority | UnixPath, target: str, within: float) -> bytes:
    most = MAX_DUMP if target == _OF_ENVOY["config_dump.json"] else MAX_BYTES
    status, body = fetch_page(place, target, within=within, most=most)
    if status != _OK:
        raise UnreachableError(f"{target} is answered with the status {status}")
    return body


def _redact_answer(body: bytes, member: str) -> str:
    """Return what an Envoy answered without credentials. Raises ValueError, which repeats nothing."""
    if not member.endswith(".json"):
        return redact_text(redact_document(body.decode(errors="replace")))
    try:
        loaded = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(loaded, dict):
        raise ValueError("it is no answer of an Envoy") from None  # noqa: TRY004  # it is about a value
    try:
        redacted = redact_values(redact_content(_in_proto_names(loaded)))
        return json.dumps(redacted, indent=2, ensure_ascii=False) + "\n"
    except RecursionError:
        raise ValueError("it is nested too deeply for an answer of an Envoy") from None


def _in_proto_names(value: dict[str, object]) -> dict[str, object]:
    """Return JSON with the names of fields as Envoy writes them, which the redaction knows; others write JSON names."""

    def rename(item: object) -> object:
        match item:
            case dict():
                return {_proto_name(key): rename(inner) for key, inner in item.items()}
            case list():
                return [rename(inner) for inner in item]
            case _:
                return item

    return {_proto_name(key): rename(inner) for key, inner in value.items()}


def _proto_name(key: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[1].lower()}", key) if _JSON_NAME.fullmatch(key) else key


def _collect_dump(path: Path, shown: str, name: str, bundle: Bundle) -> None:
    try:
        body = read_bounded(path)
        bundle.add(f"{name}.json".replace(".json.json", ".json"), _redact_answer(body, "config_dump.json"))
    except OSError as error:
        bundle.miss(shown, error.strerror or "it can't be read")
    except ValueError as error:
        bundle.miss(shown, error)
