"""What holds of parsing and selection for every input."""

from __future__ import annotations

import dataclasses
import string

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy.policy_texts import FULL, good, long_form, parse, without_places
from xds.catalogue import CATALOGUE
from xds.diagnostics import Where
from xds.policy.files import files_of
from xds.policy.hosts import Problem, parse_name, parse_network
from xds.policy.model import (
    Default,
    Deny,
    Dialect,
    DomainPattern,
    HeldPolicy,
    LabelRequirement,
    Operator,
    Policy,
    Selector,
    Workload,
)
from xds.policy.parse import Document, ParseResult, check_names, parse_document
from xds.policy.patterns import Entry, parse_entry
from xds.policy.secrets import read_secret_path
from xds.policy.selection import Candidates, rank_policy, select_policy
from xds.policy.ties import check_ties

SHORT = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: deny\nnoProxy: [.corp.example, '10.0.0.0/8:22']\n"


def assert_sound(result: ParseResult) -> None:
    """Check what the rest of the program relies on, whatever was parsed."""
    assert result.is_good is not any(item.is_error for item in result.diagnostics)
    assert (not result.policies) if not result.is_good else (not result.held)
    assert result.is_good or result.held
    lines = [item.where.line or 0 for item in result.diagnostics]
    assert lines == sorted(lines)
    assert all(item.code in CATALOGUE and item.where.line and "\n" not in str(item) for item in result.diagnostics)


YAMLISH = st.text(alphabet="abé \t\n-:?[]{},&*!|>'\"%@#~.0/\\<=\x00\ufeff\ud800", max_size=60)


@given(text=st.one_of(st.text(), YAMLISH))
def test_parsing_never_raises(text: str) -> None:
    assert_sound(parse_document(Document("a.yaml", text)))


def mutate(text: str, data: st.DataObject) -> str:
    """Return `text` with a few pieces removed, repeated, moved or replaced."""
    pieces = st.one_of(
        YAMLISH,
        st.sampled_from(
            ["no", "null", "{}", "[]", "- ", "&a ", "*a", "1e400", "*", "'", "---\n", "spec:", ": ", "\n  "]
        ),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + data.draw(pieces) + text[end:]
    return text


@given(data=st.data(), text=st.sampled_from([FULL, SHORT, f"{SHORT}---\n{FULL}"]))
def test_a_damaged_policy_is_parsed_without_raising(data: st.DataObject, text: str) -> None:
    assert_sound(parse(mutate(text, data)))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from(
            ["direct", "tunnel", "corp", "a.example", "10.0.0.0/8", "http://p.example:1", "off", "In", "5s", ""]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "to", "ports", "x", "1"]), inner, max_size=3),
    ),
    max_leaves=6,
)


