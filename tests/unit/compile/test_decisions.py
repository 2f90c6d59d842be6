"""How an ordered list of rules becomes few look-ups (N4, N5, N8, N10, N22)."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, rule, to
from xds.compile.decisions import (
    AddressSegment,
    Aspect,
    Clause,
    NameSegment,
    Plan,
    PortSegment,
    aspect_of,
    build_plan,
    first_match,
    lineage,
    nodes_of,
)
from xds.policy.model import Action, Deny, Direct, DomainPattern, Rule

if TYPE_CHECKING:
    from xds.compile.decisions import Clauses, Segment

DIRECT, DENY = Direct(), Deny()
TEN = ip_network("10.0.0.0/8")
TEN_ONE = ip_network("10.1.0.0/16")
TEN_TWO = ip_network("10.2.0.0/16")
V6 = ip_network("2001:db8::/32")
SYNTHETIC = ip_network("198.18.0.0/15")


def plan_of(*rules: Rule, synthetic: tuple[str, ...] = ()) -> Plan:
    return build_plan(rules, lambda item: item.action, CORP, tuple(ip_network(text) for text in synthetic))


def aspects_of(plan: Plan) -> list[Aspect]:
    """Name what each look-up looks at."""
    kinds = {NameSegment: Aspect.NAME, AddressSegment: Aspect.ADDRESS, PortSegment: Aspect.PORT}
    return [kinds[type(segment)] for segment in plan.segments]


def names_in(segment: Segment) -> NameSegment:
    assert isinstance(segment, NameSegment)
    return segment


def addresses_in(segment: Segment) -> AddressSegment:
    assert isinstance(segment, AddressSegment)
    return segment


def every(action: Action) -> Clauses:
    return (Clause((), action),)


A, N, P = Aspect.ADDRESS, Aspect.NAME, Aspect.PORT


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param([], [], id="no rule needs no look-up"),
        pytest.param([rule(DIRECT, "a.example", "10.0.0.0/8")], [A, N], id="addresses come before names"),
        pytest.param(
            [rule(DIRECT, to("*", 22), "a.example", "10.0.0.0/8")], [A, N, P], id="ports of any host come last"
        ),
        pytest.param(
            [rule(DIRECT, "a.example"), rule(DENY, "b.example"), rule(CORP, "c.example")],
            [N],
            id="actions may alternate inside one look-up",
        ),
        pytest.param(
            [rule(DIRECT, "a.example"), rule(DIRECT, "10.0.0.0/8"), rule(DIRECT, "b.example")],
            [A, N],
            id="neighbours with the same action commute",
        ),
        pytest.param(
            [rule(DIRECT, "a.example"), rule(DENY, "10.0.0.0/8"), rule(DIRECT, "b.example")],
            [N, A, N],
            id="a rule with another action between them keeps its place",
        ),
        pytest.param(
            [rule(DIRECT, "10.0.0.0/8", "a.example"), rule(DENY, "b.example", "10.0.0.0/9")],
            [A, N, A],
            id="a run goes on with what the last look-up looks at",
        ),
        pytest.param(
            [rule(DIRECT, to("*", 22)), rule(DENY, to("*", 80), "a.example")],
            [P, N],
            id="ports go on with ports",
        ),
    ],
)
def test_rules_become_as_few_look_ups_as_their_order_allows(rules: list[Rule], expected: list[Aspect]) -> None:
    plan = plan_of(*rules)

    assert aspects_of(plan) == expected
    assert plan.default == CORP


def test_a_thousand_entries_of_two_actions_are_one_look_up() -> None:
    rules = [rule(DIRECT if index % 2 else DENY, f"host{index}.example") for index in range(1000)]

    assert aspects_of(plan_of(*rules)) == [N]


def test_one_rule_may_stand_at_two_places() -> None:
    twice = rule(DIRECT, "a.example")
    plan = plan_of(twice, rule(DENY, "a.example"), twice)

    assert names_in(plan.segments[0]).clauses_of("a.example") == every(DIRECT)


@pytest.mark.parametrize(
    ("rules", "node", "expected"),
    [
        pytest.param([rule(DIRECT, "a.example")], "a.example", every(DIRECT), id="a bare name has an entry"),
        pytest.param([rule(DIRECT, "a.example")], "*.a.example", every(DIRECT), id="and so has what is below it"),
        pytest.param([rule(DIRECT, "=a.example")], "*.a.example", (), id="an exact name says nothing of what is below"),
        pytest.param([rule(DIRECT, ".a.example")], "a.example", (), id="a leading dot says nothing of the apex (N4)"),
        pytest.param(
            [rule(DIRECT, "=b.a.example"), rule(DENY, ".a.example")],
            "b.a.example",
            every(DIRECT),
            id="the first rule wins at a node that both cover",
        ),
        pytest.param(
            [rule(DENY, ".a.example"), rule(DIRECT, "=b.a.example")],
            "b.a.example",
            every(DENY),
            id="an earlier wildcard beats a later exact name (N5)",
        ),
        pytest.param(
            [rule(DENY, to(".a.example", 443)), rule(DIRECT, "=b.a.example")],
            "b.a.example",
            (Clause((443,), DENY), Clause((), DIRECT)),
            id="an earlier wildcard with ports decides on those ports only",
        ),
        pytest.param(
            [rule(DENY, to("=b.a.example", 443)), rule(DIRECT, ".example")],
            "b.a.example",
            (Clause((443,), DENY), Clause((), DIRECT)),
            id="a wildcard fills in what the exact name leaves open",
        ),
    ],
)
def test_a_node_of_the_name_trie_knows_all_that_covers_it(rules: list[Rule], node: str, expected: Clauses) -> None:
    (segment,) = plan_of(*rules).segments

    assert names_in(segment).clauses_of(node) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(
            [rule(DIRECT, "10.1.0.0/16"), rule(DENY, "10.0.0.0/8")],
            {TEN: every(DENY), TEN_ONE: every(DIRECT)},
            id="the narrower network first: an exception",
        ),
        pytest.param(
            [rule(DENY, "10.0.0.0/8"), rule(DIRECT, "10.1.0.0/16")],
            {TEN: every(DENY), TEN_ONE: every(DENY)},
            id="the wider network first: the narrower one never decides (N5)",
        ),
        pytest.param(
            [rule(DENY, to("10.0.0.0/8", 22)), rule(DIRECT, "10.1.0.0/16", "10.2.0.0/16")],
            {
                TEN: (Clause((22,), DENY),),
                TEN_ONE: (Clause((22,), DENY), Clause((), DIRECT)),
                TEN_TWO: (Clause((22,), DENY), Clause((), DIRECT)),
            },
            id="siblings both inherit from the network around them",
        ),
        pytest.param(
            [rule(DENY, "0.0.0.0/0"), rule(DIRECT, "2001:db8::/32")],
            {ip_network("0.0.0.0/0"): every(DENY), V6: every(DIRECT)},
            id="all of IPv4 holds nothing of IPv6",
        ),
    ],
)
def test_a_network_knows_all_that_lies_around_it(rules: list[Rule], expected: dict[object, Clauses]) -> None:
    (segment,) = plan_of(*rules).segments

    assert addresses_in(segment).nodes == expected
    assert list(addresses_in(segment).nodes) == list(expected), "in the order of versions and addresses"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param(
            "0.0.0.0/0", {ip_network("0.0.0.0/0"): every(DENY), SYNTHETIC: ()}, id="it is cut out of a wider network"
        ),
        pytest.param("198.18.0.0/16", {}, id="a network inside it decides nothing"),
        pytest.param("198.18.0.0/15", {}, id="the same network decides nothing"),
        pytest.param("10.0.0.0/8", {TEN: every(DENY), SYNTHETIC: ()}, id="it stands beside another network"),
    ],
)
def test_no_network_matches_a_synthetic_address(network: str, expected: dict[object, Clauses]) -> None:
    """N10."""
    (segment,) = plan_of(rule(DENY, network), synthetic=("198.18.0.0/15",)).segments

    assert addresses_in(segment).nodes == expected


def test_the_order_of_synthetic_ranges_means_nothing() -> None:
    ranges = ("198.18.0.0/15", "2001:db8::/48")
    first, second = (plan_of(rule(DENY, "10.0.0.0/8"), synthetic=order) for order in (ranges, ranges[::-1]))

    assert list(addresses_in(first.segments[0]).nodes) == list(addresses_in(second.segments[0]).nodes)


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        pytest.param([], (), id="nothing decides nothing"),
        pytest.param([Clause((), DIRECT), Clause((22,), DENY)], every(DIRECT), id="nothing follows every port"),
        pytest.param(
            [Clause((22, 80), DIRECT), Clause((80, 443), DENY)],
            (Clause((22, 80), DIRECT), Clause((443,), DENY)),
            id="a port is decided once",
        ),
        pytest.param(
            [Clause((22,), DIRECT), Clause((22,), DENY)], (Clause((22,), DIRECT),), id="an empty rest is dropped"
        ),
        pytest.param(
            [Clause((80,), DIRECT), Clause((22, 80), DIRECT), Clause((443,), DENY)],
            (Clause((22, 80), DIRECT), Clause((443,), DENY)),
            id="neighbours with one action are one clause, ports sorted",
        ),
        pytest.param([Clause((80,), DENY), Clause((), DENY)], every(DENY), id="every port swallows its neighbours"),
        pytest.param(
            [Clause((80,), DENY), Clause((443,), DIRECT), Clause((), DENY)],
            (Clause((80,), DENY), Clause((443,), DIRECT), Clause((), DENY)),
            id="what stands apart stays apart",
        ),
    ],
)
def test_clauses_keep_what_can_be_reached(clauses: list[Clause], expected: Clauses) -> None:
    assert first_match(clauses) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        pytest.param(
            "a.b.example", ("a.b.example", "*.b.example", "*.example"), id="a name is covered from above only"
        ),
        pytest.param("*.b.example", ("*.b.example", "*.example"), id="a wildcard covers itself"),
        pytest.param("example", ("example",), id="a single label has nothing above it (N11)"),
        pytest.param("*.example", ("*.example",), id="nor has what is below it"),
    ],
)
def test_lineage_runs_from_the_most_specific_node_up(node: str, expected: tuple[str, ...]) -> None:
    assert lineage(node) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param(DomainPattern("x.example"), ("x.example", "*.x.example"), id="both"),
        pytest.param(DomainPattern("x.example", subdomains=False), ("x.example",), id="the apex"),
        pytest.param(DomainPattern("x.example", apex=False), ("*.x.example",), id="what is below"),
    ],
)
def test_a_pattern_is_spelt_as_whole_labels(pattern: DomainPattern, expected: tuple[str, ...]) -> None:
    """N4."""
    assert nodes_of(pattern) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("*", P), ("a.example", N), ("10.0.0.0/8", A), ("2001:db8::/32", A)],
)
def test_a_destination_has_one_aspect(text: str, expected: Aspect) -> None:
    assert aspect_of(to(text)) is expected


def test_ports_of_any_host_are_collected_in_order() -> None:
    plan = plan_of(rule(DENY, to("*", 22)), rule(DIRECT, to("*", 22, 80)), rule(CORP, to("*")))

    assert plan.segments == (PortSegment((Clause((22,), DENY), Clause((80,), DIRECT), Clause((), CORP))),)


MIXED = plan_of(
    rule(DIRECT, "10.0.0.0/8"),
    rule(DENY, to("*", 22)),
    rule(DIRECT, "a.example"),
    rule(DENY, "10.0.0.0/9"),
    rule(DIRECT, ".b.a.example"),
)


def test_a_plan_is_cut_before_its_first_name() -> None:
    leading, rest = MIXED.split_leading()

    assert aspects_of(leading) == [A, P]
    assert aspects_of(rest) == [N, A, N]
    assert leading.default == rest.default == MIXED.default


def test_a_plan_without_names_has_nothing_after_the_cut() -> None:
    leading, rest = plan_of(rule(DIRECT, "10.0.0.0/8"), rule(DENY, to("*", 22))).split_leading()

    assert aspects_of(leading) == [A, P]
    assert rest.segments == ()


def test_connections_that_name_no_host_skip_the_names() -> None:
    unnamed = MIXED.without_names(DENY)

    assert aspects_of(unnamed) == [A, P, A]
    assert unnamed.default == DENY


def test_a_plan_knows_the_nodes_of_all_its_name_look_ups() -> None:
    assert MIXED.name_nodes == ("*.a.example", "*.b.a.example", "a.example")
