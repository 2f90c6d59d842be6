"""What several replicas say is put together without hiding anything, and changes are told once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xds.inspection.fleet import (
    Answer,
    Change,
    Filter,
    Fleet,
    SidecarStatus,
    State,
    TypeReport,
    find_changes,
    put_together,
    remember,
)

WEB = SidecarStatus(node="web-0.shop", replica="xds-0", state=State.CURRENT, policy="shop/corp", since=1.0)
DB = SidecarStatus(node="db-0.shop", replica="xds-1", state=State.REFUSED, policy="shop/db", since=2.0)
FIRST, SECOND = Answer(replica="xds-0", sidecars=(WEB,)), Answer(replica="xds-1", sidecars=(DB,))
SILENT = Answer(replica="xds-1", problem="xds-1 can't be reached")
ALL = Filter()


def nodes(fleet: Fleet) -> list[tuple[str, State]]:
    return [(sidecar.node, sidecar.state) for sidecar in fleet.sidecars]


def test_what_the_replicas_say_is_put_together_by_node() -> None:
    fleet = put_together((FIRST, SECOND), None, ALL)

    assert fleet.sidecars == (DB, WEB)
    assert not fleet.is_current
    assert fleet.counts[State.REFUSED] == fleet.counts[State.CURRENT] == 1


def test_a_node_that_two_replicas_see_is_shown_twice() -> None:
    moved = replace(WEB, replica="xds-1")

    fleet = put_together((Answer(replica="xds-1", sidecars=(moved,)), FIRST), frozenset({WEB.node}), ALL)

    assert fleet.sidecars == (WEB, moved)


def test_those_that_are_expected_and_that_nobody_knows_are_offline() -> None:
    fleet = put_together((FIRST, SECOND), frozenset({WEB.node, "new-0.shop"}), ALL)

    assert nodes(fleet) == [
        ("db-0.shop", State.REFUSED),
        ("new-0.shop", State.OFFLINE),
        ("web-0.shop", State.CURRENT),
    ]


def test_nobody_is_called_offline_while_a_replica_does_not_answer() -> None:
    fleet = put_together((FIRST, SILENT), frozenset({WEB.node, DB.node}), ALL)

    assert nodes(fleet) == [("web-0.shop", State.CURRENT)]
    assert fleet.problems == ("xds-1 can't be reached",)
    assert "offline" in fleet.notes[0]


def test_one_who_is_named_and_that_nobody_knows_may_be_mistyped_and_is_not_invented() -> None:
    fleet = put_together((FIRST, SECOND), None, Filter(nodes=("wep-0.shop", "x*", "web-*")))

    assert nodes(fleet) == [("web-0.shop", State.CURRENT)]
    assert fleet.missing == (
        "no replica knows wep-0.shop; connected are: web-0.shop, db-0.shop",
        "no replica knows x*; connected are: db-0.shop, web-0.shop",
    )
    assert not fleet.is_current


def test_one_who_is_named_and_expected_is_offline() -> None:
    fleet = put_together((FIRST,), frozenset({"new-0.shop"}), Filter(nodes=("new-0.shop",)))

    assert nodes(fleet) == [("new-0.shop", State.OFFLINE)]
    assert fleet.missing == ()


def test_a_few_of_those_that_are_connected_are_named_the_most_alike_first() -> None:
    connected = [f"pod-{number}.shop" for number in range(20)]

    fleet = put_together((SILENT,), None, Filter(nodes=("pod-19.shpo",)), connected=connected)

    (text,) = fleet.missing
    assert text.startswith("no replica that answers knows pod-19.shpo; connected are: pod-19.shop, ")
    assert text.endswith(" and 15 more")


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        pytest.param(
            Filter(policies=("nope", "*/db")),
            ("no sidecar has the policy nope; there are: shop/corp, shop/db",),
            id="a policy that nobody has",
        ),
        pytest.param(
            Filter(nodes=("web-*",), policies=("shop/db",)),
            ("no sidecar of web-* has the policy shop/db; there are: shop/corp",),
            id="a policy that only others have",
        ),
        pytest.param(Filter(nodes=("web-*",), problems_only=True), (), id="who is current is not missing"),
    ],
)
def test_a_filter_that_finds_nobody_says_whom_there_is(wanted: Filter, missing: tuple[str, ...]) -> None:
    fleet = put_together((FIRST, SECOND), None, wanted)

    assert fleet.missing == missing


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param(ALL, ["web-0.shop", "db-0.shop"], id="no filter leaves all"),
        pytest.param(Filter(nodes=("web-0.shop",)), ["web-0.shop"], id="an id stands for itself"),
        pytest.param(Filter(nodes=("web-0",)), [], id="a part of an id stands for nothing"),
        pytest.param(Filter(nodes=("*.shop",)), ["web-0.shop", "db-0.shop"], id="a star stands for any characters"),
        pytest.param(Filter(nodes=("web?0.shop", "d[b]-0*")), [], id="nothing else is a wildcard"),
        pytest.param(Filter(nodes=("x*", "db-*")), ["db-0.shop"], id="one of several patterns is enough"),
        pytest.param(Filter(policies=("shop/corp",)), ["web-0.shop"], id="a policy"),
        pytest.param(Filter(policies=("*/db",), nodes=("web-*",)), [], id="node and policy have to match both"),
        pytest.param(Filter(problems_only=True), ["db-0.shop"], id="only problems"),
    ],
)
def test_a_filter_chooses(wanted: Filter, found: list[str]) -> None:
    assert [sidecar.node for sidecar in wanted.choose((WEB, DB))] == found


@pytest.mark.parametrize(
    ("patterns", "prefixes"),
    [
        pytest.param((), (), id="without patterns all are asked for"),
        pytest.param(("web-*.shop", "db-0.shop"), ("web-", "db-0.shop"), id="what is before the star is known"),
        pytest.param(("web-*", "*.shop"), (), id="if one may begin with anything, all are asked for"),
    ],
)
def test_servers_are_asked_for_no_more_than_needed(patterns: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    assert Filter(nodes=patterns).prefixes == prefixes


def test_a_change_is_one_of_what_is_shown_and_not_of_age() -> None:
    before = put_together((FIRST, SECOND), None, ALL)
    types = {"cluster": TypeReport(is_current=False, sent="2", acknowledged="1")}
    pending = replace(WEB, state=State.PENDING, types=types, since=50.0)
    after = put_together((Answer(replica="xds-0", sidecars=(pending,)), SECOND), None, ALL)

    assert find_changes(before, before) == ()
    assert find_changes(before, after) == (Change(replace(WEB, since=None), replace(pending, since=None)),)


def test_those_that_come_and_go_are_changes() -> None:
    before = put_together((FIRST, Answer(replica="xds-1")), None, ALL)
    after = put_together((Answer(replica="xds-0"), SECOND), None, ALL)

    assert find_changes(before, after) == (
        Change(None, replace(DB, since=None)),
        Change(replace(WEB, since=None), None),
    )


def test_sidecars_of_a_replica_that_does_not_answer_are_not_gone_however_long_that_lasts() -> None:
    before = put_together((FIRST, SECOND), frozenset({"new-0.shop"}), ALL)
    silent = put_together((FIRST, SILENT), frozenset({"new-0.shop"}), ALL)
    again = put_together((FIRST, Answer(replica="xds-1")), frozenset({"new-0.shop"}), ALL)

    second = remember(before, silent)
    third = remember(second, silent)
    last = remember(third, again)

    assert find_changes(before, second) == find_changes(second, third) == ()
    assert find_changes(third, last) == (Change(replace(DB, since=None), None),)
