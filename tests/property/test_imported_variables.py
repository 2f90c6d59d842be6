"""
An imported list decides as the clients of its dialect do, in their own reading, wherever no change was told.

The clients' readings are those of `xds.dialects`, which knows nothing of policies.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imported import DIRECT, decide, messages, read_policy
from xds.dialects import clients
from xds.importers.environment import import_text
from xds.importers.imported import Weight, Wish

PROXY = "http://192.0.2.1:3128"
ENTRIES = (
    "x.example", ".x.example", "*.x.example", "a.x.example", ".a.x.example", "x.example.", "X.Example", "example",
    "localhost", "10.0.0.0/8", "10.1.2.3", "a.x.example:8443", "x.example:443", "*", "x.*", "<local>", "a|b", "",
)  # fmt: skip
HOSTS = (
    "x.example",
    "a.x.example",
    "b.a.x.example",
    "notx.example",
    "example.com",
    "10.1.2.3",
    "10.9.9.9",
    "192.0.2.9",
)
OWN_READING = ("read as", "matches the address", "read with the port")
"""Begins what is told of other clients than those of the dialect, or of names that resolve into a network."""


@pytest.mark.parametrize(
    ("dialect", "client"),
    [
        ("go", "go"),
        ("curl", "curl"),
        ("python", "python-requests"),
        ("dotnet", "dotnet"),
        ("node", "node"),
    ],
)
@given(
    entries=st.lists(st.sampled_from(ENTRIES), max_size=4),
    host=st.sampled_from(HOSTS),
    port=st.sampled_from([443, 8443]),
)
def test_a_list_decides_as_a_client_of_its_dialect(
    dialect: str, client: str, entries: list[str], host: str, port: int
) -> None:
    no_proxy = ",".join(entries)
    text = f"https_proxy={PROXY}\nhttp_proxy={PROXY}\nno_proxy={no_proxy}\n"

    imported = import_text(text, Wish(source="env", name="env", dialect=dialect))

    is_direct = decide(read_policy(imported), "https", host, port) == DIRECT
    wants_direct = clients.decide(client, no_proxy, host, port).goes_direct
    differing = [
        message
        for message in messages(imported, Weight.CHANGED, Weight.LOST)
        if clients.CLIENTS[client].title in message or not any(begin in message for begin in OWN_READING)
    ]
    assert is_direct == wants_direct or differing, (no_proxy, host, port)
    # What is lost makes nothing direct.
    assert not is_direct or wants_direct or any("read" in message or "match" in message for message in differing)
