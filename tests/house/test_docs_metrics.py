"""
Every metric that documentation, alerts and dashboard name is really exported, and the other way round.

The registry is rendered from a process in which nothing has happened yet: a family stands in the exposition also while
it has no sample. PromQL is read as far as names, brackets and labels go.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from xds.admin.metrics import Observed, Watched, metrics_page
from xds.admin.readiness import Readiness
from xds.canary import Canary
from xds.clients import Clients
from xds.reconcile import Debounce, Inputs, Reconciler
from xds.sources.directory import DirectorySource
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from xds.facts import Facts

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "egress-xds.json").read_text(encoding="utf-8"))
(RULES,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["spec"][
    "groups"
]
PREFIX = "egress_xds_"
FOREIGN = frozenset(
    {
        "apiserver_admission_webhook_admission_duration_seconds",
        "apiserver_admission_webhook_admission_duration_seconds_bucket",
        "apiserver_admission_webhook_admission_duration_seconds_count",
        "apiserver_admission_webhook_fail_open_count",
        "apiserver_admission_webhook_rejection_count",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    }
)
"""Of the API server (k8s.io/apiserver/pkg/admission/metrics) and of every Prometheus client."""

FOREIGN_LABELS = frozenset({"error_type", "instance", "job", "le", "name", "rejected"})
"""Those that Prometheus adds, and those of the API server's webhooks."""

AGGREGATIONS = frozenset({"by", "count", "max", "min", "sum"})
OPERATORS = frozenset({"and", "offset", "or", "unless"})
FUNCTIONS = AGGREGATIONS | OPERATORS | frozenset({"absent", "histogram_quantile", "increase", "rate", "time"})
UNITS = frozenset({"short", "ops", "s", "bytes", "Bps", "bool_yes_no"})
"""Of Grafana's, those that are used here."""


class _NoFacts:
    async def collect(self, hosts: frozenset[str]) -> Facts:
        raise NotImplementedError(hosts)

    async def changes(self) -> AsyncIterator[None]:
        return
        yield


def exported() -> frozenset[str]:
    """Return the names of all samples that `/metrics` can have."""
    watched = Watched(resource="pods", objects=0, lists=0, watches=0, events=0, errors=0, is_current=True)
    cache = StagedCache(Canary(lambda _: 1, 1.0), clock=lambda: 0.0, tell=lambda _: None)
    inputs = Inputs(source=DirectorySource(Path("nowhere")), facts=_NoFacts())
    reconciler = Reconciler(inputs=inputs, publish=cache.publish, debounce=Debounce(0.0, 0.0), clock=lambda: 0.0)
    observed = Observed(
        clients=Clients(), cache=cache, reconciler=reconciler, readiness=Readiness(), watched=lambda: (watched,)
    )
    text = metrics_page(observed)().body.decode()
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    names = {name for name, kind in families if kind != "summary"}
    names |= {f"{name}_{part}" for name, kind in families if kind == "summary" for part in ("count", "sum")}
    return frozenset(name for name in names if name.startswith(PREFIX))


EXPORTED = exported()


def documented() -> dict[str, frozenset[str]]:
    """Return the metrics of the table of all metrics, with their labels."""
    table = OPERATIONS.partition("### All metrics\n")[2].partition("\n\n`type`")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    found = re.findall(r"`([a-z_]+)(?:\{([a-z,]+)\})?`", " ".join(cells))
    return {PREFIX + name: frozenset(labels.split(",")) - {""} for name, labels in found}


def names_in(expression: str) -> Iterator[str]:
    """Yield what a PromQL expression names, but for functions, operators, numbers and labels."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\boffset \w+", "", bare)
    yield from (name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if name not in FUNCTIONS)


def labels_in(expression: str) -> Iterator[str]:
    """Yield the labels that a PromQL expression selects by and groups by."""
    for matchers in re.findall(r"\{([^}]*)\}", re.sub(r'"[^"]*"', '""', expression)):
        yield from re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        yield from re.findall(r"\w+", group)


def panels() -> list[dict[str, object]]:
    """Return the panels of the dashboard but for the rows' titles."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Return every PromQL expression of alerts and dashboard, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in RULES["rules"]}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        found[f"annotation {annotation['name']}"] = annotation["expr"]
    return found


def test_the_table_of_all_metrics_has_exactly_what_is_exported() -> None:
    assert set(documented()) == EXPORTED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_metric_that_is_not_exported(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    written = set(re.findall(r"\begress_xds_\w*[a-z]\b", text))

    assert written <= EXPORTED


def test_the_table_of_what_to_watch_names_metrics_that_are_exported() -> None:
    table = OPERATIONS.partition("## Metrics to watch\n")[2].partition("### All metrics")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    names = {PREFIX + name for name in re.findall(r"`([a-z_]+)(?:\{[^`]*)?`", " ".join(cells))}

    assert len(names) > 8
    assert names <= EXPORTED
    alerted = {name for rule in RULES["rules"] for name in names_in(rule["expr"])}
    assert names - alerted <= {f"{PREFIX}last_pass_timestamp_seconds"}, "each row of the table has its alert"


@pytest.mark.parametrize("where", queries())
def test_a_query_is_made_of_metrics_and_labels_that_there_are(where: str) -> None:
    expression = queries()[where]
    names = set(names_in(expression))
    known = {label for name in names for label in documented().get(name, ())} | FOREIGN_LABELS

    assert names, "it asks for something"
    assert names <= EXPORTED | FOREIGN
    assert set(labels_in(expression)) <= known


@pytest.mark.parametrize("where", queries())
def test_a_querys_brackets_and_quotes_are_closed(where: str) -> None:
    expression = queries()[where]
    bare = re.sub(r'"[^"]*"', "", expression)
    stack: list[str] = []
    for sign in re.findall(r"[(){}\[\]]", bare):
        if sign in "({[":
            stack.append(sign)
        else:
            assert stack, expression
            assert stack.pop() + sign in {"()", "{}", "[]"}

    assert stack == []
    assert '"' not in bare


def test_every_panel_says_what_it_shows_in_which_unit() -> None:
    for panel in panels():
        described = [panel.get("title"), panel.get("description")]
        assert all(isinstance(text, str) and text for text in described), panel
        settings = panel["fieldConfig"]
        assert isinstance(settings, dict)
        assert settings["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, "Grafana's grid is 24 wide"
        taken |= cells
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)


def test_the_dashboard_belongs_to_no_installation() -> None:
    """The data source is chosen by who looks, and no identity of a database is in it."""
    assert DASHBOARD["id"] is None
    sources = {json.dumps(panel["datasource"], sort_keys=True) for panel in panels()}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"}, sort_keys=True)}
    assert [item["name"] for item in DASHBOARD["templating"]["list"]] == ["datasource", "job"]


def test_every_alert_says_what_goes_on_and_how_bad_it_is() -> None:
    for rule in RULES["rules"]:
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert re.fullmatch(r"EgressXds[A-Za-z]+", rule["alert"])
    names = [rule["alert"] for rule in RULES["rules"]]
    assert len(set(names)) == len(names)
