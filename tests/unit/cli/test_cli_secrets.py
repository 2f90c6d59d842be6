"""A login that somebody put into an address by mistake is never repeated: not in an error, not in the log."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.command_line import GOOD
from xds.cli.logs import configure_logging
from xds.errors import SettingsError, SourceError, UnreachableError, quote_value, redact_logins
from xds.settings import OPTIONS, Settings, read_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

USER, PASSWORD = "canaryuser", "canarypass"

ADDRESSES = [
    pytest.param(f"http://{USER}:{PASSWORD}@proxy.example:3128", id="a URL with a login"),
    pytest.param(f"http://{USER}:{PASSWORD}@proxy.example:3128/", id="a URL with a path"),
    pytest.param(f"{USER}:{PASSWORD}@proxy.example:3128", id="a login without a scheme"),
    pytest.param(f"{USER}:{PASSWORD}@proxy.example:no", id="a login before a port that is none"),
    pytest.param(f"https://{USER}:{PASSWORD}@[::1]:3128", id="a login before an IPv6 address"),
    pytest.param(f"http://{USER}:{PASSWORD}@{PASSWORD}/'\"=,:x@proxy.example:1", id="a password of odd characters"),
    pytest.param(f"http://{USER}:{PASSWORD} {PASSWORD}\n{PASSWORD}@proxy.example:1", id="a password with white space"),
    pytest.param(f"{PASSWORD}@proxy.example:3128", id="a token alone"),
]

PLACES = [
    pytest.param(["bootstrap", "--node", "a.b", "--server", "{}"], id="bootstrap --server"),
    pytest.param(["bootstrap", "--server", "h:1", "--node", "{}"], id="bootstrap --node"),
    pytest.param(["bootstrap", "--node", "a.b", "--server", "h:1", "--admin", "{}"], id="bootstrap --admin"),
    pytest.param(["bootstrap", "--node", "a.b", "--server", "h:1", "--admin", "/../{}"], id="an admin socket"),
    pytest.param(["bootstrap", "--node", "a.b", "--server", "h:1", "--label", "{}"], id="bootstrap --label"),
    pytest.param(["dump", "--node", "a.b", "--server", "{}"], id="dump --server"),
    pytest.param(["dump", "--server", "h:1", "--node", "{}"], id="dump --node"),
    pytest.param(["dump", "DIR", "--always-direct", "{}"], id="dump --always-direct"),
    pytest.param(["serve", "DIR", "--listen", "{}"], id="serve --listen"),
    pytest.param(["serve", "DIR", "--api-server", "{}"], id="serve --api-server"),
    pytest.param(["serve", "DIR", "--always-direct", "{}"], id="serve --always-direct"),
    pytest.param(["capture", "--exclude-cidr", "{}"], id="capture --exclude-cidr"),
    pytest.param(["validate", "DIR", "--namespace", "{}"], id="validate --namespace"),
    pytest.param(["validate", "DIR", "--as-configmaps", "{}"], id="validate --as-configmaps"),
]

ODD_PLACES = [
    pytest.param(["{}"], id="the verb"),
    pytest.param(["explain", "{}"], id="a code"),
    pytest.param(["validate", "{}"], id="a path"),
    pytest.param(["serve", "DIR", "{}"], id="an argument too many"),
    pytest.param(["serve", "DIR", "--{}"], id="an option that there is not"),
    pytest.param(["serve", "DIR", "--log-level", "{}"], id="a choice"),
    pytest.param(["serve", "DIR", "--listen", "127.0.0.1:0", "--resolv-conf", "{}"], id="a file that there is not"),
    pytest.param(["serve", "DIR", "--shutdown-grace", "{}"], id="a duration"),
    pytest.param(["dump", "DIR", "--policy", "{}"], id="a policy"),
    pytest.param(["dump", "DIR", "--type", "{}"], id="a type"),
    pytest.param(["dump", "--server", "127.0.0.1:1", "--node", "a.b", "--timeout", "{}"], id="a time-out"),
    pytest.param(["capture", "--to-port", "{}"], id="a number"),
    pytest.param(["capture", "--family={}"], id="a choice of click's"),
]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("arguments", PLACES)
def test_an_error_about_an_address_shows_nothing_before_the_at_sign(
    xds: Runner, policies: Path, arguments: list[str], address: str
) -> None:
    words = [word.replace("DIR", str(policies)).replace("{}", address) for word in arguments]

    outcome = xds(*words)

    assert outcome.code == 2
    assert USER not in outcome.err + outcome.out
    assert PASSWORD not in outcome.err + outcome.out


@pytest.mark.parametrize("arguments", ODD_PLACES)
def test_an_address_that_was_put_where_none_belongs_is_not_repeated_either(
    xds: Runner, policies: Path, arguments: list[str]
) -> None:
    address = f"http://{USER}:{PASSWORD}@proxy.example:3128"

    outcome = xds(*(word.replace("DIR", str(policies)).replace("{}", address) for word in arguments))

    assert outcome.code == 2
    assert outcome.err
    assert USER not in outcome.err + outcome.out
    assert PASSWORD not in outcome.err + outcome.out


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("option", [option for option in OPTIONS if option.metavar != "FILE"], ids=lambda it: it.field)
def test_a_variable_is_as_discreet_as_its_flag(option: object, address: str) -> None:
    (found,) = [item for item in OPTIONS if item is option]

    with pytest.raises(SettingsError) as raised:
        read_settings({}, {found.variable: address})

    assert USER not in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_what_kubernetes_says_is_checked_and_not_repeated(variable: str, address: str) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", variable: address}

    with pytest.raises(SettingsError, match=variable) as raised:
        read_settings({}, environ)

    assert USER not in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize("kind", [SettingsError, SourceError, UnreachableError])
def test_no_exception_of_ours_can_hold_a_login(kind: type[Exception]) -> None:
    error = kind(f"http://{USER}:{PASSWORD}@proxy.example:1 can't be reached")

    assert str(error) == "[redacted]@proxy.example:1 can't be reached"
    assert PASSWORD not in repr(error)


@pytest.mark.parametrize("form", ["console", "json"])
def test_the_log_shows_no_login(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(Settings(log_format=form))

    structlog.get_logger().warning("refused", path=f"http://{USER}:{PASSWORD}@proxy.example:1", port=1)

    assert "[redacted]@proxy.example:1" in stream.getvalue()
    assert PASSWORD not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("/srv/me@corp.example/policies is empty", id="a path"),
        pytest.param("--listen is '127.0.0.1:x': the port must be a number", id="an address"),
        pytest.param("write to admin@corp.example", id="a mail address"),
        pytest.param("deploy/a.yaml:5 noProxy[0]: warning[EX220]: `.corp.example`", id="a finding"),
    ],
)
def test_what_is_no_login_is_left_as_it_is(text: str) -> None:
    assert redact_logins(text) == text


def test_a_value_is_quoted_so_that_no_character_of_it_can_act() -> None:
    assert quote_value("a\nb\x1b[0m") == r"'a\nb\x1b[0m'"
