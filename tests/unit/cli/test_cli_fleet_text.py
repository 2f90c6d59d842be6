"""Sidecars as people and programs see them: aligned, in one line each, and without what a terminal would obey."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import pytest

from xds.cli.fleet_text import (
    describe_change,
    describe_fleet,
    in_ascii,
    render_age,
    render_change,
    render_table,
    summarise,
)
from xds.clients import InForce
from xds.inspection.fleet import (
    Answer,
    Change,
    Filter,
    Fleet,
    Refusal,
    SidecarStatus,
    State,
    TypeReport,
    put_together,
)

NOW = 1_795_255_200.0
OLD, NEW = "0123456789abcdef", "fedcba9876543210"
GOOD = TypeReport(is_current=True, resources=4, sent=OLD, acknowledged=OLD)
LATE = TypeReport(is_current=False, resources=2, sent=NEW, acknowledged=OLD)
FRESH = TypeReport(is_current=False, resources=2, sent=NEW)
UNSENT = TypeReport(is_current=False, resources=2, sent=OLD, acknowledged=OLD)
UNKNOWN = TypeReport(is_current=True, resources=1)


def refused(text: str = "no such filter", at: float = NOW - 75) -> TypeReport:
    return TypeReport(is_current=False, resources=2, sent=NEW, acknowledged=OLD, refusal=Refusal(NEW, text, at))


def sidecar(node: str, state: State = State.CURRENT, **types: TypeReport) -> SidecarStatus:
    return SidecarStatus(
        node=node,
        replica="egress-xds-0",
        state=state,
        policy="shop/corp",
        standing=InForce.POLICY,
        since=NOW - 3_725,
        variant="delta",
        types=types,
    )


def fleet(*sidecars: SidecarStatus, problem: str = "") -> Fleet:
    answers = [Answer(replica="egress-xds-0", sidecars=sidecars)]
    if problem:
        answers.append(Answer(replica="egress-xds-1", problem=problem))
    return put_together(tuple(answers), None, Filter())


WHOLE = fleet(
    sidecar("bad-0.shop", State.REFUSED, cluster=GOOD, listener=refused()),
    sidecar("bad-1.shop", State.REFUSED, cluster=GOOD, listener=refused(at=NOW - 5)),
    replace(sidecar("held-0.shop", State.HELD), standing=InForce.HELD, policy="shop/held"),
    sidecar("late-0.shop", State.PENDING, cluster=LATE, listener=FRESH, route=UNSENT, secret=GOOD),
    replace(sidecar("lone-0.other", cluster=GOOD, listener=UNKNOWN), standing=InForce.REFUSE_ALL, policy=""),
    SidecarStatus(node="off-0.shop", state=State.OFFLINE),
    sidecar("web-0.shop", cluster=GOOD, listener=GOOD, route=GOOD),
)

TABLE = """\
NODE          POLICY     REPLICA       STATE    CLUSTERS       LISTENERS  ROUTES    SECRETS  AGE
bad-0.shop    shop/corp  egress-xds-0  refused  ✓              ✗ fedcba   -         -        1h2m
bad-1.shop    shop/corp  egress-xds-0  refused  ✓              ✗ fedcba   -         -        1h2m
held-0.shop   shop/held  egress-xds-0  held     -              -          -         -        1h2m
late-0.shop   shop/corp  egress-xds-0  pending  fedcba/012345  fedcba/-   …/012345  ✓        1h2m
lone-0.other  (none)     egress-xds-0  current  ✓              ✓          -         -        1h2m
off-0.shop    -          -             offline  -              -          -         -        -
web-0.shop    shop/corp  egress-xds-0  current  ✓              ✓          ✓         -        1h2m

