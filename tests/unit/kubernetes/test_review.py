"""Reviews of tokens: what a real server answered, what is remembered of it, and what is never told."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tokens import Issuer, claims
from xds.kubernetes.connection import ApiError
from xds.kubernetes.review import PATH, TokenReviews
from xds.server.identity import Caller, parse_claims

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path("tests/data/kubernetes-1.36")


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


CLAIMS = recorded("token-claims")["claims"]
TOKEN: str = recorded("tokenreview-ok")["request"]["body"]["spec"]["token"]
NOW = float(CLAIMS["iat"])
CHECKOUT = Caller(
    namespace="payments",
    service_account="checkout",
    pod="checkout-0",
    pod_uid="2f56dddd-df78-42c8-942f-ee249e5f6bf8",
    expires=CLAIMS["exp"],
)


class Api:
    """An API server that answers each review in the same way, when it may."""

    def __init__(self, answer: dict[str, Any] | ApiError) -> None:
        self.answer = answer
        self.bodies: list[Any] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.at_once = self.most_at_once = 0

    async def request(self, method: str, path: str, *, body: object, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109  # as the real one
        assert (method, path) == ("POST", PATH)
        assert timeout > 0
        self.bodies.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.may_answer.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.answer, ApiError):
            raise self.answer
        return self.answer


def build(
    api: Api, *audiences: str, clock: Callable[[], float] = lambda: NOW, timeout: float = 10.0, at_once: int = 32
) -> TokenReviews:
    told = audiences or ("egress-xds",)
    return TokenReviews(api, told, clock=clock, timeout=timeout, at_once=at_once)  # type: ignore[arg-type]  # only the part that is used


async def test_a_good_token_tells_the_same_as_its_signed_claims() -> None:
    exchange = recorded("tokenreview-ok")
    api = Api(exchange["body"])
    found = await build(api).review(TOKEN)

    assert isinstance(found, dict)
    assert parse_claims(found) == parse_claims(CLAIMS) == CHECKOUT
    assert [body["spec"] for body in api.bodies] == [exchange["request"]["body"]["spec"]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("tokenreview-pod-gone", "has been invalidated"), ("tokenreview-wrong-audience", "is invalid for the target")],
)
async def test_a_token_that_the_server_refuses_is_none_and_the_log_may_say_why(name: str, reason: str) -> None:
    found = await build(Api(recorded(name)["body"])).review(TOKEN)

    assert isinstance(found, str)
    assert reason in found
    assert TOKEN[:20] not in found


def status(**parts: object) -> dict[str, Any]:
    found: dict[str, Any] = recorded("tokenreview-ok")["body"]["status"]
    return {"status": {**found, **parts}}


USER = recorded("tokenreview-ok")["body"]["status"]["user"]
POD_NAME, POD_UID = (f"authentication.kubernetes.io/pod-{what}" for what in ("name", "uid"))
ODD = {
    "a server that looks at no audience": status(audiences=None),
    "another audience": status(audiences=["vault"]),
    "a person": status(user={**USER, "username": "jane"}),
    "a node": status(user={**USER, "username": "system:node:worker-1"}),
    "nobody": status(user=None),
    "a verdict that is only like a yes": status(authenticated="true"),
    "a refusal that repeats the token": {"status": {"error": f"can't parse {TOKEN}"}},
    "a refusal that repeats a piece of it": {"status": {"error": f"can't parse {TOKEN.split('.')[1][:40]}"}},
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_an_answer_that_is_no_clear_yes_is_a_no(answer: dict[str, Any]) -> None:
    found = await build(Api(answer)).review(TOKEN)

    assert isinstance(found, str)
    assert not any(part[:12] in found for part in TOKEN.split("."))


ODD_PODS = {
    "two names": {POD_NAME: ["a", "b"], POD_UID: ["1"]},
    "no name": {POD_UID: ["1"]},
    "an empty name": {POD_NAME: [""], POD_UID: ["1"]},
    "no list": {POD_NAME: {}, POD_UID: ["1"]},
    "an empty uid": {POD_NAME: ["a"], POD_UID: [""]},
    "no uid at all": {POD_NAME: ["a"], POD_UID: []},
}


@pytest.mark.parametrize("extra", ODD_PODS.values(), ids=ODD_PODS)
async def test_an_odd_pod_is_not_taken_for_none(extra: dict[str, object]) -> None:
    """A token that is bound to no pod may be any pod of its account."""
    found = await build(Api(status(user={**USER, "extra": extra}))).review(TOKEN)

    assert isinstance(found, dict)
    with pytest.raises(ValueError, match="pod"):
        parse_claims(found)


async def test_a_token_of_an_account_alone_is_bound_to_no_pod() -> None:
    found = await build(Api(status(user={"username": USER["username"]}))).review(TOKEN)

    assert isinstance(found, dict)
    assert parse_claims(found).pod == ""


ERRORS = {
    "no answer": ApiError(None, "Unreachable", "no connection"),
    "overload": ApiError(429, "TooManyRequests", "later"),
    "no right to ask": ApiError(403, "Forbidden", "tokenreviews is forbidden"),
    "a failure that repeats the token": ApiError(500, "InternalError", f"can't parse {TOKEN}"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
async def test_a_server_that_gives_no_answer_has_not_agreed(error: ApiError) -> None:
    with pytest.raises(ConnectionError) as raised:
        await build(Api(error)).review(TOKEN)

    assert not any(part[:12] in str(raised.value) for part in TOKEN.split("."))
    assert raised.value.__cause__ is None


async def test_an_answer_without_a_status_is_none() -> None:
    with pytest.raises(ConnectionError):
        await build(Api({"status": "yes"})).review(TOKEN)


async def test_who_waits_too_long_gets_no_answer_in_line_or_not() -> None:
    api = Api(status())
    api.may_answer.clear()
    reviews = build(api, timeout=0.05, at_once=2)
    found = await asyncio.gather(*(reviews.review(Issuer().sign(claims())) for _ in range(8)), return_exceptions=True)

    assert {type(one) for one in found} == {ConnectionError}
    assert api.most_at_once == 2
    assert len(api.bodies) == 2


async def test_what_was_found_is_remembered_for_seconds_and_no_longer_than_the_token_lasts() -> None:
    moment = CLAIMS["exp"] - 7.0
    api = Api(status())
    reviews = build(api, clock=lambda: moment)
    asked = []
    for later in (0.0, 4.0, 2.0, 0.9, 0.2):  # the token ends 7 s after the first
        moment += later
        await reviews.review(TOKEN)
        asked.append(len(api.bodies))

    assert asked == [1, 1, 2, 2, 3]
    assert TOKEN.encode() not in repr(vars(reviews)).encode()


async def test_a_no_is_remembered_too_and_silence_is_not() -> None:
    api = Api(recorded("tokenreview-pod-gone")["body"])
    reviews = build(api)
    assert isinstance(await reviews.review(TOKEN), str)
    assert isinstance(await reviews.review(TOKEN), str)
    api.answer = ERRORS["no answer"]
    other = Issuer().sign(claims())
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await reviews.review(other)

    assert len(api.bodies) == 3


async def test_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.kubernetes.review._MAX_REMEMBERED", 3)
    issuer, reviews = Issuer(), build(Api(status()), clock=time.time)
    tokens = [issuer.sign(claims(pod=f"web-{number}")) for number in range(10)]
    for token in tokens:
        await reviews.review(token)

    assert len(reviews._known) == 3


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "..", "a.e30.c", "a.W10.c", "a.eyJleHAiOnRydWV9.c", "a.b.c.d", "é.é.é"]
)
async def test_what_is_no_token_is_not_even_asked_about(token: str) -> None:
    api = Api(status())
    found = await build(api).review(token)

    assert found == "its token is no JSON Web Token that ends"
    assert not api.bodies
