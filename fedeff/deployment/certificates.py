"""An own certificate authority and the SuperLink's certificate, renewed under the same authority.

Not good for servers that browsers or strangers visit: nobody but this site's own nodes trusts the authority.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedeff.core.errors import ConfigError
from fedeff.deployment.private_files import create_private

__all__ = ["Certificate", "check_hosts", "make_certificates", "read_certificate", "renew_server_certificate"]

_ALWAYS = ("localhost", "127.0.0.1", "::1")  # the SuperLink's own helpers reach it by loopback
_AUTHORITY_DAYS = 3650
_NEAR_DAYS = 30
_CLOCKS_DIFFER = timedelta(minutes=5)  # a node whose clock is behind shall still accept a new certificate


@dataclass(frozen=True)
class Certificate:
    """What a certificate says that its users must know."""

    path: Path
    hosts: tuple[str, ...]  # names, then addresses; none in the authority's own
    expires_at: datetime

    def days_left(self, now: datetime | None = None) -> float:
        """Days until it expires; negative once it has."""
        return (self.expires_at - (now or datetime.now(UTC))) / timedelta(days=1)

    def warning(self, now: datetime | None = None) -> str:
        """What to do if the certificate has expired or will within 30 days; else nothing."""
        left = self.days_left(now)
        if left > _NEAR_DAYS:
            return ""
        state = f"expires in {left:.0f} days" if left > 0 else "has expired"
        remedy = (
            "fedeff deploy certs --renew" if self.hosts else "fedeff deploy certs --force, for all machines"
        )
        return f"{self.path} {state}, on {self.expires_at:%Y-%m-%d}; renew it with: {remedy}"


def make_certificates(
    folder: Path, hosts: Sequence[str] = (), days: int = 365, force: bool = False, now: datetime | None = None
) -> None:
    """Write an authority (ca.crt, ca.key) and a server certificate of it (server.crt, server.key).

    `hosts` are names and addresses by which nodes reach the SuperLink; loopback is always among them.
    The authority lasts ten years, or as long as the server's certificate where that is longer.

    Raises:
        ConfigError: if there are certificates and `force` was not given, or a host or `days` is impossible.
    """
    now = now or datetime.now(UTC)
    check_hosts(hosts)
    _check_days(days)
    there = [name for name in ("ca.key", "ca.crt", "server.key", "server.crt") if (folder / name).exists()]
    if there and not force:
        raise ConfigError(
            f"{folder / there[0]} is there already and stays; --force replaces all, --renew the server's"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("fedeff site authority")
    lasts = timedelta(days=max(days, _AUTHORITY_DAYS))
    authority = (
        _builder(name, name, key.public_key(), key.public_key(), lasts, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write_pair(folder, "ca", key, authority, force)
    _issue(folder, key, authority, hosts, days, force, now)


def renew_server_certificate(
    folder: Path, hosts: Sequence[str] = (), days: int = 365, now: datetime | None = None
) -> None:
    """Replace the server's key and certificate under the same authority: nodes go on trusting it.

    Its hosts are kept, and `hosts` added. The SuperLink reads it when it starts next.

    Raises:
        ConfigError: if the authority is not there, has expired, or a host or `days` is impossible.
    """
    now = now or datetime.now(UTC)
    check_hosts(hosts)
    _check_days(days)
    try:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{error.filename} is not there; a certificate is renewed where its authority is"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{folder}/ca.key or ca.crt cannot be read: {error}; put the right ones back"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
        raise ConfigError(f"{folder}/ca.key is not the key of ca.crt; put the right one back")
    if authority.not_valid_after_utc <= now:
        raise ConfigError(read_certificate(folder / "ca.crt").warning(now))
    old = folder / "server.crt"
    kept = read_certificate(old).hosts if old.exists() else ()
    _issue(folder, key, authority, (*kept, *hosts), days, True, now)


def read_certificate(path: Path) -> Certificate:
    """What a certificate in PEM says.

    Raises:
        ConfigError: if it is not there or is none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there; make it with: fedeff deploy certs") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no certificate in PEM: {error}") from error
    return Certificate(path, _hosts_of(certificate), certificate.not_valid_after_utc)


def _hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


def _issue(
    folder: Path,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    hosts: Sequence[str],
    days: int,
    force: bool,
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    # A certificate that outlives its authority is refused from that day on all the same.
    lasts = min(timedelta(days=days), authority.not_valid_after_utc - now)
    names = [_general_name(host) for host in dict.fromkeys((*_ALWAYS, *hosts))]
    certificate = (
        _builder(
            _name("fedeff SuperLink"),
            authority.subject,
            key.public_key(),
            authority_key.public_key(),
            lasts,
            now,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    _write_pair(folder, "server", key, certificate, force)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    lasts: timedelta,
    now: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(
    digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_pair(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, force: bool
) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    create_private(folder / f"{name}.key", private, force)
    create_private(folder / f"{name}.crt", certificate.public_bytes(Encoding.PEM), force)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_days(days: int) -> None:
    if days < 1:
        raise ConfigError(f"--days {days} would make a certificate that has expired; give 1 or more")


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise `ConfigError` for what is neither a name nor an address."""
    for host in hosts:
        # A port or a scheme in a certificate never matches anything; as a name they would go unnoticed.
        plain = host.replace(".", "").replace("-", "").removeprefix("*")
        if not (_is_address(host) or (plain.isascii() and plain.isalnum())):
            raise ConfigError(
                f"--host {host!r} is neither a name nor an address; give it without scheme and port"
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