listener fedcba refused by bad-0.shop, bad-1.shop, 5s ago:
  no such filter"""


def test_the_table_is_aligned_and_says_below_it_what_was_refused() -> None:
    assert click.unstyle(render_table(WHOLE, NOW)) == TABLE


def test_what_a_policy_lacks_is_said_once_with_the_remedy() -> None:
    lacking = [replace(sidecar(f"api-{n}.shop", State.LACKING, cluster=GOOD), lacks="explicit.port") for n in range(4)]
    newer = replace(sidecar("zz-0.shop", State.LACKING, cluster=GOOD), lacks="some.key", policy="")

    told = click.unstyle(render_table(fleet(*lacking, newer), NOW)).splitlines()

    assert told[1].split()[:4] == ["api-0.shop", "shop/corp", "egress-xds-0", "lacking"]
    assert told[-5:-3] == [
        "explicit.port is missing in the policy shop/corp of api-0.shop, api-1.shop, api-2.shop and 1 more:",
        "  applications are told of a port where nobody listens; add `mode: explicit`, which implies it",
    ]
    assert told[-2:] == ["some.key is missing in the policy - of zz-0.shop:", "  a newer xds knows what to do"]
    described = describe_fleet(fleet(*lacking, newer), NOW)
    assert [one["lacks"] for one in described["sidecars"]][3:] == ["explicit.port", "some.key"]  # type: ignore[attr-defined]  # it is JSON


def test_a_wide_table_names_the_versions_that_run() -> None:
    whole = fleet(sidecar("web-0.shop", cluster=GOOD, listener=UNKNOWN))

    line = click.unstyle(render_table(whole, NOW, is_wide=True)).splitlines()[1]

    assert line.split()[4:7] == ["✓", "012345", "✓"]


def test_the_state_is_coloured_and_nothing_else_of_a_line() -> None:
    line = render_table(WHOLE, NOW).splitlines()[1]

    assert click.style("refused", fg="red") in line
    assert line.count("\x1b[") == 2


def test_endpoints_have_a_column_only_if_somebody_asks_for_them() -> None:
    assert "ENDPOINTS" not in render_table(WHOLE, NOW)
    assert "ENDPOINTS" in render_table(fleet(sidecar("web-0.shop", endpoint=GOOD)), NOW)


def test_those_who_refuse_the_same_are_told_of_once_and_three_are_named() -> None:
    several = [sidecar(f"bad-{number}.shop", State.REFUSED, listener=refused()) for number in range(5)]
    other = sidecar("other-0.shop", State.REFUSED, listener=refused("something else"))

    below = click.unstyle(render_table(fleet(*several, other), NOW)).split("\n\n")[1:]

    assert below == [
        "listener fedcba refused by bad-0.shop, bad-1.shop, bad-2.shop and 2 more, 1m15s ago:\n  no such filter",
        "listener fedcba refused by other-0.shop, 1m15s ago:\n  something else",
    ]


def test_nothing_that_a_sidecar_says_is_obeyed_by_a_terminal() -> None:
    bad = sidecar("web-0.shop\x1b[2J", State.REFUSED, listener=refused("\x1b]0;title\x07 bell\nnew line \x9b31m"))
    whole = fleet(replace(bad, policy="\x1b[1m", replica="\x1b[1m"))

    shown = click.unstyle(render_table(whole, NOW)) + click.unstyle(render_change(Change(None, bad)))

    assert all(letter.isprintable() or letter == "\n" for letter in shown)
    assert "bell new line" in shown


def test_an_id_with_spaces_does_not_look_like_several_columns() -> None:
    bad = replace(sidecar("web-0.shop  shop/corp\tcurrent"), policy="a b", replica="c d")

    line = click.unstyle(render_table(fleet(bad), NOW)).splitlines()[1]

    assert line.split()[3] == "current"
    assert line.startswith("web-0.shop\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}shop/corp")


@pytest.mark.parametrize("since", [1e308, -1e308, float("inf"), float("nan"), 0.0 - 4e9, 1e300])
def test_a_moment_that_no_clock_has_is_not_known(since: float) -> None:
    odd = replace(sidecar("web-0.shop", listener=refused(at=since)), since=since)
    whole = fleet(odd)

    table = click.unstyle(render_table(whole, NOW))

    assert table.splitlines()[1].split()[-1] == "?"
    assert "? ago" in table
    described = describe_fleet(whole, NOW)["sidecars"]
    assert json.loads(json.dumps(described, allow_nan=False))[0]["ageSeconds"] is None


@pytest.mark.parametrize(
    ("whole", "sentence"),
    [
        pytest.param(
            WHOLE, "7 sidecars, 1 replica: 2 current, 1 pending, 2 refused, 1 held, 1 offline", id="all states"
        ),
        pytest.param(fleet(), "0 sidecars, 1 replica", id="nobody"),
        pytest.param(
            fleet(sidecar("web-0.shop"), problem="gone"), "1 sidecar, 1 of 2 replicas: 1 current", id="one is silent"
        ),
    ],
)
def test_one_sentence_sums_up(whole: Fleet, sentence: str) -> None:
    assert summarise(whole) == sentence


BEFORE, AFTER = sidecar("web-0.shop", cluster=GOOD, listener=GOOD), sidecar("web-0.shop", cluster=GOOD, listener=GOOD)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(
            Change(None, BEFORE),
            "web-0.shop  new → current  shop/corp  egress-xds-0  cluster ✓ 012345, listener ✓ 012345",
            id="a new one",
        ),
        pytest.param(Change(BEFORE, None), "web-0.shop  current → gone  shop/corp  egress-xds-0", id="one that left"),
        pytest.param(
            Change(BEFORE, sidecar("web-0.shop", State.PENDING, cluster=GOOD, listener=LATE)),
            "web-0.shop  current → pending  shop/corp  egress-xds-0  listener fedcba/012345",
            id="one that was sent something",
        ),
        pytest.param(
            Change(BEFORE, sidecar("web-0.shop", State.REFUSED, cluster=GOOD, listener=refused())),
            "web-0.shop  current → refused  shop/corp  egress-xds-0  listener ✗ fedcba  no such filter",
            id="one that refused it",
        ),
        pytest.param(
            Change(BEFORE, replace(BEFORE, policy="shop/other")),
            "web-0.shop  current  shop/other  egress-xds-0",
            id="one with another policy",
        ),
    ],
)
def test_a_change_is_one_line(change: Change, line: str) -> None:
    assert click.unstyle(render_change(change)) == line


def test_json_tells_everything_and_what_is_not_known_is_null() -> None:
    whole = fleet(
        sidecar("bad-0.shop", State.REFUSED, cluster=GOOD, listener=refused()),
        SidecarStatus(node="x", state=State.HELD),
    )

    described = json.loads(json.dumps(describe_fleet(whole, NOW)))

    assert described == {
        "replicas": [{"replica": "egress-xds-0", "answered": True, "problem": None}],
        "sidecars": [
            {
                "node": "bad-0.shop",
                "replica": "egress-xds-0",
                "state": "refused",
                "policy": "shop/corp",
                "inForce": "policy",
                "variant": "delta",
                "lacks": None,
                "since": "2026-11-21T08:57:55.000Z",
                "ageSeconds": 3725.0,
                "types": {
                    "cluster": {
                        "current": True,
                        "resources": 4,
                        "sent": OLD,
                        "acknowledged": OLD,
                        "refused": None,
                    },
                    "listener": {
                        "current": False,
                        "resources": 2,
                        "sent": NEW,
                        "acknowledged": OLD,
                        "refused": {"version": NEW, "text": "no such filter", "at": "2026-11-21T09:58:45.000Z"},
                    },
                },
            },
            {
                "node": "x",
                "replica": None,
                "state": "held",
                "policy": None,
                "inForce": None,
                "variant": None,
                "lacks": None,
                "since": None,
                "ageSeconds": None,
                "types": {},
            },
        ],
        "summary": {"sidecars": 2, "current": 0, "pending": 0, "refused": 1, "held": 1, "lacking": 0, "offline": 0},
        "notes": [],
    }


@pytest.mark.parametrize(
    ("change", "state", "before"),
    [
        pytest.param(Change(None, BEFORE), "current", None, id="a new one"),
        pytest.param(Change(BEFORE, replace(BEFORE, state=State.PENDING)), "pending", "current", id="a change"),
        pytest.param(Change(BEFORE, None), "gone", "current", id="one that left"),
    ],
)
def test_a_change_as_json_tells_the_state_before(change: Change, state: str, before: str | None) -> None:
    described = describe_change(change, NOW)

    assert (described["node"], described["state"], described["before"]) == ("web-0.shop", state, before)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.4, "0s"), (59.9, "59s"), (192, "3m12s"), (7_500, "2h5m"), (356_400, "4d3h")],
)
def test_an_age_has_two_units_at_most(seconds: float, text: str) -> None:
    assert render_age(seconds) == text


def test_a_moment_that_no_calendar_knows_is_null() -> None:
    described = describe_fleet(fleet(replace(sidecar("web-0.shop"), since=1e300)), NOW)

    assert isinstance(described["sidecars"], list)
    assert described["sidecars"][0]["since"] is None


def test_marks_in_ascii_are_as_wide_as_the_others() -> None:
    assert in_ascii("✓ 1  ✗ 2  …/3  a → b  é") == "+ 1  ! 2  ~/3  a > b  ?"
