"""Whatever stands in a list, every client has an answer, and it names what stands there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xds.dialects.clients import CLIENTS, decide

_PIECES = st.sampled_from(
    [
        "x.example",
        "a.",
        "10.1.2.3",
        "2001:db8::1",
        "[",
        "]",
        "*",
        ".",
        ":",
        "/",
        "-",
        "8",
        "443",
        " ",
        "\t",
        ",",
        "%",
        "ü",
        "|",
    ]
)
_LISTS = st.one_of(st.text(max_size=30), st.lists(_PIECES, max_size=8).map("".join))
_HOSTS = st.one_of(
    st.sampled_from(
        ["x.example", "a.x.example", "x.example.", "10.1.2.3", "2001:db8::1", "[2001:db8::1]", "fe80::1%eth0"]
    ),
    st.text(min_size=1, max_size=12),
)
_PORTS = st.integers(1, 65535)


@given(client=st.sampled_from(list(CLIENTS)), no_proxy=_LISTS, host=_HOSTS, port=_PORTS)
def test_every_list_has_an_answer_that_says_why(client: str, no_proxy: str, host: str, port: int) -> None:
    answer = decide(client, no_proxy, host, port)
    assert answer.why
    if answer.entry is not None:
        assert answer.goes_direct
        assert answer.entry.replace(" ", "") in no_proxy.replace(" ", "")


@given(client=st.sampled_from(list(CLIENTS)), no_proxy=_LISTS, host=_HOSTS, port=_PORTS)
def test_an_entry_more_takes_nothing_away(client: str, no_proxy: str, host: str, port: int) -> None:
    """Only `*`, which some clients take as the whole value alone, means less in company."""
    if no_proxy != "*" and decide(client, no_proxy, host, port).goes_direct:
        assert decide(client, f"{no_proxy},unrelated.test", host, port).goes_direct


def test_a_number_without_end_is_no_port() -> None:
    endless = "9" * 5000
    for client in CLIENTS:
        assert not decide(
            client, f"x.example:{endless},10.0.0.0/{endless},[::1]:{endless}", "a.x.example", 443
        ).goes_direct
        assert not decide(client, f"10.0.0.0/{endless}", "10.0.0.0", 443).goes_direct
        decide(client, "x.example", endless, 443)
