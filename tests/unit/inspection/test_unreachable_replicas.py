"""What is said of a replica that gRPC can't reach."""

from __future__ import annotations

import grpc
import pytest

from xds.inspection.client_status import StatusReader

DETAILS = [
    pytest.param(
        "errors resolving x:1: [field:hostname lookup error:address lookup failed for x:1: Domain name not found]",
        "(domain name not found);",
        id="a name that does not exist",
    ),
    pytest.param(
        "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:192.0.2.1:1: Connection refused",
        "(connection refused);",
        id="nobody who listens",
    ),
]


@pytest.mark.parametrize(("details", "cause"), DETAILS)
async def test_the_cause_alone_is_told_and_whole(monkeypatch: pytest.MonkeyPatch, details: str, cause: str) -> None:
    async def fetch(*_: object) -> bytes:
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details)

    monkeypatch.setattr(StatusReader, "_fetch", fetch)

    async with StatusReader() as reader:
        (answer,) = await reader.ask({"x:1": "x:1"}, within=1)

    assert f"x:1 can't be reached {cause}" in answer.problem
