"""
How `xds explain` shows its answers: text for people, and JSON whose fields are kept stable.

Nothing here decides. Invariant: of a login only the name of its file or Secret is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xds.diagnostics import Where
from xds.errors import clean_text
from xds.explain.cause import DEFAULT, Verdict
from xds.explain.connection import Fate, Protocol
from xds.explain.explanation import ADDRESS
from xds.policy.model import ProxyProtocol
from xds.policy.secrets import describe_path, read_secret_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.explain.explanation import Branch, Decision, Explanation
    from xds.policy.model import Endpoint, Policy, Proxy

_COLOURS = {Verdict.DIRECT: "yellow", Verdict.PROXY: "green", Verdict.REFUSED: "red"}
_WORDS = {Protocol.TLS: "TLS", Protocol.HTTP_10: "plain HTTP/1.0", Protocol.HTTP_11: "plain HTTP"}
_MOST_ADDRESSES = 4
_MOST_ENTRIES = 8
_LABEL = 12
"""Columns of the labels below a decision."""


def render_explanation(explanation: Explanation, whose: str) -> str:
    """Return one answer for people; `whose` connection it is."""
    decision = explanation.decision
    lines = [
        clean_text(f"{whose} → {explanation.question.authority} ({_describe_question(explanation)})"),
        *_synthetic(explanation),
    ]
    lines += ["", _headline(decision), *_details(decision)]
    lines += _misses(decision)
    others = explanation.branches[1:]
    if others:
        lines += ["", "but if it leads to one of these addresses:", *_branches(others)]
    if explanation.is_partial:
        lines += ["", "The policy knows too many networks to look at each: give --address, or --resolve."]
    lines += _clients(explanation)
    lines += [
        click.style(f"\nCONTRADICTION: {clean_text(text)}", fg="red", bold=True) for text in explanation.contradictions
    ]
    return "\n".join(lines)


def _describe_question(explanation: Explanation) -> str:
    question = explanation.question
    if question.is_explicit:
        return (
            "plain HTTP to the explicit listener" if question.protocol.is_http else "CONNECT to the explicit listener"
        )
    words = _WORDS.get(question.protocol, "TCP that is neither TLS nor HTTP")
    if question.protocol is Protocol.OTHER:
        return words
    label = "Host" if question.protocol.is_http else "server name"
    return f"{words}, {label} {question.claimed}" if question.claimed else f"{words}, no {label}"


def _synthetic(explanation: Explanation) -> list[str]:
    if not explanation.synthetic:
        return []
    shown = ", ".join(map(str, explanation.synthetic))
    return [clean_text(f"the pod is told that {explanation.question.host} is at {shown}, which stands for the name")]


def _headline(decision: Decision) -> str:
    return click.style(clean_text(_what(decision)), fg=_COLOURS[decision.verdict], bold=True)


def _what(decision: Decision) -> str:
    match decision.fate:
        case Fate.DIRECT:
            place = decision.target.removeprefix(f"{ADDRESS}:")
            return f"direct to port {place} of its address" if place != decision.target else f"direct to {place}"
        case Fate.CLOSED:
            return "refused: closed without a byte"
        case Fate.FORBIDDEN:
            return "refused: answered with 403"
        case Fate.TUNNELLED:
            return f"tunnel through {_name_of(decision)}"
        case Fate.FORWARDED:
            return f"plain HTTP through {_name_of(decision)}"


def _name_of(decision: Decision) -> str:
    return decision.cluster if decision.proxy is None else f'the proxy "{decision.proxy.name}"'


def _details(decision: Decision) -> list[str]:
    rows = []
    if decision.cause is not None:
        rows.append(("because", f"{decision.cause.reason}: {_origin(decision)}"))
    request = describe_request(decision)
    if request:
        rows.append(("it is asked", request))
        if decision.target.startswith(f"{ADDRESS}:"):
            rows.append(("", f"where {ADDRESS} is what the application dials"))
    if decision.proxy is not None and request:
        rows.append(("endpoints", _describe_endpoints(decision.proxy)))
        if decision.proxy.login is not None:
            rows.append(("login", f"Basic, of {describe_path(decision.proxy.login.file)}"))
    clusters = [
        f"chain {hop.chain}" + (f" → cluster {hop.cluster}" if hop.cluster else "") for hop in decision.arrival.hops
    ]
    rows.append(("Envoy", ", then ".join(clusters)))
    return [_row(*row) for row in rows]


def _row(label: str, text: str) -> str:
    return f"  {click.style(label.ljust(_LABEL), dim=True)} {clean_text(text)}"


def _origin(decision: Decision) -> str:
    cause, place = decision.cause, decision.place
    if cause is None or place is None:
        return f"chain {decision.arrival.chain}"
    if cause.is_built_in:
        return f"the default, {place.where}" if cause.rule == DEFAULT else cause.rule
    name = "the default" if cause.rule == DEFAULT else f"rule {cause.rule}"
    return f"{name}, {place.where}" + (f" ({place.entry})" if place.entry else "")


def describe_request(decision: Decision) -> str:
    """Return the first line of what the proxy is asked; empty: no proxy is asked."""
    match decision.fate:
        case Fate.TUNNELLED if decision.proxy is not None and decision.proxy.protocol is ProxyProtocol.HTTP2:
            return f"CONNECT {decision.target} (HTTP/2)"
        case Fate.TUNNELLED:
            return f"CONNECT {decision.target} HTTP/1.1"
        case Fate.FORWARDED:
            return f"GET {decision.target} HTTP/1.1"
        case _:
            return ""


def _describe_endpoints(proxy: Proxy) -> str:
    ordered = sorted(proxy.endpoints, key=lambda item: item.priority)
    levels = [[item for item in ordered if item.priority == level] for level in sorted({x.priority for x in ordered})]
    return "; then, if none is usable, ".join(" or ".join(map(_url, level)) for level in levels)


def _url(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}"


def _misses(decision: Decision) -> list[str]:
    found = () if decision.cause is None else decision.cause.misses
    return [
        _row("" if index else "and not", f"rule {miss.rule}, {miss.where}: {miss.why}")
        for index, miss in enumerate(found)
    ]


def _branches(branches: Sequence[Branch]) -> Iterable[str]:
    shown = [_shorten(branch.addresses) for branch in branches]
    width = max(map(len, shown))
    for text, branch in zip(shown, branches, strict=True):
        what = click.style(clean_text(_what(branch.decision)), fg=_COLOURS[branch.decision.verdict])
        yield f"  {text.ljust(width)}  {what}: {clean_text(_origin(branch.decision))}"


def _shorten(addresses: Sequence[str]) -> str:
    more = f" and {len(addresses) - _MOST_ADDRESSES} more" if len(addresses) > _MOST_ADDRESSES else ""
    return ", ".join(addresses[:_MOST_ADDRESSES]) + more


def _clients(explanation: Explanation) -> list[str]:
    listed = explanation.no_proxy
    if explanation.policy is None:
        return []
    if explanation.question.protocol is Protocol.OTHER and not explanation.question.is_explicit:
        return []
    if listed.missing:
        return ["", f"No NO_PROXY says what this policy says: {clean_text(listed.missing)}."]
    width = max(len(answer.title) for answer in explanation.clients)
    value = clean_text(f"{_listed(listed.entries)} ({listed.origin})")
    lines = [
        "",
        f"with NO_PROXY={value} clients that use the proxy themselves would go:",
    ]
    for answer in explanation.clients:
        way = "direct" if answer.goes_direct else "proxy"
        mark = _mark(answer.goes_direct, explanation.decision)
        lines.append(f"  {mark} {answer.title.ljust(width)}  {way:6}  {clean_text(answer.why)}")
    return lines


def _listed(entries: Sequence[str]) -> str:
    """Return the first of the entries as one writes them; a proxy's list may have thousands."""
    text = ",".join(entries[:_MOST_ENTRIES])
    shown = f"'{text}'" if any(char in text for char in " *;|") or not text else text
    more = len(entries) - _MOST_ENTRIES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _mark(goes_direct: bool, decision: Decision) -> str:
    agrees = agrees_with(decision, goes_direct=goes_direct)
    if agrees is None:
        return " "
    return click.style("✓", fg="green") if agrees else click.style("✗", fg="red")


