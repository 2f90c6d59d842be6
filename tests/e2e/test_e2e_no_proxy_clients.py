"""The clients themselves read NO_PROXY as `xds.dialects` says, over many lists that nobody should write."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e import clients
from tests.support.no_proxy_cases import Case, draw
from xds.dialects.answers import Target
from xds.dialects.clients import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Ask = Callable[[Sequence[Case], Path], list[bool]]

_SEED = 20
_LISTS = 260
_SHOWN = 12
_program = pytest.mark.e2e


def _disagreements(client: str, cases: Sequence[Case], answers: Sequence[bool]) -> list[str]:
    wrong = []
    for case, answer in zip(cases, answers, strict=True):
        ours = decide(client, case.no_proxy, case.host, case.port, scheme=case.scheme)
        if ours.goes_direct != answer:
            wrong.append(
                f"{case.no_proxy!r} {case.url}: it goes {'directly' if answer else 'to the proxy'}, we: {ours}"
            )
    return wrong


def _compare(client: str, ask: Ask, cases: Sequence[Case], directory: Path) -> None:
    assert len(cases) >= 1000
    answers = ask(cases, directory)
    share = sum(answers) / len(answers)
    assert 0.1 < share < 0.9, f"{share:.0%} go directly: the cases show little"
    wrong = _disagreements(client, cases, answers)
    assert not wrong, f"seed {_SEED}: {len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:_SHOWN])


@pytest.mark.parametrize(
    ("client", "ask"),
    [
        pytest.param("python-urllib", clients.ask_urllib, id="python-urllib"),
        pytest.param("python-requests", clients.ask_requests, id="python-requests"),
        pytest.param("java", clients.ask_java, marks=_program, id="java"),
    ],
)
def test_client_agrees_for_both_schemes(client: str, ask: Ask, tmp_path: Path) -> None:
    _compare(client, ask, list(draw(_SEED, _LISTS)), tmp_path)


@_program
@pytest.mark.parametrize(("client", "ask"), [("node", clients.ask_node), ("undici", clients.ask_fetch)])
def test_node_agrees(client: str, ask: Ask, tmp_path: Path) -> None:
    _compare(client, ask, list(draw(_SEED, _LISTS, schemes=("http",))), tmp_path)


@pytest.fixture(scope="module")
def go_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program for Go is built once."""
    return tmp_path_factory.mktemp("go")


@_program
def test_go_agrees(go_directory: Path) -> None:
    """Before 1.24.1 the end of an address could match an entry as if it were a name."""
    cases = list(draw(_SEED, _LISTS))
    if _find_go_version() < (1, 24, 1):
        cases = [case for case in cases if Target(case.host, 1).address is None or "*." not in case.no_proxy]
    _compare("go", clients.ask_go, cases, go_directory)


def _find_go_version() -> tuple[int, ...]:
    said = subprocess.run(
        [clients.find("go"), "version"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    match = re.search(r"go([0-9.]+)", said)
    assert match is not None
    return tuple(int(part) for part in match[1].split("."))


@_program
def test_older_go_takes_the_end_of_an_address_for_that_of_a_name(go_directory: Path) -> None:
    is_older = _find_go_version() < (1, 24, 1)
    assert clients.ask_go([Case("*.2.3", "10.1.2.3", 443, "https")], go_directory) == [is_older]
    assert not decide("go", "*.2.3", "10.1.2.3", 443).goes_direct


_NUMBER_IS_MISSING = re.compile(r"/(?![0-9]+(?:[ \t,]|$))")
_BLANK_SEPARATES = re.compile(r"[^ \t,][ \t]+[^ \t,]")


def _is_read_differently_by(version: tuple[int, int], case: Case) -> bool:
    """Say whether curl of that version reads a list of this kind in a way of its own."""
    if version < (8, 9) and _BLANK_SEPARATES.search(case.no_proxy):
        return True
    return version < (8, 18) and (":" in case.host or _NUMBER_IS_MISSING.search(case.no_proxy) is not None)


@_program
def test_curl_agrees(tmp_path: Path) -> None:
    version = clients.find_curl_version()
    cases = [case for case in draw(_SEED, _LISTS, schemes=("http",)) if not _is_read_differently_by(version, case)]
    _compare("curl", clients.ask_curl, cases, tmp_path)


@_program
@pytest.mark.parametrize(
    ("no_proxy", "host", "since", "before"),
    [
        pytest.param("2001:db8::/32", "2001:db8::1", (8, 18), False, id="no IPv6 networks"),
        pytest.param("2001:db8:0::1", "2001:db8::1", (8, 18), False, id="IPv6 as text"),
        pytest.param("10.1.2.3/32:80", "10.1.2.3", (8, 18), True, id="a length up to the first letter"),
        pytest.param("10.1.2.3/", "10.1.2.3", (8, 18), True, id="a length that is missing"),
        pytest.param("y.example x.example", "x.example", (8, 9), True, id="a blank that separates"),
    ],
)
def test_older_curl_had(no_proxy: str, host: str, since: tuple[int, int], before: bool, tmp_path: Path) -> None:
    is_older = clients.find_curl_version() < since
    assert clients.ask_curl([Case(no_proxy, host, 80, "http")], tmp_path) == [before if is_older else not before]
    assert decide("curl", no_proxy, host, 80, scheme="http").goes_direct is not before
