"""The lab's own certificate authority, and a server certificate that it signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAYS = 30
# Extensions as RFC 5280 wants them, which strict clients check.
_SETTINGS = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:{name}, IP:{address}
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM form.

    Attributes:
        ca_file: what clients trust.
        cert_file: the server's certificate.
        key_file: its secret key.
    """

    ca_file: Path
    cert_file: Path
    key_file: Path


def make_certificates(
    folder: Path, *, name: str, address: str, run: Callable[..., str]
) -> Certificates:
    """Make an authority and a certificate for one server.

    Args:
        folder: where the files go.
        name: the server's host name.
        address: its IP address.
        run: runs a command, raising LabError if it fails.
    """
    settings = folder / "openssl.cnf"
    settings.write_text(_SETTINGS.format(name=name, address=address), encoding="utf-8")
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key = folder / "ca.key"
    request = ["/usr/bin/openssl", "req", "-x509", "-config", str(settings), "-days", str(DAYS)]
    request += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run(*request, "-extensions", "authority", "-subj", "/CN=mailhooks lab", "-keyout", str(ca_key),
        "-out", str(made.ca_file))  # fmt: skip
    run(*request, "-extensions", "server", "-CA", str(made.ca_file), "-CAkey", str(ca_key),
        "-keyout", str(made.key_file), "-out", str(made.cert_file))  # fmt: skip
    # Nobody else shall get a certificate from it.
    ca_key.unlink()
    made.key_file.chmod(0o600)
    return made
