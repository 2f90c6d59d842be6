"""`xds explain` of what an Envoy has, whatever policies say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import compile_good, policy, proxy, rule
from xds.facts import Facts, FileContent
from xds.policy.model import BasicLogin, Deny, Direct
from xds.render import render_resource
from xds.resources import ResourceType

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

CANARY = "s3cr3t-canary"
_SECTIONS = {
    ResourceType.LISTENER: ("Listeners", "dynamic_listeners", "listener"),
    ResourceType.CLUSTER: ("Clusters", "dynamic_active_clusters", "cluster"),
    ResourceType.ROUTE: ("Routes", "dynamic_route_configs", "route_config"),
    ResourceType.SECRET: ("Secrets", "dynamic_active_secrets", "secret"),
}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Write what an Envoy answers to `/config_dump` (Envoy API, `envoy.admin.v3.ConfigDump`)."""
    corp = dataclasses.replace(proxy("corp"), login=BasicLogin(file="/login"))
    written = policy(rule(Direct(), "10.0.0.0/8"), rule(Deny(), "ads.example"), proxies=(corp,))
    snapshot = compile_good(written, Facts(files={"/login": FileContent(f"user:{CANARY}")}))
    configs = []
    for kind, (title, field, name) in _SECTIONS.items():
        entries = []
        for resource in snapshot.of(kind).values():
            state = {"version_info": "1", name: render_resource(resource)}
            is_listener = kind is ResourceType.LISTENER
            entries.append({"name": resource.name, **({"active_state": state} if is_listener else state)})
        configs.append({"@type": f"type.googleapis.com/envoy.admin.v3.{title}ConfigDump", field: entries})
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"configs": configs}))
    return path


WAYS = [
    pytest.param(["10.1.2.3:443"], "direct to 10.1.2.3:443", id="direct"),
    pytest.param(["ads.example:443", "--address", "203.0.113.7"], "refused: closed without a byte", id="refused"),
    pytest.param(["api.example:443", "--address", "203.0.113.7"], "tunnel through proxy/corp", id="tunnelled"),
    pytest.param(["http://api.example/", "--address", "203.0.113.7"], "GET http://api.example/ HTTP/1.1", id="http"),
    pytest.param(["203.0.113.7:22"], "CONNECT 203.0.113.7:22 HTTP/1.1", id="neither"),
]


@pytest.mark.parametrize(("words", "expected"), WAYS)
def test_what_an_envoy_has_decides(xds: Runner, dump: Path, words: list[str], expected: str) -> None:
    outcome = xds("explain", "--config-dump", dump, *words)

    assert (outcome.code, outcome.err) == (0, "")
    assert expected in outcome.out
    assert "because" not in outcome.out
    assert CANARY not in outcome.out


def test_a_process_that_has_compiled_nothing_reads_it_too(dump: Path) -> None:
    """Messages can be read only once the modules of their types are imported, which other tests do."""
    program = "import sys; from xds.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
    arguments = [sys.executable, "-c", program, "explain", "--config-dump", str(dump), "10.1.2.3:443"]

    finished = subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stderr) == (0, "")
    assert "direct to 10.1.2.3:443" in finished.stdout


def test_json_says_that_no_rule_is_known(xds: Runner, dump: Path) -> None:
    outcome = xds("explain", "--config-dump", dump, "10.1.2.3:443", "-o", "json")

    described = json.loads(outcome.out)
    (answer,) = described["answers"]
    assert (described["pod"], described["policy"]) == (None, None)
    assert (answer["action"], answer["chain"], answer["rule"], answer["source"]) == ("direct", "direct", None, None)
    assert (answer["entry"], answer["key"], answer["reason"], answer["builtIn"]) == (None, None, None, None)
    assert (answer["request"], answer["noProxy"]["origin"]) == (None, None)
    assert (answer["noProxy"]["value"], answer["clients"]) == (None, [])


def test_without_a_policy_the_address_of_a_name_is_needed(xds: Runner, dump: Path) -> None:
    outcome = xds("explain", "--config-dump", dump, "api.example:443")

    assert (outcome.code, outcome.out) == (2, "")
    assert "add --address IP, or --resolve" in outcome.err


def test_the_pod_whose_envoy_it_is_may_be_named(xds: Runner, dump: Path) -> None:
    bootstrap = {
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": {"node": {"id": "web-0.shop"}},
    }
    text = json.loads(dump.read_text())
    dump.write_text(json.dumps({"configs": [bootstrap, *text["configs"]]}))

    own = xds("explain", "web-0.shop", "10.1.2.3:443", "--config-dump", dump)
    other = xds("explain", "web-1.shop", "10.1.2.3:443", "--config-dump", dump)

    assert (own.code, own.err) == (0, "")
    assert "direct to 10.1.2.3:443" in own.out
    assert (other.code, other.out) == (1, "")
    assert "this Envoy is web-0.shop, and not web-1.shop" in other.err


def test_the_pod_comes_before_the_destination_here_too(xds: Runner, dump: Path) -> None:
    outcome = xds("explain", "10.1.2.3:443", "web-0.shop", "--config-dump", dump)

    assert (outcome.code, outcome.out) == (2, "")
    assert "the pod comes first: xds explain web-0.shop 10.1.2.3:443" in outcome.err


WRONG = [
    pytest.param(["--admin", "127.0.0.1:1"], "give either --admin or --config-dump", id="both"),
    pytest.param(["--policy", "corp"], "whatever policies say", id="a policy"),
    pytest.param(["-f", "policies"], "whatever policies say", id="a path"),
    pytest.param(["--label", "a=b"], "whatever policies say", id="a label"),
    pytest.param(["--explicit"], "no listener for explicit mode", id="explicit mode that it has not"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG)
def test_what_an_envoy_has_depends_on_nothing_else(xds: Runner, dump: Path, words: list[str], expected: str) -> None:
    outcome = xds("explain", "--config-dump", dump, "10.1.2.3:443", *words)

    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err


def test_an_envoy_that_does_not_answer_is_unreachable(xds: Runner) -> None:
    outcome = xds("explain", "--admin", "127.0.0.1:1", "10.1.2.3:443")

    assert (outcome.code, outcome.out) == (3, "")


def test_resources_of_others_are_not_guessed_at(xds: Runner, tmp_path: Path) -> None:
    section = {
        "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
        "dynamic_listeners": [
            {
                "name": "egress-outbound",
                "active_state": {
                    "listener": {
                        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
                        "name": "egress-outbound",
                        "filter_chains": [{"filters": []}],
                    }
                },
            }
        ],
    }
    (tmp_path / "dump.json").write_text(json.dumps({"configs": [section]}))

    outcome = xds("explain", "--config-dump", tmp_path / "dump.json", "10.1.2.3:443")

    assert (outcome.code, outcome.out) == (1, "")
    assert "not understood here" in outcome.err


def test_a_type_that_is_not_known_is_named(xds: Runner, dump: Path) -> None:
    dump.write_text(dump.read_text().replace("access_loggers.stream.v3.StdoutAccessLog", "made.up.v3.Logger"))

    outcome = xds("explain", "--config-dump", dump, "10.1.2.3:443")

    assert (outcome.code, outcome.out) == (1, "")
    assert "listener egress-outbound with envoy.extensions.made.up.v3.Logger;" in outcome.err
