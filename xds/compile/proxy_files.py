"""
What the files and Secrets of a proxy hold, judged: its login, its authorities, and what proves to it who is calling.

All that could make an Envoy refuse or hang is found here: an empty login, for one, makes tunnels wait for ever.
Findings name files and Secrets, never what is in them. Most policies have no certificate, so what reads these is
imported only where there is one. Invariant: a `Material` that came without an error is complete.
"""

from __future__ import annotations

import unicodedata
from base64 import b64encode
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from xds.diagnostics import Diagnostic
from xds.facts import FileContent, FileProblem
from xds.policy.secrets import describe_path, read_secret_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.compile.certificates import Certificates
    from xds.diagnostics import Where
    from xds.facts import Facts
    from xds.policy.model import Policy, Proxy

FILE_CODES = frozenset({
    "EX320", "EX321", "EX322", "EX323", "EX324", "EX325", "EX326", "EX327", "EX328", "EX329",
})  # fmt: skip
"""All that can be said about files and certificates, and that only they decide."""

_BASIC_AUTH = "give `username` and `password`, each in one line"
_RENEW = "renew it; a new one is taken over as soon as it is in place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one proxy needs beside its description. What is not wanted, or not known, is empty."""

    login: str = field(default="", repr=False)
    """The whole value of `proxy-authorization` (RFC 7617)."""
    authorities: str = ""
    """PEM; empty: the system's."""
    certificates: str = ""
    """Our own certificate and its chain, in PEM."""
    key: str = field(default="", repr=False)


