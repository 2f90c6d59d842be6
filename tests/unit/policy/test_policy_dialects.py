"""What the policy takes its dialects for, and what its warnings say of clients, beside the clients' own rules."""

from __future__ import annotations

import pytest

from xds.dialects.clients import decide
from xds.policy.model import Dialect
from xds.policy.patterns import READINGS, Form, Reading

_CLIENTS = {
    Dialect.GO: ("go",),
    Dialect.CURL: ("curl",),
    Dialect.PYTHON: ("python-urllib", "python-requests"),
    Dialect.DOTNET: ("dotnet",),
    Dialect.NODE: ("node",),
}


@pytest.mark.parametrize("form", [Form.NAME, Form.DOTTED, Form.STARRED])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_dialect_reads_a_name_as_its_clients_do(dialect: Dialect, form: Form) -> None:
    for client in _CLIENTS[dialect]:
        real = Reading(
            decide(client, form.value, "name.example", 443).goes_direct,
            decide(client, form.value, "a.name.example", 443).goes_direct,
        )
        ours = READINGS[dialect][form]
        assert ours == real, client


@pytest.mark.parametrize("client", ["python-urllib", "dotnet", "node", "undici"])
def test_clients_that_are_said_to_know_no_networks_know_none(client: str) -> None:
    assert not decide(client, "192.0.2.0/24", "192.0.2.7", 443).goes_direct
    assert not decide(client, "2001:db8::/32", "2001:db8::7", 443).goes_direct


@pytest.mark.parametrize("entry", ["name.example:443", "192.0.2.7:443", "[2001:db8::7]:443"])
def test_curl_knows_no_ports_as_is_said(entry: str) -> None:
    host = entry.removesuffix(":443")
    assert not decide("curl", entry, host, 443).goes_direct
    assert decide("go", entry, host, 443).goes_direct
