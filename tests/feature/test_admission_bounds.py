"""What the webhook grants to whoever reaches it: so many connections, so long, so many bytes, and answers to whom."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.feature.test_admission import (
    CERTIFICATE,
    GOOD,
    KEY,
    SERVICE,
    Webhook,
    files,
    question,
    running,
    slow,
)
from tests.feature.test_admission_pods import asked, desks, known
from tests.support.certificates import Authority
from xds.admission.budget import Budget
from xds.admission.certificate import ServerCertificate
from xds.admission.connections import BETWEEN, FIRST_HEAD, MAX_CONNECTIONS, MAX_OF_ONE
from xds.admission.policies import UNDECIDED_POLICY
from xds.admission.review import Verdict
from xds.admission.server import INJECT, MAX_POD_BYTES, VALIDATE_POLICY, AdmissionServer, Desk, Outcome
from xds.errors import SettingsError
from xds.facts import FileContent
from xds.flags import HostPort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.certificates import Issued
    from xds.admission.review import Review

CLIENT_CA = Path("client-ca.crt")
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def connect(webhook: Webhook, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and say the beginning of something."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", webhook.port, ssl=webhook.context(), server_hostname=SERVICE
    )
    writer.write(sent)
    return reader, writer


async def is_ended(reader: asyncio.StreamReader) -> bool:
    """Wait until a connection ends without a word."""
    async with asyncio.timeout(10):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def is_answered(reader: asyncio.StreamReader) -> bool:
    """Whether `/healthz` is told, or the connection ends."""
    async with asyncio.timeout(10):
        try:
            return (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")
        except (ConnectionResetError, asyncio.IncompleteReadError):
            return False


def test_one_address_gets_less_than_half_of_all_and_more_than_an_api_server_needs() -> None:
    assert 200 < MAX_OF_ONE < MAX_CONNECTIONS / 2
    assert FIRST_HEAD <= 10
    assert BETWEEN > 90, "Go's clients close what is idle before that"


@pytest.mark.parametrize("sent", [b"", b"GET /hea", GET[:-2]], ids=["nothing", "half a line", "half a head"])
async def test_who_asks_nothing_whole_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("xds.admission.connections.FIRST_HEAD", 0.3)
    async with running() as webhook:
        reader, writer = await connect(webhook, sent)
        assert await is_ended(reader)
        writer.close()


async def test_a_connection_is_kept_for_further_questions_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.admission.connections.FIRST_HEAD", 0.3)
    monkeypatch.setattr("xds.admission.connections.BETWEEN", 0.6)
    async with running() as webhook:
        reader, writer = await connect(webhook, GET)
        assert await is_answered(reader)
        writer.write(GET)
        assert await is_answered(reader)
        assert await is_ended(reader)
        writer.close()


@pytest.mark.parametrize("bound", ["MAX_OF_ONE", "MAX_CONNECTIONS"])
async def test_idle_connections_give_way_to_new_ones_those_idle_for_longest_first(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"xds.admission.connections.{bound}", 4)
    async with running() as webhook:
        silent = [await connect(webhook) for _ in range(3)]
        used, writer = await connect(webhook, GET)
        assert await is_answered(used)
        new = [await connect(webhook, GET) for _ in range(3)]

        assert [await is_answered(reader) for reader, _ in new] == [True] * 3
        assert [await is_ended(reader) for reader, _ in silent] == [True] * 3
        writer.write(GET)
        assert await is_answered(used)
        for _, each in (*silent, *new):
            each.close()
        writer.close()


async def test_a_connection_on_which_something_is_decided_gives_way_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.admission.connections.MAX_OF_ONE", 2)
    stop = Event()
    body = json.dumps(question("admission-configmap-create")).encode()
    head = f"POST {VALIDATE_POLICY}?timeout=10s HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with running(slow(stop)) as webhook:
        busy = [await connect(webhook, head.encode() + body) for _ in range(2)]
        await asyncio.sleep(0.3)  # noqa: ASYNC251, RUF100  # nobody tells that a question has been read
        late, writer = await connect(webhook, GET)
        assert not await is_answered(late)
        stop.set()
        async with asyncio.timeout(10):
            assert [await reader.readline() for reader, _ in busy] == [b"HTTP/1.1 200 OK\r\n"] * 2
        for _, each in (*busy, (late, writer)):
            each.close()


# --- bytes


async def test_a_body_about_a_pod_is_as_large_as_a_pod_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_POD_BYTES < 2 << 20
    monkeypatch.setattr("xds.admission.server.MAX_POD_BYTES", 10)
    async with running(desks=desks(known(), most_bytes=MAX_POD_BYTES)) as webhook:
        status, _ = await webhook.send(b" " * (MAX_POD_BYTES + 1), path=INJECT)
        compressed, _ = await webhook.send(b" " * MAX_POD_BYTES, path=INJECT)

    assert (status, compressed) == (413, 400)


async def test_as_many_objects_are_parsed_at_a_time_as_there_are_threads() -> None:
    """Whoever waits, for a namespace or for his turn, does so as bytes."""
    stop, heads, decided = Event(), list[object](), list[object]()

    async def prepare(head: Review) -> None:
        heads.append(head.new)

    def review(found: Review) -> Callable[[], Verdict]:
        decided.append(found.new)
        return lambda: Verdict("late") if stop.wait(30) else Verdict()

    found = replace(desks(known())[INJECT], reviewer=review, prepare=prepare)
    async with running(desks={INJECT: found}) as webhook:
        asking = [asyncio.create_task(webhook.ask(asked(), path=f"{INJECT}?timeout=2s")) for _ in range(6)]
        answers = await asyncio.gather(*asking)
        under_way = len(decided)
        stop.set()

    assert heads == [None] * 6
    assert under_way == 2, "also after those who asked were answered"
    assert {answer["status"]["code"] for answer in answers} == {503}


async def test_one_address_leaves_bytes_to_others_and_what_was_held_is_given_back() -> None:
    budget = Budget(10, 6)
    loop = asyncio.get_running_loop()
    async with budget.hold("a", 4, loop.time() + 5):
        with pytest.raises(TimeoutError):
            async with budget.hold("a", 3, loop.time() + 0.05):
                raise AssertionError
        async with budget.hold("b", 6, loop.time() + 5):
            with pytest.raises(TimeoutError):
                async with budget.hold("c", 1, loop.time() + 0.05):
                    raise AssertionError
    async with budget.hold("a", 6, loop.time() + 0.05), budget.hold("b", 4, loop.time() + 0.05):
        pass


async def test_who_wants_much_is_not_overtaken_by_his_own_and_holds_up_nobody_else() -> None:
    budget, order = Budget(10, 6), list[str]()
    deadline = asyncio.get_running_loop().time() + 5

    async def want(who: str, size: int, name: str) -> None:
        async with budget.hold(who, size, deadline):
            order.append(name)
            await asyncio.sleep(0)

    async with budget.hold("a", 4, deadline):
        waiting = [asyncio.create_task(want(*each)) for each in (("a", 6, "large"), ("a", 1, "small"))]
        await asyncio.sleep(0)
        await want("b", 4, "other")
        assert order == ["other"]
    await asyncio.gather(*waiting)

    assert order == ["other", "large", "small"]


# --- what became of questions


async def test_questions_are_counted_by_path_and_outcome_and_never_by_a_name() -> None:
    stop = Event()
    stop.set()
    found = {**desks(known()), VALIDATE_POLICY: Desk(reviewer=slow(stop), undecided=UNDECIDED_POLICY)}
    async with serving(found) as (server, webhook):
        await webhook.ask(asked(), path=f"{INJECT}?timeout=10s")
        await webhook.ask(asked(inject="false"), path=f"{INJECT}?timeout=10s")
        await webhook.ask(asked(mode="sideways"), path=f"{INJECT}?timeout=10s")
        await webhook.ask(question("admission-configmap-create", GOOD))
        await webhook.send(b"{", path=INJECT)
        counted = {key: total for key, total in server.outcomes.items() if total}

    assert counted == {
        (INJECT, Outcome.LEFT_ALONE): 1,
        (INJECT, Outcome.INJECTED): 1,
        (INJECT, Outcome.REFUSED): 1,
        (INJECT, Outcome.MALFORMED): 1,
        (VALIDATE_POLICY, Outcome.REFUSED): 1,
    }


async def test_what_was_not_decided_in_time_and_what_did_not_come_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.admission.server._BODY", 0.2)
    stop = Event()
    found = {VALIDATE_POLICY: Desk(reviewer=slow(stop), undecided=UNDECIDED_POLICY)}
    async with serving(found) as (server, webhook):
        await webhook.ask(question("admission-configmap-create", GOOD), path=f"{VALIDATE_POLICY}?timeout=1s")
        stop.set()
        head = f"POST {VALIDATE_POLICY} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{"
        reader, writer = await connect(webhook, head.encode())
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()

    counted = {outcome: total for (_, outcome), total in server.outcomes.items() if total}
    assert counted == {Outcome.UNDECIDED: 1, Outcome.UNREAD: 1}


@pytest.mark.parametrize("part", ["namespace", "name", "operation"])
async def test_nobody_writes_more_than_a_name_into_the_log(part: str) -> None:
    body = question("admission-configmap-update")
    body["request"][part] = "N" * 300
    with capture_logs() as logs:
        async with running() as webhook:
            status, text = await webhook.send(json.dumps(body).encode())

    assert (status, "NNN" in text) == (400, False)
    assert "NNN" not in str(logs)


# --- who is answered


@asynccontextmanager
async def serving(
    found: dict[str, Desk], certificate: ServerCertificate | None = None, authority: Authority | None = None
) -> AsyncIterator[tuple[AdmissionServer, Webhook]]:
    """Run a server that is looked into."""
    issuer, shown = authority or Authority(), certificate or ServerCertificate(CERTIFICATE, KEY)
    if certificate is None:
        shown.load(files(issuer))
    found = {path: replace(desk, unchanged=_unchanged(path)) for path, desk in found.items()}
    server = AdmissionServer(found, shown)
    port = await server.start(HostPort(host="127.0.0.1", port=0))
    try:
        yield server, Webhook(shown, issuer, port)
    finally:
        await server.stop()


def _unchanged(path: str) -> Outcome:
    return Outcome.LEFT_ALONE if path == INJECT else Outcome.ALLOWED


async def is_heard(webhook: Webhook, shown: Issued | None, directory: Path) -> bool:
    """Whether a client that shows a certificate, or none, is told `/healthz`."""
    context = webhook.context()
    if shown is not None:
        pair = directory / "pair.pem"
        pair.write_text(shown.key + shown.certificate, encoding="utf-8")
        context.load_cert_chain(pair)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.get(f"https://127.0.0.1:{webhook.port}/healthz", server_hostname=SERVICE) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, ssl.SSLError, ConnectionError):
            return False


async def test_with_an_authority_only_those_are_answered_whom_it_signed_also_when_it_changes(tmp_path: Path) -> None:
    issuer, first, second = Authority(), Authority("first"), Authority("second")
    callers = {None: None, "first": first.issue("kube-apiserver"), "second": second.issue("kube-apiserver")}
    certificate = ServerCertificate(CERTIFICATE, KEY, CLIENT_CA)
    own = files(issuer)
    certificate.load({**own, str(CLIENT_CA): FileContent(first.certificate)})
    assert certificate.files == {str(CERTIFICATE), str(KEY), str(CLIENT_CA)}

    async with serving(desks(known()), certificate, issuer) as (_, webhook):
        before = [await is_heard(webhook, shown, tmp_path) for shown in callers.values()]
        certificate.reload({**own, str(CLIENT_CA): FileContent("no PEM")})
        broken = [await is_heard(webhook, shown, tmp_path) for shown in callers.values()]
        certificate.reload({**own, str(CLIENT_CA): FileContent(second.certificate)})
        after = [await is_heard(webhook, shown, tmp_path) for shown in callers.values()]

    assert before == broken == [False, True, False]
    assert after == [False, False, True]


@pytest.mark.parametrize("text", ["", "no PEM"], ids=["nothing", "no PEM"])
def test_an_authority_that_is_none_ends_the_start(text: str) -> None:
    certificate = ServerCertificate(CERTIFICATE, KEY, CLIENT_CA)

    with pytest.raises(SettingsError, match=r"--admission-client-ca client-ca\.crt: no PEM"):
        certificate.load({**files(Authority()), str(CLIENT_CA): FileContent(text)})
