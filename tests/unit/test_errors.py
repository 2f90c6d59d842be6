"""Messages are cut so that no half of a login survives, at a cost that does not grow with what somebody sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.errors import cut_redacted, redact_logins

LOGIN = "http://user:canary@proxy.corp.example:3128/"


def test_a_short_message_stays_as_it_is() -> None:
    assert cut_redacted("no such filter", 100) == "no such filter"


@given(before=st.text("a \n(", max_size=60), after=st.text("a \n", max_size=200), most=st.integers(1, 80))
def test_no_part_of_a_password_is_shown_wherever_the_message_is_cut(before: str, after: str, most: int) -> None:
    shown = cut_redacted(f"{before} {LOGIN}{after}", most)

    assert "can" not in shown
    assert "user:" not in shown
    assert len(shown) <= most


@pytest.mark.parametrize("length", [70, 75, 79, 800])
def test_a_word_that_may_be_a_login_is_left_out_where_it_is_cut_through(length: int) -> None:
    assert cut_redacted(f"{'x' * length} u:canary{'y' * 100}@proxy", 10) == "x" * 10


def test_a_login_with_blanks_is_left_out_where_it_is_cut_through() -> None:
    assert cut_redacted(f"a http://u:canary x{' y' * 100}@proxy", 20) == "a http"


@pytest.mark.parametrize("blank", [" ", "\t", "\u2028", "\x85", "\u3000 "])
def test_a_login_in_a_url_is_left_out_though_it_has_blanks(blank: str) -> None:
    for login in (f"user:canary{blank}1", f"us{blank}er:canary", f"us{blank}er:ca@nary{blank}"):
        assert redact_logins(f"no answer of http://{login}@proxy:1/x, y@z") == "no answer of [redacted]@proxy:1/x, y@z"


@pytest.mark.parametrize("text", ["http://a.example/ of me@b.example", "http://a.example\nby me@b.example"])
def test_an_address_after_the_authority_of_a_url_is_no_login(text: str) -> None:
    assert redact_logins(text) == text


@pytest.mark.parametrize("part", ["://", "://a ", ":", "@", "a:", "x://@", "://a:b@ ", ":// : "])
def test_hostile_text_is_redacted_in_a_time_that_grows_with_its_length_only(part: str) -> None:
    """A cost that is quadratic would take longer than the whole suite may."""
    assert len(redact_logins(f"@{part * 300_000}")) > 0


def test_a_long_word_that_can_be_no_login_is_cut() -> None:
    assert cut_redacted("x" * 1000, 10) == "x" * 10


def test_nothing_is_left_of_one_long_login() -> None:
    assert cut_redacted(f"u:{'canary' * 1000}@proxy", 10) == ""


@given(text=st.text(), most=st.integers(1, 5))
def test_any_text_can_be_cut(text: str, most: int) -> None:
    assert len(cut_redacted(text * 20, most)) <= most


def test_a_message_of_blanks_can_be_cut() -> None:
    assert cut_redacted(" " * 100, 3) == "   "
