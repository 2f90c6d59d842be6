"""`accessLog` and `explicit`: what they default to, and what nonsense is refused at its place."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import good, long_form, only, parse
from xds.policy.model import EXPLICIT_PORT, STDOUT, Mode


def spec(extra: str) -> str:
    return long_form(f"default: {{action: deny}}\n{extra}")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", STDOUT),
        ("accessLog: {}", STDOUT),
        ("accessLog: {path: stdout}", STDOUT),
        ("accessLog: {path: off}", None),
        ("accessLog: {path: 'off'}", None),
        ("accessLog: {path: /var/log/egress.log}", "/var/log/egress.log"),
    ],
)
def test_the_log_goes_to_stdout_a_file_or_nowhere(extra: str, expected: str | None) -> None:
    assert good(spec(extra)).access_log == expected


@pytest.mark.parametrize(
    "path", ["egress.log", "STDOUT", "/var/../etc/passwd", "/var/log/", '"/a\\nb"', "''", "stderr"]
)
def test_a_place_for_the_log_that_is_none_is_refused(path: str) -> None:
    finding = only(parse(spec(f"accessLog: {{path: {path}}}")))
    assert (finding.code, finding.where.key, finding.where.line) == ("EX109", "spec.accessLog.path", 6)
    assert "stdout" in finding.hint


@pytest.mark.parametrize(
    ("extra", "expected"), [("", None), ("explicit: {}", EXPLICIT_PORT), ("explicit: {port: 3128}", 3128)]
)
def test_explicit_mode_is_off_unless_its_key_is_there(extra: str, expected: int | None) -> None:
    assert good(spec(extra)).explicit_port == expected


@pytest.mark.parametrize("word", list(Mode))
def test_a_policy_says_how_it_reaches_pods(word: Mode) -> None:
    policy = good(spec(f"mode: {word.value}"))
    assert policy.mode is word
    assert policy.explicit_port == (EXPLICIT_PORT if word is Mode.EXPLICIT else None)


def test_explicit_mode_is_on_the_port_that_is_given() -> None:
    assert good(spec("mode: explicit\nexplicit: {port: 3128}")).explicit_port == 3128


def test_a_mode_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    finding = only(parse(spec("mode: ambient")))
    assert (finding.code, finding.where.key) == ("EX109", "spec.mode")
    assert all(word.value in finding.hint for word in Mode)


@pytest.mark.parametrize("port", [15000, 15001, 15053, 0, 80, 65536])
def test_a_port_that_is_taken_or_not_free_to_take_is_refused(port: int) -> None:
    finding = only(parse(spec(f"explicit: {{port: {port}}}")))
    assert (finding.code, finding.where.key) == ("EX109", "spec.explicit.port")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:15001",
        "http://127.9.9.9:15053",
        "https://[::1]:15001",
        "http://localhost:15000",
        "http://0.0.0.0:15001",
        "http://127.0.0.1:3128",
    ],
)
def test_a_proxy_is_not_envoy_itself(url: str) -> None:
    text = (
        f"default: {{action: tunnel}}\nproxies: {{corp: {{endpoints: [{{url: '{url}'}}]}}}}\nexplicit: {{port: 3128}}"
    )
    finding = only(parse(long_form(text)))
    assert (finding.code, finding.where.key) == ("EX316", "spec.proxies.corp.endpoints[0].url")
    assert "its own proxy" in finding.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:3128", "http://192.0.2.1:15001", "http://envoy.example:15001"])
def test_a_proxy_on_another_port_of_the_pod_is_fine_and_so_is_that_port_elsewhere(url: str) -> None:
    assert good(f"httpProxy: {url}\nhttpsProxy: {url}\n").proxies
