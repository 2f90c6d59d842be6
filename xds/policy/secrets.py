"""
Kubernetes Secrets in the place of files: how a policy's parts are named between the rooms, and in words.

A policy names a Secret by its name alone; the namespace is that of the document and can't be written. Nothing here
reads a Secret. Invariant: no such path is the path of a file, which begins with `/`, and each names one thing.
"""

from __future__ import annotations

from dataclasses import dataclass

_SCHEME = "secret:"

AUTHORITIES_KEY = "ca.crt"
"""Where a Secret holds authorities unless the policy says otherwise, as cert-manager writes them."""

CERTIFICATE_KEY = "tls.crt"
PRIVATE_KEY_KEY = "tls.key"
"""Of a Secret of type kubernetes.io/tls."""

LOGIN_KEY = "login"
"""Stands for `user:password`, made of `username` and `password` of a Secret of type kubernetes.io/basic-auth."""


@dataclass(frozen=True, slots=True)
class SecretPart:
    """One part of one Secret."""

    namespace: str
    name: str
    key: str

    @property
    def path(self) -> str:
        """What stands for it where a file's path could stand."""
        return f"{_SCHEME}{self.namespace}/{self.name}/{self.key}"

    @property
    def description(self) -> str:
        """The part, as people call it."""
        if self.key == LOGIN_KEY:
            return self.secret
        return f"{self.secret} under {self.key!r}"

    @property
    def secret(self) -> str:
        """The Secret, as people call it."""
        return f"the Secret {self.namespace}/{self.name}"


def describe_path(path: str) -> str:
    """Return what people call what is at `path`: the file's path in quotes, or a Secret."""
    part = read_secret_path(path)
    return repr(path) if part is None else part.description


def read_secret_path(path: str) -> SecretPart | None:
    """Return what `path` stands for; None: it is the path of a file."""
    if not path.startswith(_SCHEME):
        return None
    namespace, name, key = path.removeprefix(_SCHEME).split("/")
    return SecretPart(namespace, name, key)
