"""The catalogue's entries about what can't be compiled, or not as it is meant (EX5)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

COMPILATION = (
    error(
        "EX501",
        "The rules are too interleaved",
        "Rules about names and rules about addresses alternate so often that the matching tree would grow "
        "beyond reason. The policy means something, but can't be compiled into a listener of bearable size. "
        "Put rules of one kind and action together.",
    ),
    error(
        "EX502",
        "TLS to a proxy whose name is unknown",
        "The proxy is reached by `https://` at an address, and nothing says which name its certificate holds. "
        "Without one any certificate would do. Write the name as `tls.serverName`, or as the URL's host.",
    ),
    error(
        "EX503",
        "Addresses of names cover a real one",
        "Connections to an address of `dns.syntheticRange` are never dialled, so that what really is there could not "
        "be reached any more: a proxy, a name server, the API server or this host itself. Choose a range that "
        "nothing uses.",
    ),
    error(
        "EX504",
        "Two names on one address",
        "The address that stands for a name in `to.tcp` follows from the name and the range alone, so that it is the "
        "same everywhere and never moves. Here two names come to the same one, and a connection could not be told "
        "from that of the other. Take a larger range; all names then get other addresses.",
    ),
    warning(
        "EX505",
        "Envoy can't answer for these names",
        "Its DNS filter knows no wildcards below a single label such as `*.com`. Names that only such a pattern covers "
        "are resolved by the pod's own name servers. Write wildcards below two labels, or the names themselves.",
    ),
    warning(
        "EX506",
        "Part of a named destination goes direct",
        "The name in `to.tcp` is answered with an address that stands for it and can't be dialled. Where an earlier "
        "rule sends the name direct, on some ports or all, its connections are refused. Put the rule with the name "
        "first, or leave out what goes direct.",
    ),
    warning(
        "EX507",
        "Variables can't say what the policy says",
        "With `mode: env` there is no sidecar: applications read HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which know one "
        "proxy and hosts that go past it, and nothing of logins, refusals or an order of rules. Pods that would get "
        "this policy by variables are refused. Choose `transparent` or `explicit`, or take out what is named.",
    ),
)
