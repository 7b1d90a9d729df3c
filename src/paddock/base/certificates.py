"""Certificates of our own: an authority that this cloud makes for itself, and what it signs for the API.

Whoever trusts `ca.crt` of the state directory can speak HTTPS with this cloud; nobody else's certificates are touched.
Imports cryptography, so that only who serves HTTPS loads it.
"""

import fcntl
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused
from paddock.base.files import write_whole
from paddock.base.run import run

AUTHORITY_DAYS = 3650
SERVER_DAYS = 365  # browsers and Apple's clients refuse certificates that are good for more than 398
RENEW_DAYS = 60  # before its end a certificate is renewed
SLACK = timedelta(hours=1)  # clocks of clients that are slow
NOT_USED = dict.fromkeys(
    ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
    False,
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What a server speaks TLS with. Raises Refused when the files are no pair."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Use it for all connections that begin from now on. Raises Refused."""
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
            what = f"the certificate {self.certificate} with the key {self.key} can't be used: {e}"
            raise Refused(what, hint="see tls_cert and tls_key of [api] in paddock.toml") from e


def ensure(directory: Path, names: Sequence[str]) -> Pair:
    """A certificate for these names and addresses, by our authority in `directory`: what is missing, near its end, or
    of other names is made anew. Safe to call from several processes."""
    directory.mkdir(mode=0o700, exist_ok=True)
    with _locked(directory):
        authority = Pair(directory / "ca.crt", directory / "ca.key")
        if not _good(authority):
            _make_authority(authority)
        server = Pair(directory / "server.crt", directory / "server.key")
        if not _good(server, names, authority):
            _make_server(server, names, authority)
    return server


def own_names(host: str) -> list[str]:
    """What this host can be called: the name or address that was chosen, its own names, its addresses."""
    chosen = [] if host in ("0.0.0.0", "::", "") else [host.strip("[]")]  # noqa: S104
    name = socket.gethostname()
    found = [*chosen, "localhost", "127.0.0.1", "::1", name, socket.getfqdn(name), *_addresses()]
    return list(dict.fromkeys(n for n in found if n and "%" not in n))


def _addresses() -> Iterator[str]:
    """Of this host's network cards, but for those that are only good on one link."""
    try:
        said = json.loads(run(["ip", "-json", "address", "show"], timeout=10).stdout)
    except (PaddockError, OSError, ValueError):
        return  # without iproute2 there are its names
    for card in said:
        yield from (a["local"] for a in card.get("addr_info", ()) if a.get("scope") == "global" and "local" in a)


def _good(pair: Pair, names: Sequence[str] = (), signer: Pair | None = None) -> bool:
    """Whether it is there, not near its end, of these names at least, and signed by that one."""
    try:
        found = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        if _public(_key(pair)) != found.public_key().public_bytes(*_SPKI):
            return False
        if signer is not None:
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(signer.certificate.read_bytes()))
    except Exception:  # missing, cut off, changed by hand, of another authority: all the same to us
        return False
    left = found.not_valid_after_utc - clock.now()
    return left > timedelta(days=RENEW_DAYS) and found.not_valid_before_utc <= clock.now() and _has(found, names)


_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(*_SPKI)


def _has(found: x509.Certificate, names: Sequence[str]) -> bool:
    if not names:
        return True
    held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(name in held for name in map(_general, names))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _make_authority(pair: Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(f"Paddock CA {os.urandom(4).hex()} of {socket.gethostname()}")
    made = (
        _begun(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **NOT_USED), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    _write(pair, key, [made])


def _make_server(pair: Pair, names: Sequence[str], authority: Pair) -> None:
    signer, signs = x509.load_pem_x509_certificate(authority.certificate.read_bytes()), _key(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _begun(_named("Paddock API"), signer.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **NOT_USED), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority_key(signer), critical=False)
        .sign(signs, hashes.SHA256())
    )
    _write(pair, key, [made, signer])


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_key(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    held = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)


def _key(pair: Pair) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), f"BUG: {pair.key} is none that we made"
    return key


def _write(pair: Pair, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> None:
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_whole(pair.key, key.private_bytes(*pem), 0o600)
    write_whole(pair.certificate, b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain), 0o644)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
