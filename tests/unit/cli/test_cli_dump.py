"""`xds dump`: sources, choices and forms; and what it says when an Envoy has something else than it should."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.command_line import GOOD, Runner
from xds.cli.comparison import Compared, Verdict, compare
from xds.cli.resources import Shown, summarise
from xds.inspection.config_dump import HeldResource, Refusal, State
from xds.render import REDACTED

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED = Path(__file__).parents[2] / "data" / "envoy-1.40" / "config_dump.json"
CANARY = "s3cr3t-canary"
PREFIX = "type.googleapis.com/"
OFFLINE = ("--no-resolve", "--resolv-conf", "")


def write(directory: Path, **documents: str) -> Path:
    for name, text in documents.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def as_envoy_has_it(described: list[dict[str, Any]], node: str = "web-0.shop") -> str:
    """Return the dump of an Envoy that has these resources."""
    sections = {
        "cluster": ("Clusters", "dynamic_active_clusters", "cluster"),
        "listener": ("Listeners", "dynamic_listeners", "listener"),
        "route": ("Routes", "dynamic_route_configs", "route_config"),
        "secret": ("Secrets", "dynamic_active_secrets", "secret"),
    }
    configs: list[dict[str, Any]] = [
        {"@type": f"{PREFIX}envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": {"id": node}}}
    ]
    for kind, (section, field, inside) in sections.items():
        entries = [
            {"version_info": item["version"], inside: item["resource"], "last_updated": "2026-11-21T20:00:00Z"}
            for item in described
            if item["type"] == kind
        ]
        if kind == "listener":
            entries = [{"name": item[inside]["name"], "active_state": item} for item in entries]
        configs.append({"@type": f"{PREFIX}envoy.admin.v3.{section}ConfigDump", field: entries})
    return json.dumps({"configs": configs})


@pytest.fixture
def compiled(xds: Runner, tmp_path: Path) -> list[dict[str, Any]]:
    """Return what is compiled of `policies`."""
    (tmp_path / "policies").mkdir()
    outcome = xds("dump", write(tmp_path / "policies", a=GOOD), *OFFLINE, "-o", "json")
    described = json.loads(outcome.out)
    assert isinstance(described, list)
    return described


# ------------------------------------------------------------------------------------------ choices


def test_several_paths_are_read_together(xds: Runner, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    write(first, a=GOOD)
    write(second, b=GOOD.replace("3128", "3129"))

    outcome = xds("dump", first, second / "b.yaml", "--policy", "b", *OFFLINE)

    assert outcome.code == 0
    assert "192.0.2.2:3129" in outcome.out


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("http", {"http"}),
        ("http*", {"http", "http-deny", "http/proxy", "http-tunnel/proxy", "http-address/proxy"}),
        ("*/proxy", {"proxy/proxy", "http/proxy", "http-tunnel/proxy", "http-address/proxy"}),
        ("egress-outboun?", {"egress-outbound"}),
    ],
)
def test_names_are_chosen_by_themselves_or_by_a_pattern(
    xds: Runner, tmp_path: Path, pattern: str, names: set[str]
) -> None:
    outcome = xds("dump", write(tmp_path, a=GOOD), *OFFLINE, "--name", pattern, "-o", "json")

    found = {item["name"] for item in json.loads(outcome.out)}
    assert outcome.code == 0
    assert names & found == found - {"http-address-tunnel/proxy"}
    assert found


def test_a_name_that_nothing_has_is_a_finding(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("dump", write(tmp_path, a=GOOD), *OFFLINE, "--name", "nothing", "-o", "json")

    assert (outcome.code, json.loads(outcome.out)) == (1, [])
    assert "nothing here is called 'nothing'" in outcome.err


# --------------------------------------------------------------------------------------- an Envoy's


@pytest.mark.parametrize("output", ["table", "yaml", "json"])
def test_what_an_envoy_answered_is_shown_with_its_state(xds: Runner, output: str) -> None:
    outcome = xds("dump", "--config-dump", RECORDED, "-o", output)

    assert outcome.code == 1
    assert "refused by this Envoy: listener bad" in outcome.err
    if output == "table":
        header, *rows = outcome.out.splitlines()
        assert header.split() == ["TYPE", "NAME", "VERSION", "STATE", "UPDATED", "SUMMARY"]
        assert [row.split()[:2] for row in rows] == [
            ["cluster", "c"], ["endpoint", "e"], ["listener", "bad"], ["listener", "waits"],
        ]  # fmt: skip
        return
    described = json.loads(outcome.out) if output == "json" else yaml.safe_load(outcome.out)
    assert [list(item) for item in described] == [
        ["type", "name", "version", "state", "updated", "refused", "resource"]
    ] * 4
    assert described[2]["refused"]["text"].startswith("error adding listener")
    assert described[0]["refused"] is None


def test_what_an_envoy_answered_is_read_from_standard_input(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(RECORDED.read_bytes())))

    outcome = xds("dump", "--config-dump", "-", "--type", "cluster")

    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 2


def test_a_standard_input_that_is_closed_is_empty(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    outcome = xds("dump", "--config-dump", "-")

    assert (outcome.code, outcome.out) == (2, "")
    assert "--config-dump standard input can't be used" in outcome.err


def test_an_envoy_that_is_not_there_can_not_be_asked(xds: Runner) -> None:
    outcome = xds("dump", "--admin", "/nowhere/admin.sock")

    assert (outcome.code, outcome.out) == (3, "")
    assert "kubectl port-forward" in outcome.err


@pytest.mark.parametrize("output", ["table", "yaml", "json"])
def test_no_credential_of_an_envoy_is_shown(xds: Runner, tmp_path: Path, output: str) -> None:
    cluster = {
        "@type": f"{PREFIX}envoy.config.cluster.v3.Cluster",
        "name": "c",
        "transport_socket": {"typed_config": {"@type": f"{PREFIX}x.Y", "privateKey": CANARY, "password": CANARY}},
        "uri": f"https://me:{CANARY}@proxy.example/",
        "metadata": {"filter_metadata": {"x": {"api-key": CANARY}}},
    }
    (tmp_path / "dump.json").write_text(
        as_envoy_has_it([{"type": "cluster", "name": "c", "version": "1", "resource": cluster}]).replace(
            "privateKey", "private_key"
        )
    )
    write(tmp_path, a=GOOD)

    shown = xds("dump", "--config-dump", tmp_path / "dump.json", "-o", output)
    compared = xds("dump", tmp_path, *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json", "-o", output)

    assert (shown.code, compared.code) == (0, 1)
    assert CANARY not in shown.out + shown.err + compared.out + compared.err


# ----------------------------------------------------------------------------------------- --diff


def test_an_envoy_that_has_what_it_should_differs_in_nothing(
    xds: Runner, tmp_path: Path, compiled: list[dict[str, Any]]
) -> None:
    (tmp_path / "dump.json").write_text(as_envoy_has_it(compiled))

    outcome = xds("dump", tmp_path / "policies", *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json")

    header, *rows = outcome.out.splitlines()
    assert outcome.code == 0
    assert header.split() == ["TYPE", "NAME", "EXPECTED", "HELD", "VERDICT"]
    assert len(rows) == len(compiled)
    assert all(row.endswith("  same") for row in rows)
    assert f"{len(compiled)} resources: {len(compiled)} same" in outcome.err


def test_what_differs_is_shown_line_by_line(xds: Runner, tmp_path: Path, compiled: list[dict[str, Any]]) -> None:
    proxy = next(item for item in compiled if item["name"] == "proxy/proxy")
    changed = json.loads(json.dumps(proxy).replace("192.0.2.2", "192.0.2.9")) | {"version": "other"}
    gone = next(item for item in compiled if item["name"] == "http-deny")
    extra = json.loads(json.dumps(proxy).replace("proxy/proxy", "proxy/old"))
    held = [item for item in compiled if item not in (proxy, gone)]
    (tmp_path / "dump.json").write_text(as_envoy_has_it([*held, changed, extra]))
    command = ("dump", tmp_path / "policies", *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json")

    table, as_json, as_yaml = xds(*command), xds(*command, "-o", "json"), xds(*command, "-o", "yaml")

    described = json.loads(as_json.out)
    verdicts = {item["name"]: item["verdict"] for item in described}
    assert (table.code, as_json.code, as_yaml.code) == (1, 1, 1)
    assert yaml.safe_load(as_yaml.out) == described
    assert [list(item) for item in described] == [
        ["type", "name", "verdict", "expectedVersion", "heldVersion", "state", "updated", "refused", "diff"]
    ] * len(described)
    assert {name: verdict for name, verdict in verdicts.items() if verdict != "same"} == {
        "proxy/proxy": "differs",
        "http-deny": "missing",
        "proxy/old": "unexpected",
    }
    assert "--- expected cluster proxy/proxy" in table.out
    changes = [line.split() for line in table.out.splitlines() if line.startswith(("-  ", "+  "))]
    assert changes == [["-", "address:", "192.0.2.2"], ["+", "address:", "192.0.2.9"]]


def test_where_versions_tell_nothing_of_credentials_that_is_said(
    xds: Runner, tmp_path: Path, compiled: list[dict[str, Any]]
) -> None:
    dump = json.loads(as_envoy_has_it([item | {"version": "of the whole"} for item in compiled]))
    dump["configs"][0]["bootstrap"]["dynamic_resources"] = {"ads_config": {"api_type": "GRPC"}}
    (tmp_path / "dump.json").write_text(json.dumps(dump))

    outcome = xds("dump", tmp_path / "policies", *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json")

    assert outcome.code == 0
    assert "whether credentials are the same, which are not shown, can't be told" in outcome.err
    assert f"{len(compiled)} same-content" in outcome.err


def test_a_comparison_may_be_of_some_resources_only(
    xds: Runner, tmp_path: Path, compiled: list[dict[str, Any]]
) -> None:
    (tmp_path / "dump.json").write_text(as_envoy_has_it(compiled[:1]))
    command = ("dump", tmp_path / "policies", *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json")

    outcome = xds(*command, "--type", compiled[0]["type"], "--name", compiled[0]["name"], "-o", "json")

    assert outcome.code == 0
    assert [item["verdict"] for item in json.loads(outcome.out)] == ["same"]


def test_the_envoy_says_who_it_is(xds: Runner, tmp_path: Path, compiled: list[dict[str, Any]]) -> None:
    long = "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: shop}\nspec:\n"
    shop = f"{long}  selector: {{namespaces: [shop]}}\n  default: {{action: direct}}\n"
    write(tmp_path / "policies", shop=shop)
    command = ("dump", tmp_path / "policies", *OFFLINE, "--diff", "--config-dump", tmp_path / "dump.json")

    (tmp_path / "dump.json").write_text(as_envoy_has_it(compiled, "web-0.shop"))
    assert "policy in force: shop" in xds(*command).err
    (tmp_path / "dump.json").write_text(as_envoy_has_it(compiled, "web-0.other"))
    assert "policy in force: a" in xds(*command).err
    assert xds(*command, "--node", "web-0.shop").err.startswith("policy in force: shop")
    (tmp_path / "dump.json").write_text(as_envoy_has_it(compiled, ""))
    assert (nameless := xds(*command)).code == 2
    assert "--node POD.NAMESPACE" in nameless.err


# ------------------------------------------------------------------------------- one resource at a time


def shown(version: str, content: Mapping[str, object], *, kind: str = "cluster", name: str = "c") -> Shown:
    return Shown(kind=kind, name=name, version=version, content={"@type": f"{PREFIX}x.C", **content})


def held(
    version: str, content: Mapping[str, object], state: State = State.ACTIVE, refusal: Refusal | None = None
) -> Shown:
    full = {"@type": f"{PREFIX}x.C", **content}
    says = HeldResource(
        type_url=f"{PREFIX}x.C", name="c", version=version, state=state, updated="", content=full, refusal=refusal
    )
    return Shown(kind="cluster", name="c", version=version, content=full, held=says)


def compare_one(expected: Shown | None, *actual: Shown, versions_tell: bool = True) -> Compared:
    (compared,) = compare([expected] if expected is not None else [], actual, versions_tell=versions_tell)
    return compared


OPAQUE = {"filter": {"@type": f"{PREFIX}example.v1.F", "value": "[8 bytes that are not known here]"}}
REFUSED = Refusal(version="2", text="no filter chains", at="")


@pytest.mark.parametrize(
    ("expected", "actual", "verdict"),
    [
        pytest.param({"a": 1}, {"a": 2}, Verdict.DIFFERS, id="another value"),
        pytest.param({"a": 1}, {}, Verdict.DIFFERS, id="a value that is not there"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, Verdict.DIFFERS, id="a shorter list"),
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, Verdict.DIFFERS, id="another order of a list"),
        pytest.param({"a": True}, {"a": 1}, Verdict.SAME_CONTENT, id="what JSON can't tell from a number"),
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, Verdict.SAME_CONTENT, id="another order of fields"),
        pytest.param({"a": 5}, {"a": "5"}, Verdict.SAME_CONTENT, id="64 bits, which are text in JSON"),
        pytest.param({"a": 1.0}, {"a": 1}, Verdict.SAME_CONTENT, id="a whole number"),
        pytest.param({"a": "0.25s"}, {"a": "0.250s"}, Verdict.SAME_CONTENT, id="a duration"),
        pytest.param({"a": "0.25s"}, {"a": "0.255s"}, Verdict.DIFFERS, id="another duration"),
        pytest.param({"a": "1s"}, {"a": "1.000s"}, Verdict.SAME_CONTENT, id="a duration of whole seconds"),
        pytest.param({"a": "0123"}, {"a": "123"}, Verdict.DIFFERS, id="text that looks like a number"),
        pytest.param({"a": REDACTED}, {"a": REDACTED}, Verdict.MAY_DIFFER, id="what may be different and is not shown"),
        pytest.param(OPAQUE, {"filter": {"@type": f"{PREFIX}example.v1.F", "x": 1}}, Verdict.SAME_CONTENT,
                     id="a message that is not known here"),
        pytest.param(OPAQUE, {"filter": {"@type": f"{PREFIX}example.v1.G", "x": 1}}, Verdict.DIFFERS,
                     id="a message that is not known here, of another type"),
    ],
)  # fmt: skip
def test_contents_are_compared_by_what_they_mean(
    expected: Mapping[str, object], actual: Mapping[str, object], verdict: Verdict
) -> None:
    compared = compare_one(shown("1", expected), held("2", actual))

    assert compared.verdict is verdict
    assert bool(compared.diff) is (verdict is Verdict.DIFFERS)


def test_equal_versions_are_enough() -> None:
    assert compare_one(shown("1", {"a": 1}), held("1", {"a": REDACTED})).verdict is Verdict.SAME


def test_versions_of_another_kind_say_nothing_of_what_is_redacted() -> None:
    content = {"a": REDACTED}

    compared = compare_one(shown("1", content), held("7", content), versions_tell=False)

    assert compared.verdict is Verdict.SAME_CONTENT


@pytest.mark.parametrize(
    ("actual", "verdict", "note", "is_finding"),
    [
        pytest.param([], Verdict.MISSING, "", True, id="nothing"),
        pytest.param([held("1", {}, State.DRAINING)], Verdict.MISSING, "", True, id="one that goes"),
        pytest.param([held("1", {}, State.WARMING)], Verdict.SAME, "warming: it waits for what it refers to", True,
                     id="one that waits"),
        pytest.param([held("2", {}, State.WARMING), held("1", {})], Verdict.SAME, "", False,
                     id="a newer one that waits"),
        pytest.param([held("", {}, State.REFUSED, REFUSED)], Verdict.MISSING, "refused: no filter chains", True,
                     id="one that was refused"),
        pytest.param([held("1", {}, refusal=REFUSED)], Verdict.SAME, "refused: no filter chains", True,
                     id="a newer one that was refused"),
    ],
)  # fmt: skip
def test_what_counts_is_what_the_envoy_uses(actual: list[Shown], verdict: Verdict, note: str, is_finding: bool) -> None:
    compared = compare_one(shown("1", {}), *actual)

    assert (compared.verdict, compared.note, compared.is_finding) == (verdict, note, is_finding)


def test_what_an_envoy_adds_when_it_lists_endpoints_is_no_difference() -> None:
    url = f"{PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
    address = {"socket_address": {"address": "192.0.2.1", "port_value": 80}}
    listed = {"endpoint": {"address": address, "health_check_config": {}}, "health_status": "HEALTHY"}
    plain = {"@type": url, "cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    of_envoy = {
        "@type": url,
        "cluster_name": "c",
        "endpoints": [{"locality": {}, "lb_endpoints": [{**listed, "load_balancing_weight": 1}]}],
        "policy": {"overprovisioning_factor": 140},
    }

    assert compare_one(shown("1", plain), held("", of_envoy)).verdict is Verdict.SAME_CONTENT
    weighted = json.loads(json.dumps(of_envoy).replace('"load_balancing_weight": 1', '"load_balancing_weight": 2'))
    assert compare_one(shown("1", plain), held("", weighted)).verdict is Verdict.DIFFERS


@pytest.mark.parametrize("output", ["table", "yaml", "json"])
def test_halves_of_surrogate_pairs_are_shown_as_what_they_are_not(xds: Runner, tmp_path: Path, output: str) -> None:
    described: list[dict[str, Any]] = [
        {"type": "cluster", "version": "\ud800", "resource": {"@type": PREFIX + "envoy.config.cluster.v3.Cluster",
                                                             "name": "a\udfff", "metadata": {"\ud800": "x"}}}
    ]  # fmt: skip
    (tmp_path / "dump.json").write_text(as_envoy_has_it(described))

    outcome = xds("dump", "--config-dump", tmp_path / "dump.json", "-o", output)

    assert outcome.code == 0
    assert "a\N{REPLACEMENT CHARACTER}" in outcome.out.replace("\\uFFFD", "\N{REPLACEMENT CHARACTER}")
    assert outcome.out.encode()


@pytest.mark.parametrize(
    ("content", "summary"),
    [
        pytest.param({"filter_chains": [{"name": "a"}, {}, "odd"]}, "chains: a, -", id="chains without a name"),
        pytest.param({"virtual_hosts": [{"domains": ["*"]}, {}, 3]}, "1 domain", id="hosts without domains"),
        pytest.param({"listener_filters": [{"typed_config": {"server_config": {"inline_dns_table": {}}}}]},
                     "answers for 0 names", id="an empty table"),
        pytest.param({"listener_filters": [{"typed_config": {"server_config": {"inline_dns_table":
                     {"virtual_domains": 5}}}}]}, "answers for 0 names", id="a table that is none"),
        pytest.param({"type": "ORIGINAL_DST"}, "original dst", id="a type"),
        pytest.param({"filter_chains": "odd"}, "", id="something else"),
    ],
)  # fmt: skip
def test_a_summary_of_somebody_elses_resource_does_not_fail(content: Mapping[str, object], summary: str) -> None:
    assert summarise(shown("1", content)) == summary
