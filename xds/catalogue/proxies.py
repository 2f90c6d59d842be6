"""The catalogue's entries about proxies, and their logins and certificates (EX3)."""

from __future__ import annotations

from xds.catalogue.entry import error, warning

PROXIES = (
    error(
        "EX301",
        "A proxy's URL is malformed",
        "A proxy is named by `http://host:port`, or `https://host:port` if it speaks TLS itself; nothing may "
        "follow the port. The URL is not repeated in the message, since it may hold a password.",
    ),
    error(
        "EX302",
        "Credentials stand in a URL",
        "Policies are read by many people and programs and must hold no password. Remove the user and "
        "password from the URL and consider the password known. The message does not repeat it.",
    ),
    error(
        "EX303",
        "A proxy's URL has no port",
        "Without a port curl takes 1080 and Go takes 80 or 443, so the same text means different proxies. "
        "Write the port.",
    ),
    error(
        "EX304",
        "There is no such proxy",
        "The rule or default refers to a proxy that this document does not describe. Proxies are not shared "
        "between documents. Correct the name, or add the proxy under `spec.proxies`.",
    ),
    error(
        "EX305",
        "A tunnel without a proxy",
        "`action: tunnel` needs to know which proxy. It may be left out only if the document describes exactly one.",
    ),
    error(
        "EX306",
        "Only one of httpProxy and httpsProxy",
        "With one of the two missing, clients disagree: to Go, https then goes direct; elsewhere `httpProxy` "
        "serves for both. Neither is guessed here. Write both; each may also be `direct` or `deny`.",
    ),
    error(
        "EX307",
        "A certificate authority is malformed",
        "The value must be one or more PEM blocks of certificates, as they are or in base64. A private key "
        "does not belong in a policy; if one is there, consider it known. The value is never shown in "
        "messages.",
    ),
    warning(
        "EX308",
        "A proxy is not used",
        "No rule and no default sends anything to this proxy. Remove it, or name it where it was meant to be used.",
    ),
    warning(
        "EX309",
        "TLS settings without TLS",
        "Authorities or a server name for the proxy's own certificate are given, but the proxy is reached "
        "without TLS, so they have no effect. Write its URL with `https://` if it speaks TLS. The authorities "
        "of the sites behind the proxy are `trustedCA`, which applications are given.",
    ),
    error(
        "EX310",
        "An endpoint is listed twice",
        "The same host and port stand twice in one proxy, perhaps with different priorities or schemes. Keep "
        "the one that is meant.",
    ),
    error(
        "EX311",
        "A proxy for an action that uses none",
        "`direct` and `deny` use no proxy, so either the action or the proxy is a mistake. Remove one of them.",
    ),
    warning(
        "EX312",
        "A proxy at a synthetic address",
        "Addresses of `dns.syntheticRange` stand for names, so that nothing that goes by address matches them. "
        "That includes the guard which recognises connections to the proxy itself: an application that still "
        "uses its proxy variables would be tunnelled to the proxy through the proxy. Narrow the range, or "
        "correct the proxy's address.",
    ),
    error(
        "EX313",
        "Not the path of a file",
        "Secrets and certificates are named by the absolute path of a file that the control plane reads; they are "
        "never written in a policy. The text is not repeated in the message, since it may be the secret itself: if "
        "it is, consider it known.",
    ),
    warning(
        "EX314",
        "A login in clear text",
        "The proxy is reached without TLS, so its login can be read by everybody on the way there. Many companies "
        "accept that inside their network. Use an `https://` endpoint if the proxy has one.",
    ),
    error(
        "EX315",
        "TLS can't be originated here",
        "`originateTLS` sends what an application says in plain HTTP as HTTPS through a tunnel. The certificate is "
        "verified against the host's name, so that the rule must tunnel and match by `domains` only. Take other "
        "destinations into a rule of their own.",
    ),
    error(
        "EX316",
        "A proxy that is its own upstream",
        "The endpoint is a port of the pod itself on which its Envoy listens, so that every tunnel would lead back to "
        "this Envoy until it has no connections left. A proxy on the pod's loopback is fine on any other port. Write "
        "the address of the company's proxy.",
    ),
    error(
        "EX317",
        "A secret has no place, or two",
        "A login, an authority or a certificate is either in files (outside Kubernetes) or in a Secret (inside). Write "
        "exactly one of `file` and `secretRef`, or of `certificateFile` with `keyFile` and `secretRef`.",
    ),
    error(
        "EX318",
        "A secret can't be in such a place",
        "In Kubernetes a policy names Secrets by `secretRef`, since files would be those of the control plane, which "
        "are not its author's. A policy in a directory names files, since there are no Secrets.",
    ),
    error(
        "EX319",
        "Not the name of a Secret",
        "`secretRef` holds the name of a Secret (a DNS-1123 subdomain) in the namespace of the policy; none of another "
        "namespace can be named. `key` is for authorities only. The text is not repeated: it may be the secret itself.",
    ),
    error(
        "EX320",
        "A file or Secret can't be read",
        "The policy names a file or Secret with a login, an authority, a certificate or a key, and the control plane "
        "can't read it. Until it can, what was in force stays so. Files are read on the machine of the control plane, "
        "by its user; one that appears, or a Secret, is taken over within a second. `validate --no-files` checks a "
        "policy elsewhere.",
    ),
    error(
        "EX321",
        "A file or Secret is empty",
        "A file, or a part of a Secret, that the policy names holds nothing. An empty login would be refused by the "
        "proxy, and an empty certificate by Envoy, so what was in force stays so. Write a file anew under another name "
        "and rename it, so that nobody sees half of it.",
    ),
    error(
        "EX322",
        "A login is malformed",
        "The file of a login holds `user:password` in one line, as it is: not in base64, without a scheme before it "
        "(RFC 7617); a Secret holds both as `username` and `password`. One line break at the end is fine; any other "
        "control character would break the request. The content is never shown in messages.",
    ),
    error(
        "EX323",
        "No certificate",
        "Certificates are wanted in PEM, as blocks between `-----BEGIN CERTIFICATE-----` and `-----END "
        "CERTIFICATE-----`. DER and PKCS #12 files must be converted first: `openssl x509 -inform DER`, `openssl "
        "pkcs12 -nodes`. A block whose content is broken counts as none.",
    ),
    error(
        "EX324",
        "A certificate has ended",
        "The proxy would refuse it, or its own would no longer be trusted, so that no tunnel could be opened. What "
        "was in force stays so. Of several authorities the one that lasts longest counts; of our own certificate "
        "and its chain the one that ends first. Renew it.",
    ),
    warning(
        "EX325",
        "A certificate ends soon",
        "In two weeks at the latest (or, if it lives only briefly, within the last third of its life) the certificate "
        "ends, and tunnels with it. Renew it in time; a new file is taken over within a second and cuts nothing.",
    ),
    error(
        "EX326",
        "A private key can't be used",
        "The key of a client certificate must be one PEM block without a passphrase, of a kind that Envoy takes: RSA "
        "of at least 2048 bits, or ECDSA on P-256, P-384 or P-521. The content is never shown in messages.",
    ),
    error(
        "EX327",
        "Key and certificate do not belong together",
        "The key is not that of the first certificate in its file; certificates of authorities come after our own. "
        "While both files are being renewed one after the other this is so for a moment, and what was in force stays "
        "so meanwhile.",
    ),
    error(
        "EX328",
        "Not a certificate authority",
        "None of the certificates may sign others, so that the proxy's can't be verified against them. Give the "
        "certificate of the authority that signed the proxy's. One that signed itself is taken, too.",
    ),
    warning(
        "EX329",
        "Some authorities have ended",
        "Some certificates of a bundle are past their end and of no use; others are not, and the bundle stays in "
        "force. Remove the old ones, or renew them if the proxy's certificate is signed by one of them.",
    ),
    error(
        "EX330",
        "HTTP/2 without a way for plain HTTP",
        "Requests in absolute form belong to HTTP/1.1; at the first one over HTTP/2 a proxy breaks off the connection, "
        "with all the tunnels on it. Write `plainHTTP: connect`, so that plain HTTP goes through tunnels too, or "
        "`plainHTTP: deny`.",
    ),
    error(
        "EX331",
        "Too many authorities for applications",
        "`trustedCA` is handed to pods in a variable, of which Linux takes 128 KiB at most, so that 96 KiB of PEM are "
        "the bound. Give only the company's own authorities: the system's are kept beside them anyway. An `https://` "
        "proxy whose certificate needs a larger bundle has `tls.ca` in the long form.",
    ),
    error(
        "EX340",
        "A probe that outlasts its interval",
        "A probe of a proxy's endpoint may take longer than the time until the next one, so that an endpoint that is "
        "gone would be noticed later than the interval says. Make `health.timeout` at most `health.interval`.",
    ),
    warning(
        "EX341",
        "Nothing to leave out",
        "`outlier` leaves out an endpoint that fails while others work. This proxy has one endpoint, which is never "
        "left out. Remove the key, or give another endpoint.",
    ),
)
