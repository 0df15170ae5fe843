"""Certificates: what they name, who trusts them, what is never overwritten."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from fedeff.core.errors import ConfigError
from fedeff.deployment.certificates import (
    check_hosts,
    make_certificates,
    read_certificate,
    renew_server_certificate,
)

ALWAYS = {"localhost", "127.0.0.1", "::1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "certificates", ["fl.example.org", "192.0.2.7", "2001:db8::7"])
    return tmp_path / "certificates"


def verified(folder: Path, host: str, authority: Path | None = None) -> bool:
    """Whether a client that trusts the authority takes the server for the host, at this moment."""
    trusted = x509.load_pem_x509_certificate((authority or folder / "ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    verifier = PolicyBuilder().store(Store([trusted])).time(datetime.now(UTC)).build_server_verifier(subject)
    try:
        verifier.verify(server, [])
    except x509.verification.VerificationError:
        return False
    return True


def test_the_server_is_known_by_every_host_and_by_loopback(folder: Path) -> None:
    hosts = {"fl.example.org", "192.0.2.7", "2001:db8::7"} | ALWAYS
    assert set(read_certificate(folder / "server.crt").hosts) == hosts
    assert [host for host in hosts if not verified(folder, host)] == []
    assert not verified(folder, "evil.example.org")
    assert not verified(folder, "192.0.2.8")


def test_another_authority_does_not_vouch_for_it(folder: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    assert not verified(folder, "localhost", tmp_path / "other" / "ca.crt")


def test_openssl_takes_it_too(folder: Path) -> None:
    """A handshake over a socket pair, with the checks that Python's clients make by default."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()
    answer = threading.Thread(target=lambda: server.wrap_socket(there, server_side=True).close())
    answer.start()
    with client.wrap_socket(here, server_hostname="fl.example.org") as connection:
        assert connection.version() == "TLSv1.3"
    answer.join()


def test_keys_are_p384_and_private_files_nobody_elses(folder: Path) -> None:
    for name in ("ca", "server"):
        key = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp384r1"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("left", ["ca.key", "ca.crt", "server.key", "server.crt"])
def test_nothing_is_overwritten_without_force(folder: Path, left: str) -> None:
    for path in folder.iterdir():
        if path.name != left:
            path.unlink()
    before = (folder / left).read_bytes()
    with pytest.raises(ConfigError, match=r"is there already and stays.*--force"):
        make_certificates(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {left: before}
    make_certificates(folder, force=True)
    assert (folder / left).read_bytes() != before
    assert verified(folder, "localhost")


def test_a_renewed_certificate_is_another_one_of_the_same_authority(folder: Path) -> None:
    authority = {name: (folder / name).read_bytes() for name in ("ca.key", "ca.crt")}
    old = {name: (folder / name).read_bytes() for name in ("server.key", "server.crt")}
    renew_server_certificate(folder, ["new.example.org"], days=10)
    assert {name: (folder / name).read_bytes() for name in authority} == authority
    assert [name for name in old if (folder / name).read_bytes() == old[name]] == []
    assert verified(folder, "new.example.org")
    assert verified(folder, "192.0.2.7")
    renewed = read_certificate(folder / "server.crt")
    assert 9 < renewed.days_left() <= 10
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_an_expired_certificate_is_refused_by_nodes_and_said_to_have_expired(folder: Path) -> None:
    renew_server_certificate(folder, days=5, now=datetime.now(UTC) - timedelta(days=6))
    assert not verified(folder, "localhost")
    expired = read_certificate(folder / "server.crt")
    assert expired.days_left() < 0
    assert "has expired" in expired.warning()
    assert "certs --renew" in expired.warning()
    renew_server_certificate(folder)
    assert verified(folder, "localhost")


@pytest.mark.parametrize(("days", "warned"), [(29, True), (31, False)])
def test_a_warning_comes_in_the_last_thirty_days(folder: Path, days: int, warned: bool) -> None:
    renew_server_certificate(folder, days=days)
    assert bool(read_certificate(folder / "server.crt").warning()) == warned


def test_an_expired_authority_renews_nothing(tmp_path: Path) -> None:
    make_certificates(tmp_path, now=datetime.now(UTC) - timedelta(days=3651))
    with pytest.raises(ConfigError, match=r"has expired.*--force"):
        renew_server_certificate(tmp_path)


def test_a_server_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path, now=datetime.now(UTC) - timedelta(days=3640))
    renew_server_certificate(tmp_path, days=365)
    assert (
        read_certificate(tmp_path / "server.crt").expires_at
        == read_certificate(tmp_path / "ca.crt").expires_at
    )


def test_renewal_needs_the_authoritys_own_key(folder: Path, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other")
    (folder / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"is not the key of ca\.crt"):
        renew_server_certificate(folder)
    (folder / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key is not there"):
        renew_server_certificate(folder)


@pytest.mark.parametrize("host", ["http://a", "a:8000", "", "a b", "a/b", "é.org"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="neither a name nor an address"):
        check_hosts([host])
