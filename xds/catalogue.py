"""
The catalogue of diagnostics: every code, how bad it is, and what it means for whoever reads it.

Every code lives in `CATALOGUE` exactly once; a code that is no longer produced moves to `RETIRED` and is never
given a second meaning. This room is text: it must not know who finds what, and where.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(Enum):
    """How bad a finding is: an `ERROR` keeps the document out, a `WARNING` does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a code means, whatever document it is found in."""

    code: str
    severity: Severity
    title: str
    explanation: str


def _catalogue(*entries: CatalogueEntry) -> Mapping[str, CatalogueEntry]:
    by_code = {entry.code: entry for entry in entries}
    assert len(by_code) == len(entries), "a code is listed twice"
    return by_code


def _error(code: str, title: str, explanation: str) -> CatalogueEntry:
    return CatalogueEntry(code, Severity.ERROR, title, explanation)


def _warning(code: str, title: str, explanation: str) -> CatalogueEntry:
    return CatalogueEntry(code, Severity.WARNING, title, explanation)


# EX1: YAML and structure. EX2: destinations and rules. EX3: proxies. EX4: selection and names. EX5: compilation.
# EX9: sources, and the program itself.
CATALOGUE: Mapping[str, CatalogueEntry] = _catalogue(
    _error(
        "EX101",
        "The text is not YAML",
        "The document can't be read at all, so nothing in it is in force, and what stands after this place "
        "was not looked at. Common causes are a tab in the indentation, a value that starts with `*`, `@` or "
        "`[` without quotes, and text that was cut off. Mend the line that is named, or the one before it.",
    ),
    _error(
        "EX102",
        "A key is given twice",
        "One of the two values would be lost without a word, and programs disagree about which. Keep the one "
        "that is meant. This often comes from joining two files.",
    ),
    _error(
        "EX103",
        "The document is too deep or too large",
        "Values are nested, or repeated through aliases, far beyond what any policy needs, or the text or its proxies "
        "are too many. The bound keeps one document from filling the memory of the control plane and from delaying "
        "all others; 256 KiB is that of a ConfigMap for one namespace. Flatten the document, or split it.",
    ),
    _error(
        "EX104",
        "The document is not a policy",
        "A policy is a mapping in the long form (`apiVersion`, `kind`, `metadata`, `spec`) or in the short "
        "form (`httpProxy`, `httpsProxy`, `noProxy`, `trustedCA`). This one has none of these keys. Move "
        "other documents out of the policy directory.",
    ),
    _error(
        "EX105",
        "The kind or the version is not served",
        "The document says that it is something else, or of a version that this program does not know, so its "
        "keys are not looked at. Correct `apiVersion` and `kind`, or move the document elsewhere.",
    ),
    _error(
        "EX106",
        "A key is unknown",
        "No key is ever ignored, because a misspelt one would silently leave out what it was meant to say. "
        "Correct the spelling; the hint names the nearest key, or those that are known at that place.",
    ),
    _error(
        "EX107",
        "A value has the wrong type",
        "The key takes another kind of value: text, a whole number, `true` or `false`, a list or a mapping. "
        "YAML takes some unquoted words for something else: `no` and `off` for false, `1.5` for a number, "
        "`2026-01-01` for a date. Put text of that kind in quotes, and remove keys that have no value.",
    ),
    _error(
        "EX108",
        "A key is missing",
        "The document can't be understood without it, and nothing sensible can stand in for it. Add the key.",
    ),
    _error(
        "EX109",
        "A value is not allowed",
        "The value has the right type but is outside what the key takes: a word of a fixed set, a number in a "
        "range, a duration, a list that may not be empty. The hint says what is allowed.",
    ),
    _error(
        "EX110",
        "Not available in this version",
        "The policy language has a word for this, but this version does not serve it. It is an error rather "
        "than ignored, because the policy would do something else than it says. The hint names what to do "
        "meanwhile.",
    ),
    _error(
        "EX111",
        "Two forms in one document",
        "The document mixes keys of the short form with keys of the long form. The short form is a whole "
        "policy by itself. Move all to one form, or make two documents, separated by `---`.",
    ),
    _error(
        "EX112",
        "The document is empty",
        "The text holds no value at all, or comments only. An editor or a failing disk may have cut it off, so it "
        "is not taken as a wish to withdraw the policy: its last good version stays in force. Delete the file (or "
        "the key of the ConfigMap) to withdraw the policy, or restore its text. An empty part between two `---` "
        "lines of a longer file is ignored.",
    ),
    _warning(
        "EX113",
        "There is more to say",
        "So much was found that only the first thousand findings are told, two hundred of a document in a namespace, "
        "errors before warnings. Often one mistake is behind all of them. Correct what is shown and look again.",
    ),
    _error(
        "EX201",
        "An entry is not a destination",
        "The text is neither a host name nor an address nor a network in the grammar of NO_PROXY. A malformed "
        "entry is never dropped or widened, so the document stays out of force until it is mended. Write the "
        "host only, without scheme, user or path; names outside ASCII may be written in their `xn--` form.",
    ),
    _error(
        "EX202",
        "A separator is not understood",
        "Entries are separated by commas or white space in a list that is one text, and stand one per item "
        "elsewhere. `;` is what Windows uses and `|` what Java uses; read as part of a name they would match "
        "nothing. Replace them.",
    ),
    _error(
        "EX203",
        "An entry sends everything direct",
        "`*`, `0.0.0.0/0` and `::/0` in a bypass send every connection past the proxies, which is rarely "
        "meant and hard to notice. Say it on purpose: in the long form with `default: {action: direct}`, in the "
        "short form with `httpProxy: direct` and `httpsProxy: direct`. For some ports of any host, give `ports` "
        "alone under `to`, which only the long form has.",
    ),
    _error(
        "EX204",
        "A wildcard is not understood",
        "A `*` stands for whole labels at the front of a name (`*.name.example`) or alone for every host. "
        "`foo*.example` and `a.*.example` can't be matched. For addresses write a CIDR.",
    ),
    _error(
        "EX205",
        "An address or network is malformed",
        "The text looks like an IP address or a CIDR, but is none: too many parts, a prefix that is too long, "
        "a zone, a netmask or a range. Bits of the host behind the prefix are fine, they are masked. Write "
        "e.g. `10.0.0.0/8`, `192.0.2.7` or `[2001:db8::1]:443`.",
    ),
    _error(
        "EX206",
        "A port is malformed",
        "What follows the last colon is not a number from 1 to 65535. It is not simply dropped, because the "
        "entry would then match every port. Correct it or remove the colon; a bare IPv6 address takes a port "
        "only in brackets.",
    ),
    _error(
        "EX207",
        "An entry stands in the wrong list",
        "`domains` takes host names, `cidrs` takes addresses and networks. Move the entry to the other list.",
    ),
    _error(
        "EX208",
        "The dialect never matches this form",
        "The chosen dialect reads this form of entry as plain text that no host name equals, so the entry "
        "would do nothing. Write it in the form that the hint gives, or choose another `dialect`.",
    ),
    _error(
        "EX209",
        "A rule matches nothing",
        "A rule without destinations would never be used; most likely a key was left out. Give `domains`, "
        "`cidrs`, `tcp` or `ports` under `to`. What happens to everything else belongs under `default`.",
    ),
    _warning(
        "EX220",
        "Clients read this entry differently",
        "The entry is fine, but applications that leave their own NO_PROXY behind may have read it in another "
        "way: some take `name.example` for the name alone, some let `.name.example` include the name, some "
        "know no networks or ports. Check that the reading given here is what you want. Giving `dialect` says "
        "so, and ends the warning.",
    ),
    _warning(
        "EX221",
        "A name that shows nothing on the wire",
        "A name without a dot, or `localhost`, is resolved to an address before it reaches the network, and a "
        "client could claim it for any address. In a bypass it is therefore left out; traffic inside a "
        "cluster and to the machine itself is recognised by address. Write the full name, or the network.",
    ),
    _warning(
        "EX222",
        "An entry is repeated",
        "After normalising (case, trailing dot, punycode, host bits) an earlier entry of the same rule "
        "already covers this one. Nothing is lost, it is counted once. Remove the repeat.",
    ),
    _warning(
        "EX223",
        "A name on a port where the server speaks first",
        "On ports such as 22 and 25 the server sends the first bytes, so a client shows no name before the "
        "route is chosen, and the entry matches nothing. Give the addresses instead. If the service does "
        "speak TLS from the start, take its port out of `serverFirstPorts`, which only the long form has.",
    ),
    _warning(
        "EX224",
        "The proxy takes no CONNECT for a port",
        "The rule tunnels ports that the proxy's `connectPorts` leaves out. Such connections are refused, "
        "never sent direct. Add the ports if the proxy allows them, or change the rule.",
    ),
    _warning(
        "EX225",
        "`onUnknownName` has no effect",
        "The key says what happens to a connection that the default would tunnel but that names no host. Here "
        "the default tunnels neither plain HTTP nor anything else, so such connections get what every other "
        "one gets. Remove the key, or let the default tunnel.",
    ),
    _error(
        "EX226",
        "Nothing to verify",
        "`verify` names the networks in which hosts must be that a rule sends direct by name; a connection to another "
        "address goes on to the next rules. It means something only in a rule with `action: direct` and `domains`, and "
        "`/0` would verify nothing: write `verify: none` to believe what clients say. In the short form the key is "
        "`noProxyVerify`.",
    ),
    _warning(
        "EX227",
        "A bypass by name believes the client",
        "A connection that goes direct goes to the address that the client chose; its name is only what the client "
        "claims. By claiming a name that goes direct, a pod reaches every address past the proxy. Give the networks in "
        "which these hosts are, as `verify` of the rule or `noProxyVerify` of the short form: claims elsewhere go on "
        "to the next rules. Or send the networks direct instead of names. `none` says that the claim is believed.",
    ),
    _error(
        "EX230",
        "No range for the addresses of names",
        "With `dns.mode: capture` names are answered with addresses that stand for them, and nobody said which. "
        "Choose ranges that nothing else uses, such as 198.18.0.0/15 and a network of your own below fd00::/8.",
    ),
    _error(
        "EX231",
        "A range can't stand for names",
        "Ranges of addresses that stand for names must not overlap, must be addresses that a host could have, and "
        "must have room: at least a /30, or a /126 of IPv6. Correct `dns.syntheticRange`.",
    ),
    _error(
        "EX232",
        "TCP by name without addresses for names",
        "What is neither TLS nor plain HTTP shows no name, so that a name in `to.tcp` is recognised by an address that "
        "stands for it. Only `dns.mode: capture` gives names such addresses. Switch it on and capture port 53 (`xds "
        "capture --dns`), or give the addresses of the host.",
    ),
    _error(
        "EX233",
        "A name in `to.tcp` of a direct rule",
        "An address that stands for a name can't be dialled, and Envoy does not resolve names for what goes direct. "
        "Give the addresses of the host in `to.tcp`. For TLS and plain HTTP, which show their names, write `domains`.",
    ),
    _warning(
        "EX234",
        "Names have addresses of one family only",
        "To a question for the other kind of address Envoy answers that there is no such name, and some clients "
        "believe it of the name as a whole. Give `dns.syntheticRange` an IPv4 and an IPv6 range; the pods need not "
        "reach the latter.",
    ),
    _error(
        "EX301",
        "A proxy's URL is malformed",
        "A proxy is named by `http://host:port`, or `https://host:port` if it speaks TLS itself; nothing may "
        "follow the port. The URL is not repeated in the message, since it may hold a password.",
    ),
    _error(
        "EX302",
        "Credentials stand in a URL",
        "Policies are read by many people and programs and must hold no password. Remove the user and "
        "password from the URL and consider the password known. The message does not repeat it.",
    ),
    _error(
        "EX303",
        "A proxy's URL has no port",
        "Without a port curl takes 1080 and Go takes 80 or 443, so the same text means different proxies. "
        "Write the port.",
    ),
    _error(
        "EX304",
        "There is no such proxy",
        "The rule or default refers to a proxy that this document does not describe. Proxies are not shared "
        "between documents. Correct the name, or add the proxy under `spec.proxies`.",
    ),
    _error(
        "EX305",
        "A tunnel without a proxy",
        "`action: tunnel` needs to know which proxy. It may be left out only if the document describes exactly one.",
    ),
    _error(
        "EX306",
        "Only one of httpProxy and httpsProxy",
        "With one of the two missing, clients disagree: to Go, https then goes direct; elsewhere `httpProxy` "
        "serves for both. Neither is guessed here. Write both; each may also be `direct` or `deny`.",
    ),
    _error(
        "EX307",
        "A certificate authority is malformed",
        "The value must be one or more PEM blocks of certificates, as they are or in base64. A private key "
        "does not belong in a policy; if one is there, consider it known. The value is never shown in "
        "messages.",
    ),
    _warning(
        "EX308",
        "A proxy is not used",
        "No rule and no default sends anything to this proxy. Remove it, or name it where it was meant to be used.",
    ),
    _warning(
        "EX309",
        "TLS settings without TLS",
        "Authorities or a server name for the proxy's own certificate are given, but the proxy is reached "
        "without TLS, so they have no effect. Write its URL with `https://` if it speaks TLS. The authorities "
        "of the sites behind the proxy are not meant here.",
    ),
    _error(
        "EX310",
        "An endpoint is listed twice",
        "The same host and port stand twice in one proxy, perhaps with different priorities or schemes. Keep "
        "the one that is meant.",
    ),
    _error(
        "EX311",
        "A proxy for an action that uses none",
        "`direct` and `deny` use no proxy, so either the action or the proxy is a mistake. Remove one of them.",
    ),
    _warning(
        "EX312",
        "A proxy at a synthetic address",
        "Addresses of `dns.syntheticRange` stand for names, so that nothing that goes by address matches them. "
        "That includes the guard which recognises connections to the proxy itself: an application that still "
        "uses its proxy variables would be tunnelled to the proxy through the proxy. Narrow the range, or "
        "correct the proxy's address.",
    ),
    _error(
        "EX313",
        "Not the path of a file",
        "Secrets and certificates are named by the absolute path of a file that the control plane reads; they are "
        "never written in a policy. The text is not repeated in the message, since it may be the secret itself: if "
        "it is, consider it known.",
    ),
    _warning(
        "EX314",
        "A login in clear text",
        "The proxy is reached without TLS, so its login can be read by everybody on the way there. Many companies "
        "accept that inside their network. Use an `https://` endpoint if the proxy has one.",
    ),
    _error(
        "EX315",
        "TLS can't be originated here",
        "`originateTLS` sends what an application says in plain HTTP as HTTPS through a tunnel. The certificate is "
        "verified against the host's name, so that the rule must tunnel and match by `domains` only. Take other "
        "destinations into a rule of their own.",
    ),
    _error(
        "EX316",
        "A proxy that is its own upstream",
        "The endpoint is a port of the pod itself on which its Envoy listens, so that every tunnel would lead back to "
        "this Envoy until it has no connections left. A proxy on the pod's loopback is fine on any other port. Write "
        "the address of the company's proxy.",
    ),
    _error(
        "EX317",
        "A secret has no place, or two",
        "A login, an authority or a certificate is either in files (outside Kubernetes) or in a Secret (inside). Write "
        "exactly one of `file` and `secretRef`, or of `certificateFile` with `keyFile` and `secretRef`.",
    ),
    _error(
        "EX318",
        "A secret can't be in such a place",
        "In Kubernetes a policy names Secrets by `secretRef`, since files would be those of the control plane, which "
        "are not its author's. A policy in a directory names files, since there are no Secrets.",
    ),
    _error(
        "EX319",
        "Not the name of a Secret",
        "`secretRef` holds the name of a Secret (a DNS-1123 subdomain) in the namespace of the policy; none of another "
        "namespace can be named. `key` is for authorities only. The text is not repeated: it may be the secret itself.",
    ),
    _error(
        "EX320",
        "A file or Secret can't be read",
        "The policy names a file or Secret with a login, an authority, a certificate or a key, and the control plane "
        "can't read it. Until it can, what was in force stays so. Files are read on the machine of the control plane, "
        "by its user; one that appears, or a Secret, is taken over within a second. `validate --no-files` checks a "
        "policy elsewhere.",
    ),
    _error(
        "EX321",
        "A file or Secret is empty",
        "A file, or a part of a Secret, that the policy names holds nothing. An empty login would be refused by the "
        "proxy, and an empty certificate by Envoy, so what was in force stays so. Write a file anew under another name "
        "and rename it, so that nobody sees half of it.",
    ),
    _error(
        "EX322",
        "A login is malformed",
        "The file of a login holds `user:password` in one line, as it is: not in base64, without a scheme before it "
        "(RFC 7617); a Secret holds both as `username` and `password`. One line break at the end is fine; any other "
        "control character would break the request. The content is never shown in messages.",
    ),
    _error(
        "EX323",
        "No certificate",
        "Certificates are wanted in PEM, as blocks between `-----BEGIN CERTIFICATE-----` and `-----END "
        "CERTIFICATE-----`. DER and PKCS #12 files must be converted first: `openssl x509 -inform DER`, `openssl "
        "pkcs12 -nodes`. A block whose content is broken counts as none.",
    ),
    _error(
        "EX324",
        "A certificate has ended",
        "The proxy would refuse it, or its own would no longer be trusted, so that no tunnel could be opened. What "
        "was in force stays so. Of several authorities the one that lasts longest counts; of our own certificate "
        "and its chain the one that ends first. Renew it.",
    ),
    _warning(
        "EX325",
        "A certificate ends soon",
        "In two weeks at the latest (or, if it lives only briefly, within the last third of its life) the certificate "
        "ends, and tunnels with it. Renew it in time; a new file is taken over within a second and cuts nothing.",
    ),
    _error(
        "EX326",
        "A private key can't be used",
        "The key of a client certificate must be one PEM block without a passphrase, of a kind that Envoy takes: RSA "
        "of at least 2048 bits, or ECDSA on P-256, P-384 or P-521. The content is never shown in messages.",
    ),
    _error(
        "EX327",
        "Key and certificate do not belong together",
        "The key is not that of the first certificate in its file; certificates of authorities come after our own. "
        "While both files are being renewed one after the other this is so for a moment, and what was in force stays "
        "so meanwhile.",
    ),
    _error(
        "EX328",
        "Not a certificate authority",
        "None of the certificates may sign others, so that the proxy's can't be verified against them. Give the "
        "certificate of the authority that signed the proxy's. One that signed itself is taken, too.",
    ),
    _warning(
        "EX329",
        "Some authorities have ended",
        "Some certificates of a bundle are past their end and of no use; others are not, and the bundle stays in "
        "force. Remove the old ones, or renew them if the proxy's certificate is signed by one of them.",
    ),
    _error(
        "EX330",
        "HTTP/2 without a way for plain HTTP",
        "Requests in absolute form belong to HTTP/1.1; at the first one over HTTP/2 a proxy breaks off the connection, "
        "with all the tunnels on it. Write `plainHTTP: connect`, so that plain HTTP goes through tunnels too, or "
        "`plainHTTP: deny`.",
    ),
    _error(
        "EX340",
        "A probe that outlasts its interval",
        "A probe of a proxy's endpoint may take longer than the time until the next one, so that an endpoint that is "
        "gone would be noticed later than the interval says. Make `health.timeout` at most `health.interval`.",
    ),
    _warning(
        "EX341",
        "Nothing to leave out",
        "`outlier` leaves out an endpoint that fails while others work. This proxy has one endpoint, which is never "
        "left out. Remove the key, or give another endpoint.",
    ),
    _error(
        "EX401",
        "A name is not valid",
        "Policies, namespaces and service accounts are named as Kubernetes names objects; rules and proxies "
        "by letters, digits, `-`, `_` and `.`. Names appear in logs, statistics and messages, so that they "
        "must be short and plain. Change the name; a short form without `name` is called after its file.",
    ),
    _error(
        "EX402",
        "A label requirement is not valid",
        "Labels follow the rules of Kubernetes: an optional DNS prefix, at most 63 plain characters. `In` and "
        "`NotIn` need values, `Exists` and `DoesNotExist` take none. A selector that Kubernetes would refuse "
        "can select no pod.",
    ),
    _error(
        "EX403",
        "Two rules have one name",
        "A rule's name is how messages, logs and `explain` refer to it, so it must be unique in its policy. "
        "Rename one of them. A rule without a name is called `rule-<n>` after its place.",
    ),
    _error(
        "EX404",
        "The namespace contradicts the source",
        "The document stands in one namespace and says that it concerns another. A policy outside the control "
        "plane's own namespace concerns only the namespace that it stands in. Remove the key, or move the "
        "document.",
    ),
    _error(
        "EX405",
        "Two policies have one name",
        "A policy is known by its namespace and name, and two sources (or two documents of one file) define "
        "the same one. Which of them is meant can't be known. Rename or remove one; a short form without "
        "`name` is called after its file.",
    ),
    _warning(
        "EX406",
        "A selector that can't match",
        "The policy concerns one namespace only, and its selector names other ones, so that it is never in "
        "force. Remove the namespaces from the selector, or make the policy cluster-wide.",
    ),
    _warning(
        "EX407",
        "Labels of namespaces are unknown here",
        "The selector has `namespaceLabels`, but outside Kubernetes nobody tells the labels of namespaces: each counts "
        "as having none. Name the namespaces instead.",
    ),
    _warning(
        "EX408",
        "Only age or name decides between two policies",
        "Another policy of the same scope selects the same pods as narrowly and with the same priority. The older one "
        "is in force, or the first by name if both are as old or nobody knows; a pod or its namespace may choose by "
        "the annotation `egress-xds/policy`. Give the one that is meant a higher `priority`.",
    ),
    _error(
        "EX501",
        "The rules are too interleaved",
        "Rules about names and rules about addresses alternate so often that the matching tree would grow "
        "beyond reason. The policy means something, but can't be compiled into a listener of bearable size. "
        "Put rules of one kind and action together.",
    ),
    _error(
        "EX502",
        "TLS to a proxy whose name is unknown",
        "The proxy is reached by `https://` at an address, and nothing says which name its certificate holds. "
        "Without one any certificate would do. Write the name as `tls.serverName`, or as the URL's host.",
    ),
    _error(
        "EX503",
        "Addresses of names cover a real one",
        "Connections to an address of `dns.syntheticRange` are never dialled, so that what really is there could not "
        "be reached any more: a proxy, a name server, the API server or this host itself. Choose a range that "
        "nothing uses.",
    ),
    _error(
        "EX504",
        "Two names on one address",
        "The address that stands for a name in `to.tcp` follows from the name and the range alone, so that it is the "
        "same everywhere and never moves. Here two names come to the same one, and a connection could not be told "
        "from that of the other. Take a larger range; all names then get other addresses.",
    ),
    _warning(
        "EX505",
        "Envoy can't answer for these names",
        "Its DNS filter knows no wildcards below a single label such as `*.com`. Names that only such a pattern covers "
        "are resolved by the pod's own name servers. Write wildcards below two labels, or the names themselves.",
    ),
    _warning(
        "EX506",
        "Part of a named destination goes direct",
        "The name in `to.tcp` is answered with an address that stands for it and can't be dialled. Where an earlier "
        "rule sends the name direct, on some ports or all, its connections are refused. Put the rule with the name "
        "first, or leave out what goes direct.",
    ),
    _error(
        "EX901",
        "The text can't be had",
        "The source lists the document but can't hand over its text: the file may not be read, vanished, or is "
        "not UTF-8. Nothing is known of whom it concerns. Correct its permissions or its encoding.",
    ),
    _error(
        "EX902",
        "The program stumbled over the document",
        "This is a mistake of the program, not of the document; the other documents are not affected. What was "
        "in force stays so. Please report it with the document, without its credentials.",
    ),
)

RETIRED: frozenset[str] = frozenset()
"""Codes that older versions produced. They are never used again for anything else."""
