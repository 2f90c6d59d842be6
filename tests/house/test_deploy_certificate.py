"""The certificate of a cluster without cert-manager: `deploy/kustomize/make-certificate.sh`, without a cluster."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.manifests import KUSTOMIZE

if TYPE_CHECKING:
    from pathlib import Path

HOME = "egress-system"

KUBECTL = """\
#!/bin/sh
# Stands in for kubectl: Secrets are files below $STORE, and what else is asked is noted.
echo "$*" >> "$STORE/asked"
case "$*" in
    *"get secret"*"tls\\.crt"*) cat "$STORE/egress-xds-ca/tls.crt" 2>/dev/null | base64 -w 0 ;;
    *"get secret"*"tls\\.key"*) cat "$STORE/egress-xds-ca/tls.key" 2>/dev/null | base64 -w 0 ;;
    *"create secret"*)
        name=$6
        mkdir -p "$STORE/$name"
        for word in "$@"; do
            case $word in --from-file=*) file=${word#--from-file=}; cp "${file#*=}" "$STORE/$name/${file%%=*}" ;; esac
        done ;;
    apply*) cat > /dev/null ;;
esac
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run commands with a kubectl that stores Secrets in the directory that is returned."""
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("there is no openssl")
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STORE", str(tmp_path))
    return tmp_path


def make_certificate() -> None:
    """Run the script that stands in for cert-manager."""
    script = KUSTOMIZE / "make-certificate.sh"
    subprocess.run([script, "30"], check=True, capture_output=True, text=True, timeout=60)


def test_without_cert_manager_a_script_makes_a_certificate_that_both_webhooks_believe(store: Path) -> None:
    make_certificate()

    made = store / "egress-xds-tls"
    assert {path.name for path in made.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made / "tls.crt", made / "tls.key")
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(made / "ca.crt")]
    host = ["-verify_hostname", f"egress-xds.{HOME}.svc"]
    subprocess.run([*words, *host, str(made / "tls.crt")], check=True, capture_output=True)
    asked = (store / "asked").read_text(encoding="utf-8").splitlines()
    patches = [line for line in asked if line.startswith("patch ")]
    assert [line.split()[1] for line in patches] == ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"]
    for patch in patches:
        (operation,) = json.loads(patch[patch.index("[") :])
        assert operation["path"] == "/webhooks/0/clientConfig/caBundle"
        assert base64.b64decode(operation["value"]) == (made / "ca.crt").read_bytes()


def test_a_second_certificate_is_of_the_same_authority(store: Path) -> None:
    make_certificate()
    made = store / "egress-xds-tls"
    first, authority = (made / "tls.crt").read_bytes(), (made / "ca.crt").read_bytes()

    make_certificate()

    assert (made / "tls.crt").read_bytes() != first
    assert (made / "ca.crt").read_bytes() == authority
