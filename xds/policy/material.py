"""
Where a proxy's secrets are: in files outside Kubernetes, in Secrets of the policy's own namespace inside it.

They are never written in a policy. Inside Kubernetes nobody may name a file, which would be one of the control plane;
and a Secret is named without its namespace, so that no text reaches another one's. Nothing here opens or reads
anything. Invariant: what is returned is the absolute path of a file, or the path of a Secret in that one namespace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xds.policy.hosts import Problem
from xds.policy.model import BasicLogin, ClientCertificate
from xds.policy.names import is_subdomain
from xds.policy.pem import parse_pem
from xds.policy.secrets import AUTHORITIES_KEY, CERTIFICATE_KEY, LOGIN_KEY, PRIVATE_KEY_KEY, SecretPart
from xds.policy.yaml_lines import Fields, at

if TYPE_CHECKING:
    from xds.policy.documents import AuthShape, CaShape, ClientCertificateShape
    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Node

_LONGEST_PATH = 4096
_SECRET_KEY = re.compile(r"(?!\.\.?\Z)[-._a-zA-Z0-9]{1,253}")
"""Kubernetes' own rule (apimachinery, `validation.IsConfigMapKey`)."""


@dataclass(frozen=True, slots=True)
class MaterialReader:
    """
    Reads where the secrets of proxies are.

    `secrets` is the namespace whose Secrets may be named; None: the document is outside Kubernetes.
    """

    secrets: str | None
    findings: Findings

    def read_login(self, shape: AuthShape | None, node: Node) -> BasicLogin | None:
        """Return how to log in; `node` is the one of `auth`."""
        if shape is None:
            return None
        basic, spot = shape.basic, at(node, "basic")
        if not self._is_one(spot, "`file`", has_file=basic.file is not None, has_secret=basic.secret_ref is not None):
            return None
        if basic.secret_ref is None:
            path = self._read_file(basic.file or "", at(spot, "file"))
        else:
            path = self._read_secret(basic.secret_ref.name, LOGIN_KEY, at(spot, "secretRef"), is_login=True)
        return None if path is None else BasicLogin(file=path)

    def read_client_certificate(self, shape: ClientCertificateShape | None, node: Node) -> ClientCertificate | None:
        """Return where our own certificate and key are."""
        if shape is None:
            return None
        files = (shape.certificate_file, shape.key_file)
        words = "`certificateFile` with `keyFile`"
        if not self._is_one(node, words, has_file=files != (None, None), has_secret=shape.secret_ref is not None):
            return None
        if shape.secret_ref is not None:
            name, spot = shape.secret_ref.name, at(node, "secretRef")
            certificate = self._read_secret(name, CERTIFICATE_KEY, spot)
            key = None if certificate is None else self._read_secret(name, PRIVATE_KEY_KEY, spot)
        elif None in files:
            if not _is_cut(node):
                message = "a certificate is of no use without its key, nor a key without its certificate"
                self.findings.add("EX317", node, message, "give both `certificateFile` and `keyFile`")
            return None
        else:
            certificate = self._read_file(shape.certificate_file or "", at(node, "certificateFile"))
            key = self._read_file(shape.key_file or "", at(node, "keyFile"))
        if certificate is None or key is None:
            return None
        return ClientCertificate(certificate_file=certificate, key_file=key)

    def read_authorities(self, shape: CaShape | None, node: Node) -> tuple[str | None, str | None]:
        """Return the PEM text, or where it is; whichever is given."""
        if shape is None:
            return None, None
        if [shape.pem, shape.file, shape.secret_ref].count(None) != 2:  # noqa: PLR2004  # one of the three is given
            if not _is_cut(node):
                self.findings.add("EX307", node, "give one of `pem`, `file` and `secretRef`", "keep one of the three")
            return None, None
        if shape.file is not None:
            return None, self._read_file(shape.file, at(node, "file"))
        if shape.secret_ref is not None:
            return None, self._read_secret(shape.secret_ref.name, shape.secret_ref.key, at(node, "secretRef"))
        pem = parse_pem(shape.pem or "")
        if isinstance(pem, Problem):
            self.findings.add(pem.code, at(node, "pem"), pem.message, pem.hint)
            return None, None
        return pem, None

    def _is_one(self, node: Node, files: str, *, has_file: bool, has_secret: bool) -> bool:
        if has_file != has_secret:
            return True
        if not _is_cut(node):
            hint = files if self.secrets is None else "`secretRef`"
            what = "both are given" if has_file else "neither is given"
            self.findings.add("EX317", node, f"{files} or `secretRef`: {what}", f"give {hint} alone")
        return False

    def _read_file(self, text: str, node: Node) -> str | None:
        """Return the path of a file with a secret; what is no path may be the secret itself, so it is not repeated."""
        if self.secrets is not None:
            message = "in Kubernetes a policy names no files, which would be those of the control plane"
            hint = "put it into a Secret of this namespace and write `secretRef: {name: …}`"
            self.findings.add("EX318", node, message, hint)
            return None
        is_path = text.startswith("/") and len(text) <= _LONGEST_PATH and text.isprintable()
        if not is_path or ".." in PurePosixPath(text).parts:
            hint = "write a path that begins with `/`"
            self.findings.add("EX313", node, "this is not the absolute path of a file", hint)
            return None
        return text

    def _read_secret(self, name: str, key: str, node: Node, *, is_login: bool = False) -> str | None:
        """Return the path of a part of a Secret; what is no name may be the secret itself, so it is not repeated."""
        if self.secrets is None:
            message = "outside Kubernetes there are no Secrets"
            hint = "put it into a file beside the control plane and write its path: `file`, or `certificateFile`"
            self.findings.add("EX318", node, message, hint)
            return None
        if not is_subdomain(name):
            hint = "write its name alone, in lower case; it stands in the namespace of the policy"
            self.findings.add("EX319", at(node, "name"), "this is not the name of a Secret", hint)
            return None
        if _SECRET_KEY.fullmatch(key) is None or (key == LOGIN_KEY and not is_login):
            hint = f"write the key that holds the PEM text; `{AUTHORITIES_KEY}` if left out"
            self.findings.add("EX319", at(node, "key"), "this is not the key of a Secret with certificates", hint)
            return None
        return SecretPart(self.secrets, name, key).path


def _is_cut(node: Node) -> bool:
    """Whether something was taken out here that was wrong, and was said to be."""
    return isinstance(node, Fields) and node.is_cut
