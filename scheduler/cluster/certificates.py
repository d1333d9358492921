"""An authority and the two certificates of mutual TLS, kept in Secrets and renewed in time.

The authority outlives what it signs. When it is replaced, both are trusted for a while, in steps
that every holder of a copy of the trusted certificates can follow::

    signer                           signs, is trusted
    signer + next                    next is trusted already, signer still signs
    signer (was next) + previous     previous is trusted until its last certificate has run out

Pure functions from the content of a Secret to what it should hold; :func:`renew` reads and writes.
A Secret is replaced as a whole and only in the version that was read, so that of two runs at once
one fails and is repeated.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler.cluster.api.client import KubeClient
from scheduler.core.errors import InvalidInput, NotFound

__all__ = ["ROTATE", "Leaf", "Secrets", "Terms", "authority", "leaf", "renew", "self_signed"]

ROTATE = "snugfit.io/rotate"
"""Annotation on the authority's Secret: begin to replace it."""

CERTIFICATE, KEY, TRUSTED = "tls.crt", "tls.key", "ca.crt"
NEXT_CERTIFICATE, NEXT_KEY = "next.crt", "next.key"
PREVIOUS, PREVIOUS_UNTIL = "previous.crt", "previous-until"

_SKEW = timedelta(minutes=5)
_SECRET = msgspec.json.Decoder(dict[str, Any])

Content = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long what is good.

    Parameters
    ----------
    validity
        Of a certificate; renewed after two thirds of it.
    authority
        Of an authority.
    overlap
        How long the next authority is trusted before it signs.
    """

    validity: timedelta = timedelta(days=365)
    authority: timedelta = timedelta(days=3650)
    overlap: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        if self.authority < 2 * (self.validity + self.overlap):
            raise InvalidInput(
                "--authority-days",
                f"{self.authority.days} is too short for an authority to outlive its certificates",
                "use at least twice --validity-days and --overlap-days together",
            )


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate is to say.

    Parameters
    ----------
    name
        Common name of its subject.
    hosts, addresses
        Names and IP addresses that it is good for, for a server.
    client
        Whether it authenticates a client; otherwise a server.
    """

    name: str
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    client: bool = False

    @property
    def usage(self) -> x509.ObjectIdentifier:
        """Its extended key usage."""
        return ExtendedKeyUsageOID.CLIENT_AUTH if self.client else ExtendedKeyUsageOID.SERVER_AUTH

    @property
    def alternatives(self) -> list[x509.GeneralName]:
        """Its alternative names."""
        try:
            numbers = [ipaddress.ip_address(address) for address in self.addresses]
        except ValueError as error:
            raise InvalidInput("--address", str(error), "write an IP address") from error
        return [*map(x509.DNSName, self.hosts), *map(x509.IPAddress, numbers)]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Names of the three Secrets, in one namespace."""

    namespace: str
    authority: str
    server: str
    client: str


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc


# -- authority ---------------------------------------------------------------------------------


def authority(
    content: Mapping[str, bytes], name: str, terms: Terms, now: datetime, *, rotate: bool = False
) -> Content:
    """What the authority's Secret should hold.

    Parameters
    ----------
    content
        What it holds.
    name
        Of the authority, in its certificate.
    terms
        How long what is good.
    now
        The present.
    rotate
        Begin to replace it, although it is good for long; not before the one that was replaced last
        is forgotten, since certificates of it may still be shown.

    Raises
    ------
    InvalidInput
        What it holds cannot be read. It is not replaced: everybody would stop trusting everybody.
    """
    if not content.get(CERTIFICATE):
        return _trusting(_authority_entries(_authority(name, terms, now), CERTIFICATE, KEY))
    found = {key: bytes(value) for key, value in content.items() if value}
    signer = _pair(found, CERTIFICATE, KEY)
    if NEXT_CERTIFICATE in found:
        following = _pair(found, NEXT_CERTIFICATE, NEXT_KEY)
        if now >= following.certificate.not_valid_before_utc + _SKEW + terms.overlap:
            found[PREVIOUS] = found[CERTIFICATE]
            found[PREVIOUS_UNTIL] = (now + terms.validity).isoformat().encode()
            found[CERTIFICATE], found[KEY] = found.pop(NEXT_CERTIFICATE), found.pop(NEXT_KEY)
        return _trusting(found)
    if PREVIOUS in found:
        if now >= datetime.fromisoformat(found[PREVIOUS_UNTIL].decode()):
            del found[PREVIOUS], found[PREVIOUS_UNTIL]
    elif rotate or signer.ends() - now < terms.validity + 2 * terms.overlap:
        found |= _authority_entries(_authority(name, terms, now), NEXT_CERTIFICATE, NEXT_KEY)
    return _trusting(found)


def _trusting(content: Content) -> Content:
    parts = [content[key] for key in (CERTIFICATE, NEXT_CERTIFICATE, PREVIOUS) if key in content]
    return content | {TRUSTED: b"".join(parts)}


def _authority(name: str, terms: Terms, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Two authorities of one name could not be told apart by a verifier that looks for an issuer.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name[:40]} {serial:x}"[:64])])
    certificate = (
        _builder(subject, subject, key, serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + terms.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _authority_entries(pair: _Pair, certificate: str, key: str) -> Content:
    return {certificate: _pem(pair.certificate), key: _key_pem(pair.key)}


# -- certificates ------------------------------------------------------------------------------


def leaf(
    content: Mapping[str, bytes],
    wanted: Leaf,
    authority_content: Mapping[str, bytes],
    terms: Terms,
    now: datetime,
) -> Content:
    """What a certificate's Secret should hold: what it holds, as long as that is good."""
    signer = _pair(authority_content, CERTIFICATE, KEY)
    trusted = {TRUSTED: bytes(authority_content[TRUSTED])}
    if _good(content, wanted, signer, now):
        return {key: bytes(content[key]) for key in (CERTIFICATE, KEY)} | trusted
    issuer = signer.certificate
    begins, ends = max(now - _SKEW, issuer.not_valid_before_utc), now + terms.validity
    return _issued(wanted, begins, min(ends, signer.ends()), signer) | trusted


