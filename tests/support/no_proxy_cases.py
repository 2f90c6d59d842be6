"""
Lists of NO_PROXY and URLs, drawn from a seed: what clients disagree about, and what nobody should write.

Hosts and entries come from the same few names and addresses, so that a good part of the pairs match.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = (
    *("x.example", "a.x.example", "b.a.x.example", "ax.example", "example", "x.example.net", "single", "localhost"),
    *(
        "A.X.Example",
        "x.example.",
        "a.x.example.",
        "xn--bcher-kva.example",
        "a.xn--bcher-kva.example",
        "bücher.example",
    ),
)
ADDRESSES = (
    *("10.1.2.3", "10.1.2.4", "10.1.130.3", "192.168.0.1", "127.0.0.1", "127.0.0.2", "0.0.0.0"),
    *("2001:db8::1", "2001:db8::2", "2001:db8:8000::1", "::1", "fd00::10.1.2.3", "fd00:0:0:1::3"),
)
PORTS = (80, 443, 8080, 3)
ODD = (
    *("*", "*", "*.", ".", "..", "*x.example", "x.*", "*a.x*", "*.*", "**", "x.*.example", "10.*", "*.2.3", "*10*"),
    *("x.example;y.example", "x.example|ax.example", "http://x.example", "x.example a.x.example", ".x.example single"),
    *(
        "10.1.2.0-10.1.2.3",
        "10.1.2.4 - 10.1.2.9",
        "10.1.2.4-10.1.2.3",
        "10.1.2.3-x",
        "fd00::-fd00::ffff",
        "a-b.example",
    ),
    *("10", "10.1", "10/8", "10.1/16", "0.0.0.0/0", "::/0", "10.1.2.3/", "10.1.2.3/33", "10.1.2.3/x", "10.1.2.3/+8"),
    *(
        "10.1.2.3/08",
        "/8",
        "x.example/8",
        "2001:db8::1/129",
        "[2001:db8::]/32",
        "::ffff:10.1.2.3",
        "::ffff:10.0.0.0/104",
    ),
    *(
        "2001:DB8:0:0::1",
        "[2001:DB8:0:0::1]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[x.example]",
        "[x.example]:443",
        "[::1]:",
    ),
    *(
        "x.example:",
        "x.example:0",
        "x.example:https",
        "x.example:0443",
        ":443",
        "*:443",
        "*.x.example:443",
        "x.example:99999",
    ),
    *("010.1.2.3", "0x0a010203", "167838211", "0.0.0.10", "bücher.example", ".bücher.example", "BÜCHER.example", "\t"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A list, and what is asked for with it. The host is as `xds.dialects` takes it, IPv6 without brackets."""

    no_proxy: str
    host: str
    port: int
    scheme: str

    @property
    def url(self) -> str:
        """The URL, which shows its port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}/" if self.port == own else f"{self.scheme}://{host}:{self.port}/"


def draw(seed: int, lists: int, *, schemes: tuple[str, ...] = ("http", "https"), hosts: int = 6) -> Iterator[Case]:
    """Draw as many lists, and for each as many URLs, half of them of hosts that the list names."""
    source = random.Random(seed)  # noqa: S311 - nothing here is a secret
    for _ in range(lists):
        named: list[str] = []
        written = _list(source, named)
        for _ in range(hosts):
            near = named and source.random() < 0.5
            host = source.choice(named) if near else _host(source)
            yield Case(written, host, source.choice(PORTS), source.choice(schemes))


def _host(source: random.Random) -> str:
    return source.choice(NAMES if source.random() < 0.6 else ADDRESSES)


def _list(source: random.Random, named: list[str]) -> str:
    """Return a list, and add the hosts that stand in it to `named`."""
    entries = [_entry(source, named) for _ in range(source.choice((0, 1, 1, 1, 2, 2, 3, 4)))]
    written = source.choice((",", ",", ", ", " ,", ",,", " , ")).join(entries)
    return source.choice(("{}", "{}", "{}", " {}", "{},", "{} ")).format(written)


def _entry(source: random.Random, named: list[str]) -> str:
    if source.random() < 0.25:
        return source.choice(ODD)
    host = _host(source)
    named.append(host)
    entry = _address(source, host) if host in ADDRESSES else _name(source, host)
    return entry.upper() if source.random() < 0.1 else entry


def _name(source: random.Random, name: str) -> str:
    plain = ("{}", "{}", "{}", ".{}", ".{}", "*.{}", "*{}", "{}.", "..{}", "{}*", ".{}.", "{}:{port}", ".{}:{port}")
    return source.choice(plain).format(name, port=source.choice(PORTS))


def _address(source: random.Random, address: str) -> str:
    forms: tuple[str, ...]
    if ":" in address:
        forms = ("{}", "[{}]", "{}/{six}", "{}/{six}", "[{}]:{port}", "{}:{port}", "[{}]/{six}", "{}/{six}:{port}")
    else:
        forms = ("{}", "{}", "{}/{four}", "{}/{four}", "{}/{four}", "{}:{port}", "{}.", ".{}", "{}/{four}:{port}")
    four, six = source.choice((0, 1, 8, 16, 17, 24, 30, 31, 32)), source.choice((0, 1, 8, 16, 32, 33, 47, 64, 127, 128))
    return source.choice(forms).format(address, four=four, six=six, port=source.choice(PORTS))
