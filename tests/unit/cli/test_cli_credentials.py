"""What a command proves itself with is judged before anything is connected to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

AUTHORITY = Authority()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    issued = AUTHORITY.issue("a.example")
    contents = {"ca": AUTHORITY.certificate, "crt": issued.certificate, "key": issued.key, "token": "a.b.c\n"}
    for name, text in {**contents, "empty": "", "two": "a.b.c\nd.e.f\n"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param("--token-file token", "readable by all", id="a token in the open"),
        pytest.param("--server-ca key", "--server-ca", id="a key for a certificate"),
        pytest.param("--server-ca ca --client-certificate key --client-key crt", "--client-cert", id="exchanged"),
        pytest.param("--server-ca ca --client-certificate crt", "belong together", id="half a pair"),
        pytest.param("--server-ca ca --token-file empty", "--token-file", id="no token"),
        pytest.param("--server-ca ca --token-file two", "--token-file", id="two tokens"),
        pytest.param("--server-ca missing", "can't be read", id="no file"),
        pytest.param("--server-name a.example", "--server-ca", id="a name without TLS"),
    ],
)
def test_credentials_that_are_none_are_named_before_anything_is_sent(
    xds: Runner, files: Path, options: str, words: str
) -> None:
    given = [str(files / word) if not word.startswith("--") and "." not in word else word for word in options.split()]

    outcome = xds("dump", "--server", "xds.example:18000", "--node", "a.b", *given)

    assert outcome.code == 2
    assert words in outcome.err
    assert "a.b.c" not in outcome.err