def agrees_with(decision: Decision, *, goes_direct: bool) -> bool | None:
    """Whether a client goes the way that the policy sends it; None: the policy refuses it, which no client does."""
    return None if decision.verdict is Verdict.REFUSED else goes_direct is (decision.verdict is Verdict.DIRECT)


def describe_explanation(explanation: Explanation) -> dict[str, object]:
    """Return one answer as a JSON object."""
    question = explanation.question
    return {
        "host": question.host,
        "port": question.port,
        "protocol": {Protocol.OTHER: "tcp", Protocol.TLS: "tls"}.get(question.protocol, "http"),
        "shown": question.claimed or None,
        "explicit": question.is_explicit,
        "syntheticAddresses": [str(address) for address in explanation.synthetic],
        **_describe_branch(explanation.branches[0]),
        "otherwise": [_describe_branch(branch) for branch in explanation.branches[1:]],
        "partial": explanation.is_partial,
        "contradictions": list(explanation.contradictions),
        "noProxy": {
            "value": None if explanation.no_proxy.missing else explanation.no_proxy.text,
            "origin": explanation.no_proxy.origin or None,
            "missing": explanation.no_proxy.missing or None,
        },
        "clients": [
            {
                "client": answer.client,
                "title": answer.title,
                "direct": answer.goes_direct,
                "agrees": agrees_with(explanation.decision, goes_direct=answer.goes_direct),
                "why": answer.why,
            }
            for answer in explanation.clients
        ],
    }


