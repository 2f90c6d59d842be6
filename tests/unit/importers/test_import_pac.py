"""PAC files as companies have them become policies; what rules can't say is told, and makes nothing direct."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.imported import DENY, DIRECT, decide, messages, read_policy
from xds.errors import SourceError
from xds.importers.imported import Imported, Weight, Wish
from xds.importers.pac import import_pac
from xds.importers.pac_budget import Budget
from xds.importers.pac_regions import EVERYTHING, Region, Rows, always, choose, covers, intersect, multiply
from xds.policy.model import DomainPattern

CORP = "http://192.0.2.1:3128"
BANK = "https://192.0.2.3:3129"
WISH = Wish(source="proxy.pac", name="pac")

SIMPLE = """
// Generated 2019-03-01. Ask the network team.
function FindProxyForURL(url, host)
{
    /* everything of our own */
    if (isPlainHostName(host) ||
        dnsDomainIs(host, ".corp.example") ||
        shExpMatch(host, "*.corp-old.example") ||
        isInNet(dnsResolve(host), "10.0.0.0", "255.0.0.0") ||
        isInNet(host, '172.16.0.0', '255.240.0.0'))
        return "DIRECT";
    return "PROXY 192.0.2.1:3128; PROXY 192.0.2.2:3128; DIRECT";
}
"""

BY_SCHEME = """
var web = "PROXY 192.0.2.1:3128", secure = 'HTTPS 192.0.2.3:3129';
function FindProxyForURL(url, host) {
  host = host.toLowerCase(); url = url.toLowerCase();
  if (url.substring(0, 4) == "ftp:") return "DIRECT";
  if (url.substring(0, 5) == "http:") {
    if (localHostOrDomainIs(host, "www.partner.example")) { return "DIRECT"; }
    return web;
  } else if (shExpMatch(url, "https://*.bank.example/*") || shExpMatch(url, "*:8443/*")) {
    return secure;
  }
  return host == "blocked.example" ? "SOCKS5 192.0.2.9:1080" : web;
}
"""

BY_PLACE = """
var direct = ["intra.example", "files.example"], nets = [["10.0.0.0", "255.0.0.0"]];
function isInternal(name) { return dnsDomainIs(name, ".intra.example") || name == "intra.example"; }
function FindProxyForURL(url, host) {
  var ip = dnsResolve(host);
  var proxy = isInNet(myIpAddress(), "10.1.0.0", "255.255.0.0") ? "PROXY 192.0.2.1:3128" : "PROXY 192.0.2.2:3128";
  for (var i = 0; i < direct.length; i++) {
    if (host == direct[i]) return "DIRECT";
  }
  if (isInternal(host) && isInNet(ip, "10.0.0.0", "255.0.0.0")) return "DIRECT";
  if (weekdayRange("SAT", "SUN")) return "DIRECT";
  if (shExpMatch(host, "*update*")) return "DIRECT";
  return proxy;
}
"""


def read(text: str) -> Imported:
    return import_pac(text, WISH)


def function(body: str) -> str:
    return f"function FindProxyForURL(url, host) {{ {body} }}"


@pytest.mark.parametrize(
    ("scheme", "host", "address", "expected"),
    [
        ("https", "a.corp.example", "192.0.2.7", DIRECT),
        ("https", "corp.example", "192.0.2.7", f"{CORP} http://192.0.2.2:3128"),
        ("http", "x.corp-old.example", "192.0.2.7", DIRECT),
        ("https", "example.com", "10.3.2.1", DIRECT),
        ("https", "172.20.1.1", "172.20.1.1", DIRECT),
        ("https", "example.com", "192.0.2.7", f"{CORP} http://192.0.2.2:3128"),
    ],
)
def test_a_file_with_one_long_condition(scheme: str, host: str, address: str, expected: str) -> None:
    assert decide(read_policy(read(SIMPLE)), scheme, host, 443, address) == expected


def test_a_file_with_one_long_condition_is_one_rule_and_tells_what_is_different() -> None:
    imported = read(SIMPLE)

    assert imported.policy["spec"]["rules"] == [  # type: ignore[index]  # a document
        {
            "name": "direct-1",
            "to": {
                "domains": ["*.corp.example", "*.corp-old.example"],
                "cidrs": ["10.0.0.0/8", "172.16.0.0/12"],
            },
            "action": "direct",
        }
    ]
    assert messages(imported, Weight.LOST) == []
    assert [change.where.line for change in imported.changes if change.weight is Weight.CHANGED] == [6, 12]
    assert any("DIRECT after proxies is left out" in text for text in messages(imported, Weight.CHANGED))


@pytest.mark.parametrize(
    ("scheme", "host", "port", "expected"),
    [
        ("http", "www.partner.example", 80, DIRECT),
        ("https", "www.partner.example", 443, CORP),
        ("http", "example.com", 80, CORP),
        ("https", "login.bank.example", 443, BANK),
        ("https", "login.bank.example", 444, CORP),
        ("https", "example.com", 8443, BANK),
        ("https", "blocked.example", 443, DENY),
        ("http", "blocked.example", 80, CORP),
        ("https", "example.com", 443, CORP),
    ],
)
def test_a_file_that_looks_at_schemes_and_ports(scheme: str, host: str, port: int, expected: str) -> None:
    assert decide(read_policy(read(BY_SCHEME)), scheme, host, port) == expected


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("intra.example", "192.0.2.7", DIRECT),
        ("files.example", "192.0.2.7", DIRECT),
        ("a.intra.example", "10.1.1.1", DIRECT),
        ("a.intra.example", "192.0.2.7", "http://192.0.2.2:3128"),
        ("update.example", "192.0.2.7", "http://192.0.2.2:3128"),
        ("example.com", "10.1.1.1", "http://192.0.2.2:3128"),
    ],
)
def test_a_file_that_looks_at_the_machine_and_the_time(host: str, address: str, expected: str) -> None:
    assert decide(read_policy(read(BY_PLACE)), "https", host, 443, address) == expected


def test_what_is_not_known_is_told_with_its_line() -> None:
    lost = [
        (change.where.line, change.message.partition("`")[2].partition("`")[0])
        for change in read(BY_PLACE).changes
        if change.weight is Weight.LOST
    ]

    assert lost == [
        (6, 'isInNet(myIpAddress(), "10.1.0.0", "255.255.0.0")'),
        (11, '(weekdayRange("SAT", "SUN"))'),
        (12, '(shExpMatch(host, "*update*"))'),
    ]


def test_a_name_with_an_address_becomes_a_verified_bypass() -> None:
    rules = read(BY_PLACE).policy["spec"]["rules"]  # type: ignore[index]  # a document

    assert [rule for rule in rules if "verify" in rule] == [
        {
            "name": "direct-2",
            "to": {"domains": ["*.intra.example"]},
            "action": "direct",
            "verify": ["10.0.0.0/8"],
        }
    ]


@pytest.mark.parametrize(
    ("condition", "host", "holds"),
    [
        ('shExpMatch(host, "*.x.example")', "a.b.x.example", True),
        ('shExpMatch(host, "*.x.example")', "x.example", False),
        ('shExpMatch(host, "*x.example")', "x.example", True),
        ('shExpMatch(host, "x.example")', "a.x.example", False),
        ('shExpMatch(host, "10.*")', "10.1.2.3", True),
        ('shExpMatch(host, "10.1.*")', "10.2.2.3", False),
        ('shExpMatch(host, "999.*")', "10.2.2.3", False),
        ('host == "10.1.2.3"', "10.1.2.3", True),
        ('host == "X.example"', "x.example", False),
        ('host != "x.example"', "x.example", False),
        ('host.endsWith(".x.example")', "a.x.example", True),
        ('["x.example", "y.example"].includes(host)', "y.example", True),
        ('["x.example"].indexOf(host) == -1', "x.example", False),
        ('isInNetEx(host, "10.0.0.0/8")', "10.1.2.3", True),
        ('isInNet(host, "0.0.0.0", "0.0.0.0")', "192.0.2.1", True),
        ('url.indexOf("https://x.example/") == 0', "x.example", True),
        ('url.indexOf("https://x.example/") != 0', "x.example", False),
        ('url.startsWith("http:")', "x.example", False),
        ('shExpMatch(url, "http*://x.example/*")', "x.example", True),
        ('shExpMatch(url, "https://x.example:443/*")', "x.example", True),
        ('shExpMatch(url, "*.x.example/*")', "a.x.example", True),
        ('shExpMatch(url, "*")', "x.example", True),
        ('url.slice(0, 8) === "https://"', "x.example", True),
        ('"a" + 1 == "a1"', "x.example", True),
        ('"" || false', "x.example", False),
        ("-1 + 1 || [] && 2 + 2 == 4 && [1].length", "x.example", True),
        ("host == ''", "x.example", False),
        ("dnsResolve(host) == '192.0.2.77'", "x.example", True),
        ("url.substring(0, 5) == 'https:'", "x.example", False),
        ("'https:' == url.substring(0, 6)", "x.example", True),
        ("isInternal(host)", "a.x.example", True),
        ("[\"x.example\", 'y\\x2eexample'][0] == host", "x.example", True),
        ('"a".length == 1', "x.example", True),
        ('shExpMatch(url, "ftp*")  || shExpMatch(url, "ftp:*")', "x.example", False),
        ('shExpMatch(url, "https://x.example/")', "x.example", True),
        ('shExpMatch(url, "http://x.example/*")', "x.example", False),
        ('shExpMatch(url, "*://*/*")', "x.example", True),
        ('dnsDomainIs(host, ".X.example")', "a.x.example", False),
        ('host == "x y"', "x.example", False),
    ],
)
def test_a_test_of_a_file_means_what_it_meant(condition: str, host: str, holds: bool) -> None:
    helper = 'function isInternal(name) { return dnsDomainIs(name, ".x.example"); } '
    imported = read(helper + function(f'if ({condition}) return "DIRECT"; return "PROXY 192.0.2.1:3128";'))

    assert decide(read_policy(imported), "https", host, 443) == (DIRECT if holds else CORP)
    assert [text for text in messages(imported, Weight.LOST) if "no path leads to a proxy" not in text] == []


@pytest.mark.parametrize(
    "condition",
    [
        "isPlainHostName(host)",
        "isResolvable(host)",
        "!isResolvableEx(host)",
        "isResolvable(host) && !isResolvable(host)",
        "dnsResolve(host)",
        "dnsResolve(host) == null",
        "dnsResolveEx(host) != ''",
        "dnsResolve(host) === undefined",
        "myIpAddress() == null",
        "myIpAddress() != ''",
        'isInNet(myIpAddress(), "10.0.0.0", "255.0.0.0")',
        "timeRange(8, 18)",
        'shExpMatch(host, "a*.example")',
        'shExpMatch(url, "*/download/*")',
        'shExpMatch(url, "https://x.example/private/*")',
        'isInNet(host, "10.0.0.0", "255.0.255.0")',
        "dnsDomainLevels(host) > 2",
        "/x/.test(url)",
        "unknown",
        'host.indexOf(".") < 0',
        'eval("1")',
        "host < 7",
        'url == "https://x.example/"',
        'url.substring(0, 100) == "https://x.example/"',
        'url.substring(1, 5) == "ttps"',
        'host == "x.example."',
        'dnsDomainIs(host, "!")',
        'isInNet(host, "ten", "255.0.0.0")',
        'isInNetEx(host, "10.0.0.0/33")',
        'shExpMatch(url, "https://x.example")',
        'shExpMatch(url, "x*://")',
        'url.startsWith("https://x.example:x/")',
        'url.indexOf("x.example") > 0',
        "[].indexOf(host) == 7",
        "host.length == 9",
        "[1, 2][host]",
        "host.replace(/x/, '').length",
        "'x\\.example' == host",
        "`${host}` == 'x.example'",
        "check(host)",
        "loop(host)",
        "isInNet(...[host])",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "form",
    [
        "if (C) return D; return P;",
        "if (!(C)) return P; return D;",
        "return C ? D : P;",
        "var r = C ? D : P; return r;",
        "switch (1) { case C: return D; } return P;",
    ],
)
def test_what_is_not_known_never_makes_anything_direct(condition: str, form: str) -> None:
    known = {"C": condition, "D": '"DIRECT"', "P": '"PROXY 192.0.2.1:3128"'}
    helpers = "function check(h) { if (h) return true; } function loop(h) { return loop(h); } "
    imported = read(helpers + function(re.sub(r"\b[CDP]\b", lambda found: known[found[0]], form)))

    assert decide(read_policy(imported), "https", "x.example", 443) == CORP
    assert not imported.is_same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (function('for (var d of ["x.example"]) if (host == d) return "DIRECT"; return PROXY;'), DIRECT),
        (
            function('for (var i in ["x.example"]) { if (host == ["x.example"][i]) return "DIRECT"; } return PROXY;'),
            DIRECT,
        ),
        (function('var p = "PROXY "; p += "192.0.2.1:3128"; return (p);'), CORP),
        (function('"use strict"; alert(host); let a, p = "192.0.2.1" + ":" + 3128; return "PROXY " + p;'), CORP),
        (function('p = "DIRECT"; if (host != "x.example") { p = PROXY } return p;'), DIRECT),
        (function('if (false) return "DIRECT"; else if (true) { return PROXY; }'), CORP),
        ('const FindProxyForURL = (url, host) => { return "DIRECT"; }', DIRECT),
        ('var FindProxyForURL = function (u, h) { return h == "x.example" ? "DIRECT" : "PROXY a.example:1"; }', DIRECT),
        ("var p = PROXY; function get() { return p; }" + function('var p = "DIRECT"; return get();'), CORP),
        (function('return "\\u0044IRECT";'), DIRECT),
    ],
)
def test_statements_are_followed(text: str, expected: str) -> None:
    imported = read(
        text.replace("PROXY;", '"PROXY 192.0.2.1:3128";').replace("= PROXY }", '= "PROXY 192.0.2.1:3128" }')
    )

    assert decide(read_policy(imported), "https", "x.example", 443) == expected
    assert messages(imported, Weight.LOST) == []


@pytest.mark.parametrize(
    "text",
    [
        function('var r = "DIRECT"; for (r of lists()) { if (x) break; return r; } return "DIRECT";'),
        "var p = D; function init() { p = P; } " + function("init(); return p;"),
        "var p = D; function init() { p = P; return true; } " + function("if (init()) return p; return p;"),
        "var n = 0; " + function("if (n) return P; n = n + 1; return D;"),
        "var n = 0; " + function("n++; if (n == 0) return D; return P;"),
        "var l = []; l.push('x.example'); "
        + function("for (var i = 0; i < l.length; i++) if (host == l[i]) return P; return D;"),
        function("var l = ['a']; l[0] = host; if (host == l[0]) return P; return D;"),
        function("var p = D; if ((p = P) && unknown) alert(1); return p;"),
        function("var p = D; [1].forEach(function (i) { p = P; }); return p;"),
        function("var p = D; try { p = P; } finally { } return p;"),
        function("var p = D; while (unknown) { p = P; break; } return p;"),
        function("for (var i = 0; i < 3; i += 1) { if (i == 2) return P; } return D;"),
        function("for (var i = 9; i < ['x'].length; i++) { return D; } return P;"),
        "if (unknown) { var p = D; } " + function("return p;"),
        "var p = D, p = window.p; " + function("return p;"),
        function("return host == 'x.example' ? lookUp() : D;"),
        function("return;  ").replace("return;", "do { return P; } while (unknown); return D;"),
        function("function inner() { return D; } return inner();"),
    ],
)
def test_what_is_not_followed_never_makes_anything_direct(text: str) -> None:
    known = {"D": '"DIRECT"', "P": '"PROXY 192.0.2.1:3128"'}
    imported = read(re.sub(r"\b[DP]\b", lambda found: known[found[0]], text))

    assert decide(read_policy(imported), "https", "x.example", 443) in (CORP, DENY)


@pytest.mark.parametrize(
    ("result", "expected", "fragment"),
    [
        ('"DIRECT; PROXY 192.0.2.1:3128"', DIRECT, "what follows DIRECT is left out"),
        ('"SOCKS 192.0.2.9:1080; PROXY 192.0.2.1:3128"', CORP, "SOCKS is no HTTP proxy"),
        ('"SOCKS5 192.0.2.9:1080; DIRECT"', DENY, "the result names no HTTP proxy"),
        ('"PROXY user:c4n4ry@192.0.2.1:3128"', CORP, "a login stands before the proxy's host"),
        ('"PROXY 192.0.2.1"', "http://192.0.2.1:80", "has no port: 80 is taken"),
        ('"PROXY"', DENY, "the result names no HTTP proxy"),
        ("lookUp(host)", DENY, "`lookUp(host)` is not known"),
        ("null", DIRECT, ""),
    ],
)
def test_a_result_is_a_list_of_proxies_without_a_silent_way_out(result: str, expected: str, fragment: str) -> None:
    imported = read(function(f"return {result};"))

    assert decide(read_policy(imported), "https", "x.example", 443) == expected
    assert any(fragment in text for text in messages(imported))
    assert "c4n4ry" not in repr(imported)


@pytest.mark.parametrize(
    ("body", "weight"),
    [('if (true) return "DIRECT"; return "PROXY 192.0.2.1:3128";', Weight.LOST), ('return "DIRECT";', Weight.CHANGED)],
)
def test_a_policy_without_the_proxies_that_the_file_names_is_a_loss(body: str, weight: Weight) -> None:
    assert any("no path leads to a proxy" in text for text in messages(read(function(body)), weight))


def test_a_path_without_a_result_is_refused() -> None:
    imported = read(function('if (host == "x.example") return "DIRECT";'))

    assert decide(read_policy(imported), "https", "y.example", 443) == DENY
    assert any("ends without a result" in text for text in messages(imported, Weight.LOST))


def test_a_host_without_a_dot_is_no_direct_rule() -> None:
    imported = read(function('if (host == "intranet") return "DIRECT"; return "PROXY 192.0.2.1:3128";'))

    assert decide(read_policy(imported), "http", "intranet", 80) == CORP
    assert any("`intranet`: a name without a dot" in text for text in messages(imported, Weight.CHANGED))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("function FindProxyForURL(url, host) { return ", "proxy.pac:1 is no JavaScript"),
        ("var x = 1;", "has no function FindProxyForURL"),
        ("", "has no function FindProxyForURL"),
        (function("if (isInNet(host)) { " * 2000 + "}" * 2000), "is nested too deeply"),
    ],
)
def test_what_is_no_pac_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(text)


def test_a_file_with_more_paths_than_can_be_followed_is_refused() -> None:
    body = "".join(f"if (unknown{i}) x = x + {i}; else y{i} = {i};" for i in range(40))

    with pytest.raises(SourceError, match="import what matters of it"):
        read(function(f'var x = ""; {body} return "DIRECT";'))


SOON = 60
"""Seconds of the processor, on the slowest machine: what multiplies would take years."""
DOUBLINGS = "".join(f"var a{i + 1} = a{i} + a{i};" for i in range(60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "function f(x) { return f(x) + f(x); } " + function("return f(1);"), "too much to follow", id="a recursion"
        ),
        pytest.param(
            function(f"var a0 = 'x'; {DOUBLINGS} return a60;"), "a text of more than 64 KiB", id="a text that doubles"
        ),
        pytest.param(
            function("var a = 'x'; " + "a += a; " * 60 + "return a;"),
            "a text of more than 64 KiB",
            id="a text in steps",
        ),
        pytest.param(
            function(" || ".join(["dnsDomainIs(host, '.x.example')"] * 20_000)), "too many words", id="a long condition"
        ),
        pytest.param(
            function(
                f"var a0 = x; {DOUBLINGS.replace('+', '&& !')} if (a60) return 'DIRECT'; return 'PROXY a.example:1';"
            ),
            "too much to follow",
            id="a condition that doubles",
        ),
        pytest.param(
            "".join(f"var v{i} = {i};" for i in range(20_000)) + function("return 'DIRECT';"),
            "too much to follow|too many words",
            id="variables without end",
        ),
        pytest.param(function("/*" + "x" * (1 << 20) + "*/"), "too much text", id="a long comment"),
    ],
)
def test_a_file_that_asks_for_more_work_than_its_size_is_refused_soon(text: str, message: str) -> None:
    before = process_time()

    with pytest.raises(SourceError, match=message):
        read(text)

    assert process_time() - before < SOON


def test_one_list_a_million_times_takes_no_time() -> None:
    lists = "".join(f"var a{i + 1} = [{', '.join([f'a{i}'] * 10)}];" for i in range(15))
    before = process_time()

    imported = read(function(f"var a0 = [host]; {lists} if (x) return 'DIRECT'; return 'PROXY 192.0.2.1:3128';"))

    assert decide(read_policy(imported), "https", "x.example", 443) == CORP
    assert process_time() - before < SOON


@pytest.mark.parametrize(
    "condition", [f"host == {'9' * 9000} + ''", f'shExpMatch(url, "https://x.example:{"9" * 9000}/*")']
)
def test_numbers_of_any_length_are_not_known(condition: str) -> None:
    imported = read(function(f'if ({condition}) return "DIRECT"; return "PROXY 192.0.2.1:3128";'))

    assert decide(read_policy(imported), "https", "x.example", 443) == CORP


def test_a_condition_of_thousands_of_names_and_networks_is_compiled() -> None:
    names = [f'dnsDomainIs(host, ".n{i}.example")' for i in range(1500)]
    networks = [f'isInNet(host, "10.{i >> 8}.{i & 255}.0", "255.255.255.0")' for i in range(1000)]

    policy = read_policy(
        read(function(f'if ({" || ".join([*names, *networks])}) return "DIRECT"; return "PROXY 192.0.2.1:3128";'))
    )

    assert decide(policy, "https", "a.n1499.example", 443) == DIRECT
    assert decide(policy, "https", "10.3.231.1", 443) == DIRECT
    assert decide(policy, "https", "10.4.231.1", 443) == CORP


def test_without_the_parser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)

    with pytest.raises(SourceError, match=r"pip install 'egress-xds\[pac\]'"):
        read(SIMPLE)


def test_a_file_with_hundreds_of_conditions_is_compiled() -> None:
    names = " ||\n".join(f'dnsDomainIs(host, ".n{i}.example")' for i in range(400))
    ifs = "\n".join(
        f'if (shExpMatch(host, "*.m{i}.example")) return "PROXY 192.0.2.{i % 3 + 1}:3128";' for i in range(400)
    )

    policy = read_policy(read(function(f'if ({names}) return "DIRECT";\n{ifs}\nreturn "PROXY 192.0.2.1:3128";')))

    assert decide(policy, "https", "a.n399.example", 443) == DIRECT
    assert decide(policy, "https", "a.m1.example", 443) == "http://192.0.2.2:3128"


@given(text=st.text() | st.text(max_size=60).map(function))
def test_any_text_is_imported_or_refused(text: str) -> None:
    with suppress(SourceError):
        read_policy(read(text))


# ------------------------------------------------------------------------------------------------ regions

NAMES = st.builds(DomainPattern, st.sampled_from(["a", "b.a", "c.b.a", "d"]), st.booleans(), st.booleans()).filter(
    lambda name: name.apex or name.subdomains
)
PORTS = st.none() | st.frozensets(st.sampled_from([1, 2, 3]), min_size=1)
REGIONS = st.builds(Region, st.none() | NAMES, st.none(), PORTS)
POINTS = [Region(DomainPattern(name, subdomains=False), None, frozenset((port,)))
          for name in ("a", "b.a", "x.a", "c.b.a", "d", "e") for port in (1, 2, 3, 4)]  # fmt: skip


def rows() -> st.SearchStrategy[Rows[int]]:
    return st.lists(st.tuples(REGIONS, st.integers(0, 2)), max_size=4).flatmap(
        lambda found: st.integers(0, 2).map(lambda last: (*found, (EVERYTHING, last)))
    )


def look_up(found: Rows[int], point: Region) -> int:
    return next(verdict for region, verdict in found if covers(region, point))


@given(regions=st.lists(REGIONS, max_size=3), then=rows(), otherwise=rows(), is_shared=st.booleans())
def test_choosing_by_regions_is_choosing_at_every_point(
    regions: list[Region], then: Rows[int], otherwise: Rows[int], is_shared: bool
) -> None:
    then = (*then[:-1], *otherwise) if is_shared else then

    chosen = choose(regions, then, otherwise, Budget("x"))

    for point in POINTS:
        is_inside = any(covers(region, point) for region in regions)
        assert look_up(chosen, point) == look_up(then if is_inside else otherwise, point)


@given(one=rows(), other=rows())
def test_multiplying_rows_is_deciding_by_both_at_every_point(one: Rows[int], other: Rows[int]) -> None:
    product = multiply(one, other, lambda first, second: 10 * first + second, Budget("x"))

    for point in POINTS:
        assert look_up(product, point) == 10 * look_up(one, point) + look_up(other, point)


@given(one=REGIONS, other=REGIONS)
def test_what_two_regions_have_in_common_is_what_both_cover(one: Region, other: Region) -> None:
    common = intersect(one, other)

    for point in POINTS:
        assert (common is not None and covers(common, point)) == (covers(one, point) and covers(other, point))


def test_rows_that_say_one_thing_of_everything_have_one_row() -> None:
    assert multiply(always(1), always(2), lambda first, second: first + second, Budget("x")) == ((EVERYTHING, 3),)