def self_signed(wanted: Leaf, validity: timedelta, now: datetime | None = None) -> Content:
    """A certificate that vouches for itself, and its key."""
    now = now or datetime.now(UTC)
    return _issued(wanted, now - _SKEW, now + validity, None)


def _issued(wanted: Leaf, begins: datetime, ends: datetime, signer: _Pair | None) -> Content:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.name[:64])])
    issuer, issuer_key = (signer.certificate.subject, signer.key) if signer else (subject, key)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(subject, issuer, key, x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([wanted.usage]), critical=False)
        .add_extension(identifier, critical=False)
    )
    if wanted.alternatives:
        names = x509.SubjectAlternativeName(wanted.alternatives)
        builder = builder.add_extension(names, critical=False)
    return {CERTIFICATE: _pem(builder.sign(issuer_key, hashes.SHA256())), KEY: _key_pem(key)}


def _good(content: Mapping[str, bytes], wanted: Leaf, signer: _Pair, now: datetime) -> bool:
    """Whether a certificate says what it should, by this authority, and for long enough."""
    try:
        pair = _pair(content, CERTIFICATE, KEY)
        pair.certificate.verify_directly_issued_by(signer.certificate)
    except (InvalidInput, InvalidSignature, ValueError, TypeError):
        return False
    one = pair.certificate
    begins, ends = one.not_valid_before_utc, one.not_valid_after_utc
    names = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (
        begins <= now < begins + (ends - begins) * 2 / 3
        and [name.value for name in names] == [wanted.name[:64]]
        and _stated(one, x509.ExtendedKeyUsage) == [wanted.usage]
        and _stated(one, x509.SubjectAlternativeName) == wanted.alternatives
    )


