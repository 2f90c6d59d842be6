"""Names that an Envoy sees: bounded, plain, and different for what differs."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds import names

if TYPE_CHECKING:
    from collections.abc import Callable

BUILDERS = [
    names.proxy_cluster,
    names.tls_tunnel_chain,
    names.tcp_tunnel_chain,
    names.http_proxy_chain,
    names.http_address_chain,
    names.http_tunnel,
    names.http_address_tunnel,
]
CONSTANTS = [names.DIRECT_CHAIN, names.DENY_CHAIN, names.HTTP_DENY_CHAIN, names.HTTP_CHAIN]
PLAIN = re.compile(r"[A-Za-z0-9/_.-]+")
any_builder = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


@any_builder
@pytest.mark.parametrize("name", ["corp", "Corp-2_b.c", "x" * 120])
def test_a_plain_name_is_kept(build: Callable[[str], str], name: str) -> None:
    assert build(name).split("/", 1)[1] == name


@any_builder
@given(name=st.text())
def test_every_name_is_plain_and_bounded(build: Callable[[str], str], name: str) -> None:
    built = build(name)

    assert PLAIN.fullmatch(built)
    assert len(built) <= 140


@any_builder
@pytest.mark.parametrize("name", ["x" * 121, "x" * 5000, "ä" * 5000], ids=["just too long", "much too long", "and odd"])
def test_a_long_name_is_cut(build: Callable[[str], str], name: str) -> None:
    assert len(build(name).split("/", 1)[1]) == 120


@any_builder
@given(one=st.text(), other=st.text())
def test_different_names_stay_different(build: Callable[[str], str], one: str, other: str) -> None:
    assert (build(one) == build(other)) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("a/b", "a_b", id="a replaced character"),
        pytest.param("a/b", "a%b", id="two replaced characters"),
        pytest.param("ä", "ö", id="letters beyond ASCII"),
        pytest.param("x" * 121, "x" * 122, id="the same beginning"),
        pytest.param("x" * 120, "x" * 121, id="just as long as may be, and longer"),
        pytest.param("corp", "Corp", id="case"),
        pytest.param("", "_", id="nothing"),
    ],
)
@any_builder
def test_names_that_look_alike_stay_different(build: Callable[[str], str], one: str, other: str) -> None:
    assert build(one) != build(other)


@given(name=st.text())
def test_no_two_kinds_share_a_name(name: str) -> None:
    chains = [build(name) for build in BUILDERS[1:]] + CONSTANTS

    assert all(one != other for one, other in combinations(chains, 2))


def test_a_name_is_the_same_in_every_release() -> None:
    """Envoy would drain the chain or replace the cluster of a name that changes."""
    assert names.proxy_cluster("a b") == "proxy/a_b-c8687a08aa5d6ed2"
