"""Which proxy a tunnel takes, and what is said where it can't be known."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import PROXY, long_form, only, parse
from xds.policy.actions import MAX_NAMES


def tunnel(names: int, proxy: str) -> str:
    proxies = ", ".join(f"p{n:02}: {PROXY}" for n in range(names))
    return long_form(f"proxies: {{{proxies}}}\ndefault: {{action: tunnel{proxy}}}")


@pytest.mark.parametrize("name", ["p00", "p07", "p19"])
def test_every_proxy_of_many_is_found_by_its_name(name: str) -> None:
    assert "EX304" not in [item.code for item in parse(tunnel(20, f", proxy: {name}")).diagnostics]


@pytest.mark.parametrize("name", ["a", "p", "p07a", "z"])
@pytest.mark.parametrize("names", [1, 20])
def test_a_name_between_before_or_behind_those_of_proxies_is_none(name: str, names: int) -> None:
    assert "EX304" in [item.code for item in parse(tunnel(names, f", proxy: {name}")).diagnostics]


@pytest.mark.parametrize(
    ("names", "tail"),
    [
        pytest.param(MAX_NAMES, f"`p{MAX_NAMES - 1:02}`", id="as many as are named"),
        pytest.param(MAX_NAMES + 1, f"`p{MAX_NAMES - 1:02}` and 1 more", id="one more"),
        pytest.param(60, f"`p{MAX_NAMES - 1:02}` and 50 more", id="very many"),
    ],
)
def test_a_hint_names_the_first_proxies_and_counts_the_others(names: int, tail: str) -> None:
    """A hint for each of a thousand rules must not name a thousand proxies."""
    assert only(parse(tunnel(names, ""))).hint.endswith(tail)
    assert next(item for item in parse(tunnel(names, ", proxy: x")).diagnostics if item.is_error).hint.endswith(tail)
