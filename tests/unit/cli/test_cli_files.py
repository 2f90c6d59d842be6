"""`validate` and `dump` with policies that name files: read where they are, left out where they can't be."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

CANARY = "canary-password"
POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: main}}
spec:
  proxies:
    corp:
      endpoints: [{{url: "https://proxy.example:3129"}}]
      auth: {{basic: {{file: {login}}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


@pytest.fixture
def login(tmp_path: Path) -> Path:
    """A policy beside the file that it names, which is not there yet."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "main.yaml").write_text(POLICY.format(login=tmp_path / "login"))
    return tmp_path / "login"


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        pytest.param(f"user:{CANARY}\n", [], 0, id="a good login"),
        pytest.param(None, [], 1, id="no file"),
        pytest.param(CANARY, [], 1, id="a malformed login"),
        pytest.param(None, ["--no-files"], 0, id="no file, and none wanted"),
        pytest.param(CANARY, ["--no-files"], 0, id="a malformed login that nobody looks at"),
    ],
)
def test_validate_judges_the_files_unless_told_not_to(
    xds: Runner, login: Path, text: str | None, options: list[str], code: int
) -> None:
    if text is not None:
        login.write_text(text)

    outcome = xds("validate", login.parent / "policies", *options)

    assert outcome.code == code
    assert ("EX32" in outcome.out) is bool(code)
    assert CANARY not in outcome.out + outcome.err


@pytest.mark.parametrize("output", ["table", "yaml", "json"])
def test_dump_shows_that_there_is_a_secret_and_not_what_it_is(xds: Runner, login: Path, output: str) -> None:
    login.write_text(f"user:{CANARY}")

    outcome = xds("dump", login.parent / "policies", "--no-resolve", "-o", output)

    assert outcome.code == 0
    assert "proxy-login/corp" in outcome.out
    assert CANARY not in outcome.out + outcome.err
    assert b64encode(f"user:{CANARY}".encode()).decode() not in outcome.out
    assert b64encode(b64encode(f"user:{CANARY}".encode())).decode()[:40] not in outcome.out


def test_dump_without_files_shows_the_rest(xds: Runner, login: Path) -> None:
    outcome = xds("dump", login.parent / "policies", "--no-resolve", "--no-files")

    assert outcome.code == 0
    assert "egress-outbound" in outcome.out