def _stated(
    certificate: x509.Certificate,
    kind: type[x509.ExtendedKeyUsage | x509.SubjectAlternativeName],
) -> list[Any]:
    try:
        return list(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return []


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .add_extension(identifier, critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(content: Mapping[str, bytes], certificate: str, key: str) -> _Pair:
    try:
        read = x509.load_pem_x509_certificate(content.get(certificate, b""))
        private = serialization.load_pem_private_key(content.get(key, b""), password=None)
    except (ValueError, TypeError) as error:
        remedy = "delete both entries, and what they signed is made anew"
        raise InvalidInput(f"{certificate}, {key}", f"cannot be read: {error}", remedy) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise InvalidInput(key, "is not a key that this command has made", "use tls.mode=secret")
    if read.public_key() != private.public_key():
        raise InvalidInput(key, f"does not belong to {certificate}", "delete both entries")
    return _Pair(read, private)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


# -- Secrets -----------------------------------------------------------------------------------


def renew(
    client: KubeClient,
    secrets: Secrets,
    server: Leaf,
    caller: Leaf,
    terms: Terms,
    now: datetime | None = None,
) -> dict[str, str]:
    """Bring the three Secrets up to date, the authority first: what it does not hold is lost.

    Parameters
    ----------
    client
        May get and update these Secrets.
    secrets
        Their names. They exist, empty at first.
    server, caller
        What both certificates are to say.
    terms
        How long what is good.
    now
        The present, by default.

    Returns
    -------
    dict
        What became of each Secret, in words.

    Raises
    ------
    InvalidInput
        One of them is missing, or the authority cannot be read.
    KubeApiError
        The API refused; status 409 if somebody else has written meanwhile.
    """
    now = now or datetime.now(UTC)
    found = _read(client, secrets.namespace, secrets.authority)
    annotations = found["metadata"].get("annotations") or {}
    before = _content(found)
    held = authority(before, secrets.authority, terms, now, rotate=ROTATE in annotations)
    heard = ROTATE in annotations and NEXT_CERTIFICATE in held
    if heard:
        del annotations[ROTATE]
    if held != before or heard:
        _write(client, secrets.namespace, found, held)
    done = {secrets.authority: _authority_words(before, held)}
    for name, wanted in ((secrets.server, server), (secrets.client, caller)):
        found = _read(client, secrets.namespace, name)
        before = _content(found)
        content = leaf(before, wanted, held, terms, now)
        if content != before:
            _write(client, secrets.namespace, found, content)
        done[name] = _leaf_words(before, content)
    return done


def _authority_words(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    if before.get(CERTIFICATE) != after[CERTIFICATE]:
        said = "replaced by the next one" if before.get(CERTIFICATE) else "made"
    elif before.get(NEXT_CERTIFICATE) != after.get(NEXT_CERTIFICATE):
        said = "kept; the next one is trusted from now on"
    elif before == after:
        said = "kept"
    else:
        said = "kept; the previous one is trusted no longer"
    return f"{said}, good until {_until(after)}"


def _leaf_words(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    if before.get(CERTIFICATE) != after[CERTIFICATE]:
        said = "made"
    else:
        said = "kept" if before == after else "kept; other authorities are trusted"
    return f"{said}, good until {_until(after)}"


def _until(content: Mapping[str, bytes]) -> str:
    certificate = x509.load_pem_x509_certificate(content[CERTIFICATE])
    return certificate.not_valid_after_utc.strftime("%Y-%m-%d")


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{quote(name, safe='')}"


def _read(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    try:
        return client.read(_path(namespace, name), _SECRET)
    except NotFound as error:
        raise InvalidInput(
            f"Secret {namespace}/{name}", "does not exist", "the chart makes it, empty"
        ) from error


def _content(secret: Mapping[str, Any]) -> Content:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def _write(
    client: KubeClient, namespace: str, secret: dict[str, Any], content: Mapping[str, bytes]
) -> None:
    secret["data"] = {key: base64.b64encode(value).decode() for key, value in content.items()}
    client.put(_path(namespace, secret["metadata"]["name"]), secret)