def _describe_branch(branch: Branch) -> dict[str, object]:
    decision, cause, place = branch.decision, branch.decision.cause, branch.decision.place
    misses = () if cause is None else cause.misses
    return {
        "addresses": list(branch.addresses),
        "action": decision.verdict.value,
        "fate": decision.fate.name.lower(),
        "target": decision.target or None,
        "request": describe_request(decision) or None,
        "proxy": None if decision.proxy is None else _describe_proxy(decision.proxy),
        "chain": decision.arrival.chain,
        "cluster": decision.cluster or None,
        "hops": [{"chain": hop.chain, "cluster": hop.cluster or None} for hop in decision.arrival.hops],
        "rule": None if cause is None else cause.rule,
        "builtIn": None if cause is None else cause.is_built_in,
        "reason": None if cause is None else cause.reason,
        **describe_place(Where("") if place is None else place.where),
        "entry": (place.entry or None) if place is not None else None,
        "nearMisses": [{"rule": miss.rule, **describe_place(miss.where), "why": miss.why} for miss in misses],
    }


def _describe_proxy(proxy: Proxy) -> dict[str, object]:
    return {
        "name": proxy.name,
        "protocol": proxy.protocol.value,
        "endpoints": [{"url": _url(item), "priority": item.priority} for item in proxy.endpoints],
        "login": None if proxy.login is None else _describe_login(proxy.login.file),
    }


def _describe_login(path: str) -> dict[str, object]:
    part = read_secret_path(path)
    return {"file": path} if part is None else {"secret": {"namespace": part.namespace, "name": part.name}}


def describe_place(where: Where) -> dict[str, object]:
    """Return a place as fields of a JSON object; what is unknown is null."""
    return {"source": where.source or None, "line": where.line, "key": where.key or None}


def describe_policy(policy: Policy | None) -> dict[str, object] | None:
    """Return which policy it is, as a JSON object."""
    if policy is None:
        return None
    return {"name": policy.name, "namespace": policy.namespace, **describe_place(policy.where)}
