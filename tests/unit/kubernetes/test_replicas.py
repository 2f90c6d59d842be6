"""The numbers of all replicas: added up, forgotten when a replica is gone, bounded, and no trap; in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_api import SmallApi
from tests.support.virtual_time import run_virtually
from xds.kubernetes.asking import Environs
from xds.kubernetes.connection import ApiError
from xds.kubernetes.lease import leases_path
from xds.kubernetes.replicas import Member, Replicas, add_up, digest, read_counts, render_counts
from xds.kubernetes.status import Streams, Tally

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from xds.judge import PolicyKey

OWN: PolicyKey = ("team-a", "default")
WIDE: PolicyKey = (None, "default")
LEASES = leases_path("egress-system")


class _Replica:
    """A replica and its streams."""

    def __init__(self, api: SmallApi, identity: str, *, leads: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.streams: dict[PolicyKey, Streams] = {}
        self.member = Member(namespace="egress-system", identity=identity)
        self.path = f"{LEASES}/{self.member.lease}"
        self.replicas = Replicas(
            api,
            self.member,
            streams=lambda: self.streams,
            leads=lambda: leads,
            environs=Environs(monotonic=loop.time, wall=loop.time, chance=lambda: 0.5),
        )
        self.task = asyncio.create_task(self.replicas.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def _virtually(story: Coroutine[object, object, None]) -> None:
    run_virtually(lambda _: story)


def test_every_replica_knows_the_sum() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "one"), _Replica(api, "two")
        one.streams = {OWN: Streams(connected=3, acknowledged=2, refused=1, refusal="web-2: no")}
        two.streams = {OWN: Streams(connected=2, acknowledged=2), WIDE: Streams(connected=1)}
        await asyncio.sleep(11)
        for replica in (one, two):
            assert replica.replicas.streams_of(OWN) == Streams(
                connected=5, acknowledged=4, refused=1, refusal="web-2: no"
            )
            assert replica.replicas.tallies([WIDE, OWN], {OWN: 6, WIDE: 1}) == {
                WIDE: Tally(pods=1, pending=1),
                OWN: Tally(pods=6, acknowledged=4, refused=1, offline=1, refusal="web-2: no"),
            }
            assert replica.replicas.tallies([WIDE], None) == {WIDE: Tally(pods=1, pending=1)}
            assert replica.replicas.tallies([WIDE], {OWN: 6}) == {WIDE: Tally(pods=1, pending=1)}
        await one.stop()
        await two.stop()

    _virtually(story())


def test_a_replica_that_stops_takes_its_numbers_along() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "one"), _Replica(api, "two")
        one.streams = {OWN: Streams(connected=3)}
        await asyncio.sleep(11)
        await one.stop()
        assert [path for path in api.objects if "replica" in path] == [two.path]
        await asyncio.sleep(6)
        assert two.replicas.streams_of(OWN) == Streams()
        await two.stop()

    _virtually(story())


def test_a_replica_that_is_killed_counts_no_more_soon_and_is_removed_by_the_leader_later() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "one"), _Replica(api, "two", leads=True)
        one.streams = {OWN: Streams(connected=3)}
        await asyncio.sleep(11)
        api.refuse = lambda _method, _path: ApiError(None, "Unreachable", "")
        await one.stop()
        api.refuse = lambda _method, _path: None
        assert two.replicas.streams_of(OWN) == Streams(connected=3)
        await asyncio.sleep(46)
        assert two.replicas.streams_of(OWN) == Streams()
        assert one.path in api.objects
        await asyncio.sleep(120)
        assert [path for path in api.objects if "replica" in path] == [two.path]
        await two.stop()

    _virtually(story())


def test_what_does_not_change_is_told_rarely() -> None:
    async def story() -> None:
        api = SmallApi()
        one = _Replica(api, "one")
        one.streams = {OWN: Streams(connected=3)}
        await asyncio.sleep(300)
        assert len(api.writes("PATCH", "replica")) <= 300 / 15 + 1
        await one.stop()

    _virtually(story())


def test_a_server_that_is_away_leaves_the_numbers_as_they_were_for_a_while() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "one"), _Replica(api, "two")
        one.streams = {OWN: Streams(connected=3)}
        await asyncio.sleep(11)
        api.refuse = lambda _method, _path: ApiError(503, "ServiceUnavailable", "")
        await asyncio.sleep(20)
        assert two.replicas.streams_of(OWN) == Streams(connected=3)
        await asyncio.sleep(40)
        assert two.replicas.streams_of(OWN) == Streams()
        api.refuse = lambda _method, _path: None
        await asyncio.sleep(11)
        assert two.replicas.streams_of(OWN) == Streams(connected=3)
        await one.stop()
        await two.stop()

    _virtually(story())


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", {}),
        ("[]", {}),
        ("{", {}),
        ('{"a": [1, 2]}', {}),
        ('{"a": [1, -2, 0]}', {}),
        ('{"a": ["1", 2, 0], "b": [1, 1, 0, 7]}', {"b": Streams(connected=1, acknowledged=1)}),
        ('{"a": [1, 0, 1, "x\\u001b[31m\\ny"]}', {"a": Streams(connected=1, refused=1, refusal="x\ufffd[31m y")}),
        ('{"a": [99999999999999, 0, 0]}', {}),
        ("[" * 100_000, {}),
        (" " * 300_000, {}),
    ],
)
def test_what_is_not_as_a_replica_tells_is_left_out(text: str, counts: dict[str, Streams]) -> None:
    assert read_counts(text) == counts


@given(
    st.dictionaries(
        st.tuples(st.none() | st.text(max_size=10), st.text(max_size=10)),
        st.builds(Streams, connected=st.integers(0, 9), acknowledged=st.integers(0, 9), refused=st.integers(0, 9)),
    )
)
def test_what_is_told_is_what_is_read(counts: dict[PolicyKey, Streams]) -> None:
    told = {digest(key): streams for key, streams in counts.items()}
    assert read_counts(render_counts(told)) == told
    assert add_up([told, {}]) == told


def test_ten_thousand_policies_are_told_within_bounds() -> None:
    told = {
        digest(("n" * 63, f"policy-{number}")): Streams(connected=10_000, acknowledged=10_000, refusal="x" * 300)
        for number in range(10_000)
    }
    assert len(render_counts(told).encode()) <= 250_000
    thousand = dict(list(told.items())[:1_000])
    assert set(read_counts(render_counts(thousand))) == set(thousand)


def test_two_of_one_name_tell_of_their_own_streams_each() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "same"), _Replica(api, "same")
        one.streams = {OWN: Streams(connected=3)}
        two.streams = {OWN: Streams(connected=2)}
        await asyncio.sleep(11)
        for _ in range(60):
            assert [one.replicas.streams_of(OWN), two.replicas.streams_of(OWN)] == [Streams(connected=5)] * 2
            await asyncio.sleep(1)
        await one.stop()
        assert [path for path in api.objects if "replica" in path] == [two.path]
        await two.stop()

    _virtually(story())


def test_who_was_slow_and_was_removed_tells_again() -> None:
    async def story() -> None:
        api = SmallApi()
        one, two = _Replica(api, "one"), _Replica(api, "two", leads=True)
        one.streams = {OWN: Streams(connected=3)}
        await asyncio.sleep(11)
        api.refuse = lambda method, path: ApiError(503, "Busy", "") if (method, path) == ("PATCH", one.path) else None
        await asyncio.sleep(150)
        assert one.path not in api.objects
        api.refuse = lambda _method, _path: None
        await asyncio.sleep(11)
        assert two.replicas.streams_of(OWN) == Streams(connected=3)
        await one.stop()
        await two.stop()

    _virtually(story())


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("egress-xds-0", "egress-xds-replica-egress-xds-0-0a1b2c3d"),
        ("Host_7", "egress-xds-replica-host-7-0a1b2c3d"),
        ("vm.-7..corp.example.", "egress-xds-replica-vm--7-corp-example-0a1b2c3d"),
        ("___", "egress-xds-replica--0a1b2c3d"),
    ],
)
def test_a_replica_s_lease_has_a_good_name(identity: str, name: str) -> None:
    assert Member(namespace="a", identity=identity, token="0a1b2c3d").lease == name
    assert len(Member(namespace="a", identity=identity * 50).lease) <= 253


def test_no_two_processes_are_the_same() -> None:
    processes = {Member(namespace="a", identity="same") for _ in range(10)}
    assert len({member.lease for member in processes}) == len({member.process for member in processes}) == 10
