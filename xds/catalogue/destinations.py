"""The catalogue's entries about destinations, rules and what goes where (EX2)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

DESTINATIONS = (
    error(
        "EX201",
        "An entry is not a destination",
        "The text is neither a host name nor an address nor a network in the grammar of NO_PROXY. A malformed "
        "entry is never dropped or widened, so the document stays out of force until it is mended. Write the "
        "host only, without scheme, user or path; names outside ASCII may be written in their `xn--` form.",
    ),
    error(
        "EX202",
        "A separator is not understood",
        "Entries are separated by commas or white space in a list that is one text, and stand one per item "
        "elsewhere. `;` is what Windows uses and `|` what Java uses; read as part of a name they would match "
        "nothing. Replace them.",
    ),
    error(
        "EX203",
        "An entry sends everything direct",
        "`*`, `0.0.0.0/0` and `::/0` in a bypass send every connection past the proxies, which is rarely "
        "meant and hard to notice. Say it on purpose: in the long form with `default: {action: direct}`, in the "
        "short form with `httpProxy: direct` and `httpsProxy: direct`. For some ports of any host, give `ports` "
        "alone under `to`, which only the long form has.",
    ),
    error(
        "EX204",
        "A wildcard is not understood",
        "A `*` stands for whole labels at the front of a name (`*.name.example`) or alone for every host. "
        "`foo*.example` and `a.*.example` can't be matched. For addresses write a CIDR.",
    ),
    error(
        "EX205",
        "An address or network is malformed",
        "The text looks like an IP address or a CIDR, but is none: too many parts, a prefix that is too long, "
        "a zone, a netmask or a range. Bits of the host behind the prefix are fine, they are masked. Write "
        "e.g. `10.0.0.0/8`, `192.0.2.7` or `[2001:db8::1]:443`.",
    ),
    error(
        "EX206",
        "A port is malformed",
        "What follows the last colon is not a number from 1 to 65535. It is not simply dropped, because the "
        "entry would then match every port. Correct it or remove the colon; a bare IPv6 address takes a port "
        "only in brackets.",
    ),
    error(
        "EX207",
        "An entry stands in the wrong list",
        "`domains` takes host names, `cidrs` takes addresses and networks. Move the entry to the other list.",
    ),
    error(
        "EX208",
        "The dialect never matches this form",
        "The chosen dialect reads this form of entry as plain text that no host name equals, so the entry "
        "would do nothing. Write it in the form that the hint gives, or choose another `dialect`.",
    ),
    error(
        "EX209",
        "A rule matches nothing",
        "A rule without destinations would never be used; most likely a key was left out. Give `domains`, "
        "`cidrs`, `tcp` or `ports` under `to`. What happens to everything else belongs under `default`.",
    ),
    warning(
        "EX220",
        "Clients read this entry differently",
        "The entry is fine, but applications that leave their own NO_PROXY behind may have read it in another "
        "way: some take `name.example` for the name alone, some let `.name.example` include the name, some "
        "know no networks or ports. Check that the reading given here is what you want. Giving `dialect` says "
        "so, and ends the warning.",
    ),
    warning(
        "EX221",
        "A name that shows nothing on the wire",
        "A name without a dot, or `localhost`, is resolved to an address before it reaches the network, and a "
        "client could claim it for any address. In a bypass it is therefore left out; traffic inside a "
        "cluster and to the machine itself is recognised by address. Write the full name, or the network.",
    ),
    warning(
        "EX222",
        "An entry is repeated",
        "After normalising (case, trailing dot, punycode, host bits) an earlier entry of the same rule, or an earlier "
        "rule that does the same, already covers this one. Nothing is lost, it is counted once. Remove the repeat.",
    ),
    warning(
        "EX223",
        "A name on a port where the server speaks first",
        "On ports such as 22 and 25 the server sends the first bytes, so a client shows no name before the "
        "route is chosen, and the entry matches nothing. Give the addresses instead. If the service does "
        "speak TLS from the start, take its port out of `serverFirstPorts`, which only the long form has.",
    ),
    warning(
        "EX224",
        "The proxy takes no CONNECT for a port",
        "The rule tunnels ports that the proxy's `connectPorts` leaves out. Such connections are refused, "
        "never sent direct. Add the ports if the proxy allows them, or change the rule.",
    ),
    warning(
        "EX225",
        "`onUnknownName` has no effect",
        "The key says what happens to a connection that the default would tunnel but that names no host. Here "
        "the default tunnels neither plain HTTP nor anything else, so such connections get what every other "
        "one gets. Remove the key, or let the default tunnel.",
    ),
    error(
        "EX226",
        "Nothing to verify",
        "`verify` names the networks in which hosts must be that a rule sends direct by name; a connection to another "
        "address goes on to the next rules. It means something only in a rule with `action: direct` and `domains`, and "
        "`/0` would verify nothing: write `verify: none` to believe what clients say. In the short form the key is "
        "`noProxyVerify`.",
    ),
    warning(
        "EX227",
        "A bypass by name believes the client",
        "A connection that goes direct goes to the address that the client chose; its name is only what the client "
        "claims. By claiming a name that goes direct, a pod reaches every address past the proxy. Give the networks in "
        "which these hosts are, as `verify` of the rule or `noProxyVerify` of the short form: claims elsewhere go on "
        "to the next rules. Or send the networks direct instead of names. `none` says that the claim is believed.",
    ),
    warning(
        "EX228",
        "A rule is never used",
        "The first rule that matches a connection decides, and earlier rules match all that this one does: each of its "
        "hosts and networks on each of its ports. Bypasses that are built in, of loopback and of link-local addresses "
        "such as 169.254.169.254, come before every rule; `alwaysDirect` switches them off. If the rule is an "
        "exception from a wider one, put it before that one.",
    ),
    warning(
        "EX229",
        "An entry is decided by an earlier rule",
        "Of the hosts and networks of this rule, some are matched by an earlier rule, or by a bypass that is built in, "
        "which does something else with them. The first rule that matches decides, so that for these this one is never "
        "asked. Put exceptions before the wider rule, or take out what is never decided here.",
    ),
    error(
        "EX230",
        "No range for the addresses of names",
        "With `dns.mode: capture` names are answered with addresses that stand for them, and nobody said which. "
        "Choose ranges that nothing else uses, such as 198.18.0.0/15 and a network of your own below fd00::/8.",
    ),
    error(
        "EX231",
        "A range can't stand for names",
        "Ranges of addresses that stand for names must not overlap, must be addresses that a host could have, and "
        "must have room: at least a /30, or a /126 of IPv6. Correct `dns.syntheticRange`.",
    ),
    error(
        "EX232",
        "TCP by name without addresses for names",
        "What is neither TLS nor plain HTTP shows no name, so that a name in `to.tcp` is recognised by an address that "
        "stands for it. Only `dns.mode: capture` gives names such addresses. Switch it on and capture port 53 (`xds "
        "capture --dns`), or give the addresses of the host.",
    ),
    error(
        "EX233",
        "A name in `to.tcp` of a direct rule",
        "An address that stands for a name can't be dialled, and Envoy does not resolve names for what goes direct. "
        "Give the addresses of the host in `to.tcp`. For TLS and plain HTTP, which show their names, write `domains`.",
    ),
    warning(
        "EX234",
        "Names have addresses of one family only",
        "To a question for the other kind of address Envoy answers that there is no such name, and some clients "
        "believe it of the name as a whole. Give `dns.syntheticRange` an IPv4 and an IPv6 range; the pods need not "
        "reach the latter.",
    ),
)
