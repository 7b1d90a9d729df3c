"""Certificates of our own: real handshakes by those that trust our authority, refusals by those that do not."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from paddock.base import certificates
from paddock.base.certificates import Pair
from paddock.base.errors import Refused

NAMES = ("localhost", "127.0.0.1", "::1", "cloud.example.com")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "tls"


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[int]:
    """A port of loopback behind which somebody says hello by TLS, until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(line, server_side=True) as safe:
                        safe.sendall(b"hello")
                except OSError:
                    line.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def ask(port: int, trusted: Path, name: str = "localhost") -> bytes:
    context = ssl.create_default_context(cafile=trusted)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    with socket.create_connection(("127.0.0.1", port), 5) as line, context.wrap_socket(line, server_hostname=name) as t:
        return t.recv(5)


@pytest.mark.parametrize("name", NAMES)
def test_who_trusts_the_authority_gets_through(name: str, place: Path) -> None:
    with serving(certificates.ensure(place, NAMES).context()) as port:
        assert ask(port, place / "ca.crt", name) == b"hello"


def test_others_do_not(place: Path, tmp_path: Path) -> None:
    certificates.ensure(tmp_path / "other", NAMES)
    with serving(certificates.ensure(place, NAMES).context()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(port, tmp_path / "other" / "ca.crt")
        with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
            ask(port, place / "ca.crt", "elsewhere.example.com")


def test_keys_are_private(place: Path) -> None:
    certificates.ensure(place, NAMES)
    assert place.stat().st_mode & 0o777 == 0o700
    assert {(place / f"{n}.key").stat().st_mode & 0o777 for n in ("ca", "server")} == {0o600}


def test_again_is_the_same(place: Path) -> None:
    certificates.ensure(place, NAMES)
    before = {f.name: f.read_bytes() for f in place.iterdir()}
    certificates.ensure(place, NAMES[:2])
    assert {f.name: f.read_bytes() for f in place.iterdir()} == before


def test_another_name_is_another_certificate_of_the_same_authority(place: Path) -> None:
    pair = certificates.ensure(place, NAMES)
    authority, server = (place / "ca.crt").read_bytes(), pair.certificate.read_bytes()
    certificates.ensure(place, [*NAMES, "192.0.2.7"])
    assert (place / "ca.crt").read_bytes() == authority
    assert pair.certificate.read_bytes() != server
    with serving(pair.context()) as port:
        assert ask(port, place / "ca.crt", "192.0.2.7") == b"hello"


def test_it_is_renewed_before_its_end_and_used_at_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, shift = certificates.ensure(place, NAMES), tmp_path / "shift"
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(shift))
    server, authority = pair.certificate.read_bytes(), (place / "ca.crt").read_bytes()
    with serving(context := pair.context()) as port:
        shift.write_text(str(200 * 86400))
        assert certificates.ensure(place, NAMES).certificate.read_bytes() == server
        shift.write_text(str((365 - 59) * 86400))
        certificates.ensure(place, NAMES).load_into(context)
        assert pair.certificate.read_bytes() != server
        assert (place / "ca.crt").read_bytes() == authority
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        assert shown.encode().strip() == pair.certificate.read_bytes().split(b"\n-----BEGIN", 1)[0].strip()
    shift.write_text(str(3600 * 86400))
    certificates.ensure(place, NAMES)
    assert (place / "ca.crt").read_bytes() != authority


@pytest.mark.parametrize("damage", ["server.key", "server.crt", "ca.key", "ca.crt"])
def test_what_is_damaged_is_made_anew(damage: str, place: Path) -> None:
    certificates.ensure(place, NAMES)
    (place / damage).write_bytes(b"-----BEGIN nothing")
    with serving(certificates.ensure(place, NAMES).context()) as port:
        assert ask(port, place / "ca.crt") == b"hello"


def test_files_that_are_no_pair(place: Path, tmp_path: Path) -> None:
    one, other = certificates.ensure(place, NAMES), certificates.ensure(tmp_path / "other", NAMES)
    with pytest.raises(Refused, match=str(other.key)):
        Pair(one.certificate, other.key).context()
    with pytest.raises(Refused, match="nowhere"):
        Pair(tmp_path / "nowhere", one.key).context()


def test_own_names() -> None:
    names = certificates.own_names("0.0.0.0")
    assert {"localhost", "127.0.0.1", "::1", socket.gethostname()} <= set(names)
    assert "0.0.0.0" not in names
    assert certificates.own_names("cloud.example.com")[0] == "cloud.example.com"


def test_the_certificate_is_for_serving_only(place: Path) -> None:
    found = x509.load_pem_x509_certificate(certificates.ensure(place, NAMES).certificate.read_bytes())
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
