"""What policies share makes no difference to any of them, holds no secret and stays small."""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xds.compile
from tests.support import strategies
from tests.support.policies import compile_good, default, endpoint, policy, proxy, rule
from xds.compile.asked import ASKED_BY_NAME
from xds.facts import Facts, FileContent
from xds.policy.model import STDOUT, BasicLogin, PlainHttp, Policy, TlsOrigination, Tunnel
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from functools import _lru_cache_wrapper

    from xds.snapshot import Snapshot

MOST = 1024
LOGIN = "user:that-nobody-may-see"
AUTHORITY = "an authority of one policy"


def cached_functions() -> dict[str, _lru_cache_wrapper[object]]:
    """Find every function of the compiler that remembers what it returned."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(xds.compile.__path__, "xds.compile.")
    ]
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "cache_clear") and value.__module__ == module.__name__
    }


def forget_everything() -> None:
    for function in cached_functions().values():
        function.cache_clear()


def bodies_of(snapshot: Snapshot) -> dict[tuple[ResourceType, str], bytes]:
    return {(kind, name): item.any_body for kind in ResourceType for name, item in snapshot.of(kind).items()}


@st.composite
def varied(draw: st.DrawFn) -> Policy:
    """Draw a policy that also differs in what fragments depend on."""
    return replace(
        draw(strategies.policies()),
        name=draw(st.sampled_from(["one", "other"])),
        access_log=draw(st.sampled_from([STDOUT, "/var/log/egress.log", None])),
        explicit_port=draw(st.sampled_from([None, 15002])),
    )


@settings(max_examples=settings().max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(written=st.lists(varied(), min_size=2, max_size=4), facts=strategies.facts())
def test_a_policy_compiles_to_the_same_whatever_was_compiled_before_it(written: list[Policy], facts: Facts) -> None:
    alone = []
    for item in written:
        forget_everything()
        alone.append(bodies_of(compile_good(item, facts)))

    forget_everything()
    forth = [bodies_of(compile_good(item, facts)) for item in written]
    back = [bodies_of(compile_good(item, facts)) for item in reversed(written)]

    assert forth == alone
    assert back[::-1] == alone


@pytest.mark.parametrize("name", cached_functions())
def test_what_is_remembered_is_bounded_and_depends_on_little(name: str) -> None:
    """A whole policy or a file's content as a key would be remembered with all that it holds."""
    function = cached_functions()[name]
    most = function.cache_parameters()["maxsize"]
    taken = {parameter.annotation for parameter in inspect.signature(function.__wrapped__).parameters.values()}

    assert most is not None
    assert most <= MOST
    assert not taken & {"Policy", "Proxy", "Facts", "Material"}


def test_no_login_is_remembered() -> None:
    corp = replace(proxy("corp", endpoint()), login=BasicLogin(file="/login"))
    forget_everything()
    snapshot = compile_good(
        policy(proxies=(corp,), otherwise=default(Tunnel("corp"))), Facts(files={"/login": FileContent(LOGIN)})
    )
    delivered = b64encode(LOGIN.encode())

    assert any(delivered in body for body in bodies_of(snapshot).values())
    assert any(ASKED_BY_NAME in text for text in remembered())
    assert not [text for text in remembered() if LOGIN in text or delivered.decode() in text]


def test_what_may_be_large_is_not_remembered() -> None:
    """A thousand certificates or lists of ports would be too much, and each edit would add one."""
    ports = tuple(range(20_000, 20_100))
    corp = proxy("corp", endpoint(), connect_ports=(443, *ports), plain_http=PlainHttp.CONNECT)
    origination = Tunnel("corp", TlsOrigination(ca_pem=AUTHORITY))
    forget_everything()
    snapshot = compile_good(policy(rule(Tunnel("corp"), "a.example", http=origination), proxies=(corp,)), Facts())

    assert any(AUTHORITY.encode() in body for body in bodies_of(snapshot).values())
    assert not [text for text in remembered() if AUTHORITY in text or "20099" in text]


def remembered() -> list[str]:
    """Return every text in a cache, in keys and in values."""
    found = [item for item in everything_in(cached_functions().values()) if isinstance(item, (bytes, str))]
    return [item if isinstance(item, str) else item.decode("latin-1") for item in found]


def everything_in(functions: Iterable[_lru_cache_wrapper[object]]) -> Iterator[object]:
    """Find what caches hold, in their keys and in their values."""
    known: set[int] = set()
    waiting: list[object] = list(functions)
    while waiting:
        item = waiting.pop()
        if id(item) in known or inspect.ismodule(item) or isinstance(item, type) or inspect.isfunction(item):
            continue
        known.add(id(item))
        yield item
        waiting += gc.get_referents(item)