@dataclass(slots=True)
class _Reader:
    """Reads the files of one proxy and collects what is wrong with them."""

    proxy: Proxy
    facts: Facts
    findings: list[Diagnostic] = field(default_factory=list)

    def read(self) -> Material:
        return Material(
            login=self._read_login(), authorities=self._read_authorities(), **self._read_client_certificate()
        )

    def _read_login(self) -> str:
        login = self.proxy.login
        text = None if login is None else self._text(login.file, "auth.basic.file")
        if login is None or text is None:
            return ""
        text = text.removesuffix("\n").removesuffix("\r")
        problem = _problem_of_login(text)
        if problem is not None:
            is_file = read_secret_path(login.file) is None
            hint = "write `user:password` in one line and nothing else" if is_file else _BASIC_AUTH
            where = self._place("auth.basic.file", login.file)
            self._add("EX322", where, f"the login in {describe_path(login.file)} {problem}", hint)
            return ""
        return f"Basic {b64encode(text.encode()).decode()}"

    def _read_authorities(self) -> str:
        tls = self.proxy.tls
        if tls.ca_pem is not None:
            return self._judge_authorities(tls.ca_pem, "the authority in the policy", self.proxy.where)
        if tls.ca_file is None:
            return ""
        text = self._text(tls.ca_file, "tls.ca.file")
        where = self._place("tls.ca.file", tls.ca_file)
        what = f"the authority in {describe_path(tls.ca_file)}"
        return "" if text is None else self._judge_authorities(text, what, where)

    def _judge_authorities(self, text: str, what: str, where: Where) -> str:
        from xds.compile import certificates as x509  # noqa: PLC0415  # see above

        found = x509.read_certificates(text)
        usable = tuple(certificate for certificate in found if x509.is_authority(certificate))
        if not found:
            self._add("EX323", where, f"{what} is no PEM certificate", "give `-----BEGIN CERTIFICATE-----` blocks")
        elif not usable:
            hint = "give the certificate of the authority that signed the proxy's, not the proxy's own"
            self._add("EX328", where, f"{what} is no authority", hint)
        else:
            self._judge_end_of_bundle(usable, what, where)
        return x509.render_certificates(usable)

    def _judge_end_of_bundle(self, bundle: Certificates, what: str, where: Where) -> None:
        """Of several authorities one that has not ended is enough, as nobody knows which of them is needed."""
        from xds.compile import certificates as x509  # noqa: PLC0415  # see above

        now = self.facts.now
        longest = max(bundle, key=x509.ends_at)
        if now is not None and x509.ends_at(longest) > now and any(x509.ends_at(one) <= now for one in bundle):
            count = sum(x509.ends_at(one) <= now for one in bundle)
            message = f"{what}: {count} of {len(bundle)} certificates have ended"
            self._add("EX329", where, message, "remove them, or renew those that the proxy still uses")
        self._judge_end((longest,), what, where)

    def _read_client_certificate(self) -> dict[str, str]:
        own = self.proxy.tls.client_certificate
        if own is None:
            return {}
        chain = self._text(own.certificate_file, "tls.clientCertificate.certificateFile")
        key = self._text(own.key_file, "tls.clientCertificate.keyFile")
        if chain is None or key is None:
            return {}
        from xds.compile import certificates as x509  # noqa: PLC0415  # see above

        certificates = x509.read_certificates(chain)
        what, where = (
            f"the certificate in {describe_path(own.certificate_file)}",
            self._place("tls.clientCertificate.certificateFile", own.certificate_file),
        )
        if certificates:
            self._judge_end(certificates, what, where)
            key = self._judge_key(certificates, key)
        else:
            self._add("EX323", where, f"{what} is no PEM certificate", "give `-----BEGIN CERTIFICATE-----` blocks")
        return {"certificates": x509.render_certificates(certificates), "key": key}

    def _judge_key(self, certificates: Certificates, text: str) -> str:
        from xds.compile import certificates as x509  # noqa: PLC0415  # see above

        own = self.proxy.tls.client_certificate
        assert own is not None
        where, key = self._place("tls.clientCertificate.keyFile", own.key_file), x509.read_key(text)
        what = describe_path(own.key_file)
        if key is None:
            hint = "give one PEM block of a private key without a passphrase"
            self._add("EX326", where, f"{what}: no private key that can be read", hint)
        elif not x509.is_usable(key):
            hint = "use RSA of at least 2048 bits, or ECDSA on P-256, P-384 or P-521"
            self._add("EX326", where, f"the private key in {what} is of a kind that Envoy refuses", hint)
        elif not x509.belongs_to(key, certificates[0]):
            message = (
                f"the key in {what} does not belong to the first certificate in {describe_path(own.certificate_file)}"
            )
            self._add(
                "EX327", where, message, "put both in place as a pair; the own certificate comes before its chain"
            )
        return "" if key is None else x509.render_key(key)

    def _judge_end(self, certificates: Certificates, what: str, where: Where) -> None:
        from xds.compile import certificates as x509  # noqa: PLC0415  # see above

        now = self.facts.now
        first = min(certificates, key=x509.ends_at)
        if now is None:
            return
        if x509.ends_at(first) <= now:
            self._add("EX324", where, f"{what} ended on {_date(x509.ends_at(first))}", _RENEW)
        elif x509.warns_at(first) <= now:
            self._add("EX325", where, f"{what} ends on {_date(x509.ends_at(first))}", _RENEW)

    def _text(self, path: str, key: str) -> str | None:
        """Return what a file or Secret holds; None if there is nothing to go on with, which is said."""
        part = read_secret_path(path)
        what = f"the file {path!r}" if part is None else part.secret
        where = self._place(key, path)
        match self.facts.files.get(path):
            case FileContent(text) if text.strip():
                return text
            case FileContent():
                empty = what if part is None else part.description
                self._add("EX321", where, f"{empty} is empty", "write what is wanted into it")
            case FileProblem(message, hint):
                self._add("EX320", where, f"{what}: {message}", hint)
            case None if self.facts.reads_files and (part is None or self.facts.reads_secrets):
                self._add("EX320", where, f"{what} was not read", "look into the log")
            case None:
                pass
        return None

    def _place(self, key: str, path: str) -> Where:
        """Return the place of the key that names `path`: a Secret is named by one, whichever part of it is meant."""
        where = self.proxy.where
        if read_secret_path(path) is not None:
            key = f"{key.rpartition('.')[0]}.secretRef"
        return replace(where, key=f"{where.key}.{key}" if where.key else key)

    def _add(self, code: str, where: Where, message: str, hint: str) -> None:
        finding = Diagnostic(code, where, f"proxy {self.proxy.name!r}: {message}", hint)
        if finding not in self.findings:  # Of a Secret that is missing, both certificate and key are.
            self.findings.append(finding)


def read_material(proxy: Proxy, facts: Facts) -> tuple[Material, tuple[Diagnostic, ...]]:
    """Return what `proxy` needs, and what is wrong with it."""
    reader = _Reader(proxy, facts)
    return reader.read(), tuple(reader.findings)


def narrow_moment(policy: Policy, facts: Facts) -> float | None:
    """
    Return the time as far as it matters to `policy`: when last one of its certificates ended or became worth a warning.

    So time passes for a policy only when something about it changes.
    """
    if facts.now is None:
        return None
    texts = [text for proxy in policy.proxies for text in _certificate_texts(proxy, facts)]
    if not texts:
        return None
    from xds.compile import certificates as x509  # noqa: PLC0415  # see above

    return x509.settle_moment((one for text in texts for one in x509.read_certificates(text)), facts.now)


def _certificate_texts(proxy: Proxy, facts: Facts) -> Iterable[str]:
    own = proxy.tls.client_certificate
    if proxy.tls.ca_pem is not None:
        yield proxy.tls.ca_pem
    for path in (proxy.tls.ca_file, None if own is None else own.certificate_file):
        match None if path is None else facts.files.get(path):
            case FileContent(text):
                yield text
            case _:
                pass


def _problem_of_login(text: str) -> str | None:
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "holds a line break or another control character"
    user, colon, _ = text.partition(":")
    if not colon:
        return "has no colon between user and password"
    return None if user.strip() else "has no user before the colon"


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
