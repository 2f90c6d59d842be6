"""The end of the server's own certificate is told before it comes: in the log, every day, and as a number."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.certificates import DAY, Authority, Issued
from xds.admission.certificate import ServerCertificate
from xds.facts import FileContent
from xds.server.authentication import Authentication
from xds.server.reminders import remind_of_end
from xds.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

CERTIFICATE, KEY = Path("/tls/tls.crt"), Path("/tls/tls.key")
SETTINGS = Settings(tls_certificate=CERTIFICATE, tls_key=KEY)
START = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = Authority(start=START)
YEAR = AUTHORITY.issue("xds.example", lifetime=365 * DAY)
BRIEF = AUTHORITY.issue("xds.example", lifetime=9 * DAY)
END = (START + 365 * DAY).timestamp()


def files(issued: Issued) -> Mapping[str, FileContent]:
    """Return the server's files."""
    return {str(CERTIFICATE): FileContent(issued.certificate), str(KEY): FileContent(issued.key)}


def after(days: float) -> float:
    """Return the moment so many days after the certificates began, in seconds since the epoch."""
    return (START + timedelta(days=days)).timestamp()


def warnings(logs: list[MutableMapping[str, object]]) -> list[object]:
    """Return what was warned of."""
    return [line["event"] for line in logs if line["log_level"] == "warning"]


@pytest.mark.parametrize(
    ("issued", "days", "is_told"),
    [(YEAR, 343.0, False), (YEAR, 345.0, True), (BRIEF, 5.0, False), (BRIEF, 7.0, True)],
    ids=["22 days before", "20 days before", "a brief one, 4 days before", "a brief one, 2 days before"],
)
def test_the_start_tells_of_a_certificate_that_ends_within_three_weeks(
    issued: Issued, days: float, is_told: bool
) -> None:
    authentication = Authentication(SETTINGS, clock=lambda: after(days))

    with capture_logs() as logs:
        authentication.load(files(issued))

    assert warnings(logs) == ["the server's certificate ends soon"] * is_told


def test_a_certificate_that_ends_while_the_server_runs_is_told_and_one_in_exchange_for_it_ends_that() -> None:
    now = after(1)
    authentication = Authentication(SETTINGS, clock=lambda: now)
    with capture_logs() as logs:
        authentication.load(files(BRIEF))
        now = after(10)
        authentication.warn_of_end()
        authentication.reload(files(YEAR))
        authentication.warn_of_end()

    assert warnings(logs) == ["the server's certificate has ended"]
    assert authentication.certificate_ends_at == END


def test_an_exchange_for_another_that_ends_soon_is_told() -> None:
    authentication = Authentication(SETTINGS, clock=lambda: after(8))
    authentication.load(files(YEAR))

    with capture_logs() as logs:
        authentication.reload(files(BRIEF))

    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["ends"] == (START + 9 * DAY).isoformat()
    assert line["path"] == str(CERTIFICATE)


async def test_it_is_told_again_and_again() -> None:
    authentication = Authentication(SETTINGS, clock=lambda: after(350))
    authentication.load(files(YEAR))
    with capture_logs() as logs:
        task = asyncio.create_task(remind_of_end(authentication, every=0.001))
        async with asyncio.timeout(10):
            while len(warnings(logs)) < 3:  # noqa: ASYNC110  # what is waited for has no event of its own
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert set(warnings(logs)) == {"the server's certificate ends soon"}


def test_without_a_certificate_there_is_no_end() -> None:
    authentication = Authentication(Settings(), clock=lambda: 0.0)
    authentication.load({})

    with capture_logs() as logs:
        authentication.warn_of_end()

    assert authentication.certificate_ends_at is None
    assert logs == []


def test_the_certificate_for_reviews_tells_its_end_and_follows_an_exchange() -> None:
    certificate = ServerCertificate(CERTIFICATE, KEY)
    told = [certificate.ends_at]

    for given in (files(BRIEF), files(YEAR), {**files(BRIEF), str(KEY): FileContent(YEAR.key)}):
        certificate.reload(given)
        told.append(certificate.ends_at)

    assert told == [None, after(9), END, END], "what can't be used changes nothing"