def replace_leaf(value: object, data: st.DataObject) -> object:
    """Return `value` with one of its parts, at any depth, replaced by something else."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 4)) == 0:
        return data.draw(VALUES)
    if isinstance(value, list):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], replace_leaf(value[index], data), *value[index + 1 :]]
    key = data.draw(st.sampled_from(sorted(value)))
    return {**value, key: replace_leaf(value[key], data)}


@given(data=st.data())
def test_a_policy_with_a_wrong_part_is_parsed_without_raising(data: st.DataObject) -> None:
    document: object = yaml.safe_load(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        document = replace_leaf(document, data)
    assert_sound(parse(yaml.safe_dump(document)))


LABELS = st.text(alphabet=string.ascii_letters + string.digits + "-_éüß中*.", min_size=1, max_size=12)
ADDRESSES = st.one_of(st.ip_addresses().map(str), st.from_regex(r"[0-9a-f:.]{1,16}(/[0-9]{1,3})?", fullmatch=True))
ENTRIES = st.builds(
    lambda prefix, host, suffix: prefix + host + suffix,
    st.sampled_from(["", ".", "*.", "*", "["]),
    st.one_of(LABELS, st.lists(LABELS, min_size=1, max_size=3).map(".".join), ADDRESSES),
    st.sampled_from(["", ".", ":443", "/8", "]:1", "/24:22", "]"]),
)


@given(text=st.one_of(st.text(), ENTRIES), dialect=st.sampled_from(Dialect))
def test_an_entry_is_read_or_refused_with_a_known_code(text: str, dialect: Dialect) -> None:
    entry = parse_entry(text, dialect)
    if isinstance(entry, Problem):
        assert entry.code in CATALOGUE
        assert entry.hint
    elif isinstance(entry.host, DomainPattern):
        assert entry.host.apex or entry.host.subdomains
        assert entry.host.name.isascii()
        assert entry.host.name == entry.host.name.lower()


def render(entry: Entry) -> str:
    """Write a network or a name as an entry, in its normal form."""
    if isinstance(entry.host, DomainPattern):
        host = entry.host.name if entry.host.apex else f".{entry.host.name}"
    else:
        host = "*" if entry.host is None else str(entry.host)
    return host if entry.port is None else f"{host}:{entry.port}"


@given(text=ENTRIES)
def test_normalising_twice_changes_nothing(text: str) -> None:
    entry = parse_entry(text, Dialect.GO)
    if isinstance(entry, Entry):
        again = parse_entry(render(entry), Dialect.GO)
        assert isinstance(again, Entry)
        assert (again.host, again.port) == (entry.host, entry.port)


@given(text=st.one_of(st.text(), LABELS))
def test_a_normal_name_is_its_own_normal_form(text: str) -> None:
    name = parse_name(text)
    if isinstance(name, str):
        assert parse_name(name) == name


@given(text=st.one_of(st.text(), ADDRESSES))
def test_a_normal_network_is_its_own_normal_form(text: str) -> None:
    network = parse_network(text)
    if not isinstance(network, Problem):
        assert parse_network(str(network)) == network


NAMES = st.from_regex(r"[a-z]{1,4}\.[a-z]{1,3}", fullmatch=True)
GOOD_NAMES = st.tuples(st.sampled_from(["", ".", "*."]), NAMES, st.sampled_from(["", ":443", ":8443"])).map("".join)
GOOD_NETWORKS = st.builds(
    lambda address, length: f"{address}/{length}", st.ip_addresses(v=4).map(str), st.integers(1, 32)
)


@given(
    names=st.lists(GOOD_NAMES, max_size=5),
    networks=st.lists(GOOD_NETWORKS, max_size=5),
    ports=st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
    data=st.data(),
)
def test_the_short_form_is_the_long_form_in_other_words(
    names: list[str], networks: list[str], ports: tuple[int, int], data: st.DataObject
) -> None:
    http, https = (f"http://p.example:{port}" for port in ports)
    entries = data.draw(st.permutations([*names, *networks]))
    short = f"httpProxy: {http}\nhttpsProxy: {https}\nnoProxy: {entries!r}\n"
    one = http == https
    long = {
        "proxies": {"proxy" if one else "http-proxy": {"endpoints": [{"url": http}]}},
        "rules": [{"name": "no-proxy", "to": {"domains": names, "cidrs": networks}, "action": "direct"}],
        "default": {"action": "tunnel", "proxy": "proxy"},
    }
    if not one:
        long["proxies"] = {**long["proxies"], "https-proxy": {"endpoints": [{"url": https}]}}  # type: ignore[dict-item]  # a literal of mixed values
        long["default"] = {
            "action": "tunnel",
            "proxy": "https-proxy",
            "http": {"action": "tunnel", "proxy": "http-proxy"},
        }
    if not entries:
        del long["rules"]

    expected = good(long_form(yaml.safe_dump(long), "{name: corp}"))

    assert without_places(good(short)) == without_places(expected)


@given(entries=st.lists(st.one_of(GOOD_NAMES, GOOD_NETWORKS), max_size=6), data=st.data())
def test_the_order_of_entries_means_nothing(entries: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(entries))
    one, two = (
        parse(f"httpProxy: deny\nhttpsProxy: deny\nnoProxy: {items!r}\n").policies[0] for items in (entries, shuffled)
    )
    assert without_places(one) == without_places(two)


OPTIONAL_NAMESPACES = st.sampled_from([None, "team-a", "team-b"])
SELECTORS = st.builds(
    Selector,
    namespaces=st.sampled_from([(), ("team-a",), ("team-a", "team-b")]),
    namespace_labels=st.sampled_from([(), (LabelRequirement(key="zone", operator=Operator.NOT_IN, values=("b",)),)]),
    labels=st.sampled_from([(), (LabelRequirement(key="app", operator=Operator.IN, values=("web",)),)]),
    service_accounts=st.sampled_from([(), ("web",)]),
)
AGES = st.sampled_from(["", "2026-11-20T09:00:00Z", "2026-11-21T08:00:00Z"])
PLACES = st.builds(Where, st.sampled_from(["a.yaml", "b.yaml"]), st.just(""), st.integers(1, 9))
POLICIES = st.builds(
    Policy,
    name=st.sampled_from("abc"),
    namespace=OPTIONAL_NAMESPACES,
    priority=st.integers(-1, 1),
    selector=SELECTORS,
    default=st.just(Default(action=Deny(), http_action=Deny())),
    created=AGES,
    where=PLACES,
)
HELD = st.builds(
    HeldPolicy,
    name=st.sampled_from("abc"),
    namespace=OPTIONAL_NAMESPACES,
    priority=st.integers(-1, 1),
    selector=SELECTORS,
    is_unreadable=st.booleans(),
    created=AGES,
    where=PLACES,
)
WORKLOADS = st.builds(
    Workload,
    pod=st.just("pod-0"),
    namespace=st.sampled_from(["team-a", "team-b", "team-c"]),
    labels=st.sampled_from([(), (("app", "web"),)]),
    service_account=st.sampled_from(["", "web"]),
    namespace_labels=st.sampled_from([(), (("zone", "b"),)]),
    policy=st.sampled_from(["", *"abcd"]),
)


def by_place(item: Policy | HeldPolicy) -> tuple[str, int | None]:
    return item.where.source, item.where.line


CANDIDATES = st.lists(st.one_of(POLICIES, HELD), unique_by=by_place, max_size=6)


@given(candidates=CANDIDATES, workload=WORKLOADS, data=st.data())
def test_the_order_of_candidates_means_nothing(
    candidates: list[Policy | HeldPolicy], workload: Workload, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(candidates))
    assert select_policy(candidates, workload) == select_policy(shuffled, workload)
    assert Candidates(candidates).select(workload) == select_policy(candidates, workload)


@given(candidates=CANDIDATES, workload=WORKLOADS)
def test_a_wish_chooses_among_equals_only(candidates: list[Policy | HeldPolicy], workload: Workload) -> None:
    """It never gives a pod what is ranked lower, has a lower priority or is not for it, and else changes nothing."""
    without, wished = (select_policy(candidates, pod) for pod in (dataclasses.replace(workload, policy=""), workload))

    assert (without is None) is (wished is None)
    if without is None or wished is None or wished == without:
        return
    assert select_policy([wished], workload) == wished
    # A held policy may stand for its last good version, which has a rank of its own.
    if isinstance(without, HeldPolicy) or not any(isinstance(item, HeldPolicy) for item in candidates):
        # What was last good of a document stands for what is held of it, whatever its name and its rank.
        held = [item for item in candidates if isinstance(item, HeldPolicy) and _shares_source(item, wished)]
        chosen = [item for item in (wished, *held) if item.name == workload.policy]
        assert (rank_policy(without), without.priority) in [(rank_policy(item), item.priority) for item in chosen]


def _shares_source(one: Policy | HeldPolicy, other: Policy | HeldPolicy) -> bool:
    return one.where.source == other.where.source


def test_a_wish_for_what_is_held_is_met_by_what_was_last_good_of_its_document() -> None:
    default = Default(action=Deny(), http_action=Deny())
    good = Policy(name="c", default=default, where=Where("two", line=1))
    other, wanted = (
        HeldPolicy(name=name, where=Where(source, line=2)) for name, source in (("a", "one"), ("b", "two"))
    )
    pod = Workload(pod="pod-0", namespace="team-a")

    assert select_policy([good, other, wanted], pod) == other
    assert select_policy([good, other, wanted], dataclasses.replace(pod, policy="b")) == good


PODS = [
    Workload(pod="pod-0", namespace=namespace, labels=labels, service_account="web")
    for namespace in ("team-a", "team-b")
    for labels in ((), (("app", "web"),))
]


def is_beaten(policy: Policy, others: list[Policy], pod: Workload) -> bool:
    """Whether `policy` is for `pod`, which gets another one of the same scope, rank and priority."""
    level = (policy.namespace, rank_policy(policy), policy.priority)
    equals = [item for item in others if (item.namespace, rank_policy(item), item.priority) == level]
    return select_policy([policy], pod) is not None and select_policy(equals, pod) != policy


@given(policies=st.lists(POLICIES, unique_by=by_place, max_size=8), data=st.data())
def test_a_tie_is_reported_at_a_policy_that_loses_and_whatever_the_order(
    policies: list[Policy], data: st.DataObject
) -> None:
    told = check_ties(policies)
    ties = [finding for finding in told if finding.code == "EX408"]

    assert check_ties(data.draw(st.permutations(policies))) == told
    losers = [item for item in policies if item.where in {tie.where for tie in ties}]
    assert len(losers) == len(ties)
    for loser in losers:
        assert any(is_beaten(loser, policies, pod) for pod in PODS)


@given(policies=st.lists(POLICIES, unique_by=by_place, max_size=8))
def test_a_policy_that_is_told_to_be_idle_is_chosen_by_no_pod_even_if_it_wishes(policies: list[Policy]) -> None:
    told = {finding.where for finding in check_ties(policies) if finding.code == "EX409"}

    for idle in (item for item in policies if item.where in told):
        for pod in PODS:
            assert select_policy(policies, dataclasses.replace(pod, policy=idle.name)) is not idle


SECRET_TEXTS = st.one_of(st.text(max_size=12), st.from_regex(r"[a-z./:-]{1,12}", fullmatch=True))


@given(name=SECRET_TEXTS, key=SECRET_TEXTS)
def test_nothing_that_is_written_reaches_another_namespace(name: str, key: str) -> None:
    text = yaml.safe_dump({
        "default": {"action": "tunnel"},
        "proxies": {
            "p": {
                "endpoints": [{"url": "https://p.example:1"}],
                "auth": {"basic": {"secretRef": {"name": name}}},
                "tls": {
                    "ca": {"secretRef": {"name": name, "key": key}},
                    "clientCertificate": {"secretRef": {"name": name}},
                },
            }
        },
    })  # fmt: skip

    result = parse(long_form(text), namespace="team-a", secrets="team-a")

    for path in (path for policy in result.policies for path in files_of(policy)):
        part = read_secret_path(path)
        assert part is not None
        assert (part.namespace, part.name) == ("team-a", name)
        assert path == f"secret:team-a/{name}/{part.key}"
        assert path.count("/") == 2


@given(names=st.lists(st.sampled_from("abc"), max_size=5), data=st.data())
def test_the_order_of_sources_means_nothing(names: list[str], data: st.DataObject) -> None:
    results = {
        f"{index}.yaml": parse(long_form("default: {action: deny}", f"{{name: {name}}}"), f"{index}.yaml")
        for index, name in enumerate(names)
    }
    shuffled = dict(data.draw(st.permutations(list(results.items()))))
    assert check_names(results) == check_names(shuffled)
    assert len(check_names(results)) == len(names) - len(set(names))
