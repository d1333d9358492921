"""Who is let in by a client certificate, as cert-manager, Helm and openssl make them."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID

from scheduler.webhook.tls import Certificates
from tests.builders import node
from tests.server.conftest import Running

pytestmark = pytest.mark.server

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extension = tuple[x509.ExtensionType, bool]
LOOPBACK = IPv4Address("127.0.0.1")
CLIENT, SERVER = Usage.CLIENT_AUTH, Usage.SERVER_AUTH


def _name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _common(name: str) -> x509.Name:
    return _name((NameOID.COMMON_NAME, name))


def _usage(*, sign: bool = False, encipher: bool = False, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """Signs what it is told to."""

    def __init__(self, above: Authority | None = None, name: str = "an authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _common(name)
        self.cert = (above or self).sign(
            self.name,
            self.key,
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (_usage(authority=True, sign=True), True),
            ],
        )

    def sign(
        self,
        subject: x509.Name,
        key: Key,
        extensions: Iterable[Extension],
        *,
        ends_in: timedelta = timedelta(days=30),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + ends_in)
        )
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        return made.sign(self.key, hashes.SHA256())

    def write(self, path: Path) -> str:
        path.write_bytes(self.cert.public_bytes(serialization.Encoding.PEM))
        return str(path)


def _write(path: Path, key: Key, *chain: x509.Certificate) -> str:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(
        private + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    )
    return str(path)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def begin(start, authority: Authority, tmp_path: Path) -> Callable[..., Running]:
    """Start a server that asks for certificates of the authority."""

    def serve(**settings: object) -> Running:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        leaf = authority.sign(_common("snugfit"), key, [(names, False)])
        file = _write(tmp_path / "server.pem", key, leaf)
        settings.setdefault("tls_client_ca", authority.write(tmp_path / "ca.pem"))
        return start([node("n0", gpus=1)], tls_cert=file, tls_key=file, **settings)

    return serve


def _call(
    server: Running, authority: Authority, file: str, method: str = "GET", path: str = "/healthz"
) -> int:
    """Status of a call with a client certificate; 0 where the handshake ends it."""
    context = ssl.create_default_context(
        cadata=authority.cert.public_bytes(serialization.Encoding.PEM).decode()
    )
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(file)
    port = server.server.verbs.port
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
    except (ssl.SSLError, ConnectionError):
        return 0
    finally:
        connection.close()
    return response.status


def _san(*names: x509.GeneralName, critical: bool = False) -> Extension:
    return x509.SubjectAlternativeName(names), critical


def _eku(*usages: x509.ObjectIdentifier, critical: bool = False) -> Extension:
    return x509.ExtendedKeyUsage(usages), critical


KUBE_SCHEDULER = _common("kube-scheduler")
LEAF: Extension = (x509.BasicConstraints(ca=False, path_length=None), True)
LET_IN = {
    # usages: [client auth], and with its default usages beside it
    "cert-manager": (
        KUBE_SCHEDULER,
        [_eku(CLIENT), (_usage(sign=True, encipher=True), True), LEAF],
    ),
    "cert-manager, default usages": (
        KUBE_SCHEDULER,
        [(_usage(sign=True, encipher=True), True), LEAF, _san(x509.DNSName("kube-scheduler"))],
    ),
    # genSignedCert asks for both usages, whatever the certificate is for
    "Helm": (
        KUBE_SCHEDULER,
        [(_usage(sign=True, encipher=True), True), _eku(SERVER, CLIENT), LEAF],
    ),
    "openssl x509 -req": (KUBE_SCHEDULER, []),
    "with an organisation": (
        _name((NameOID.ORGANIZATION_NAME, "a group"), (NameOID.COMMON_NAME, "kube-scheduler")),
        [_eku(CLIENT)],
    ),
}  # fmt: skip
KEPT_OUT = {
    "another name": (_common("some-workload"), [_eku(CLIENT)]),
    "an alternative name": (
        _common("some-workload"),
        [_eku(CLIENT), _san(x509.DNSName("kube-scheduler"))],
    ),
    "an alternative name alone": (
        x509.Name([]),
        [_eku(CLIENT), _san(x509.DNSName("kube-scheduler"), critical=True)],
    ),
    "an organisation": (_name((NameOID.ORGANIZATION_NAME, "kube-scheduler")), [_eku(CLIENT)]),
    "a unit": (
        _name((NameOID.ORGANIZATIONAL_UNIT_NAME, "kube-scheduler"), (NameOID.COMMON_NAME, "x")),
        [],
    ),
    "two common names": (
        _name((NameOID.COMMON_NAME, "some-workload"), (NameOID.COMMON_NAME, "kube-scheduler")),
        [],
    ),
    "in another case": (_common("Kube-Scheduler"), []),
    "with a space": (_common("kube-scheduler "), []),
    "the beginning of it": (_common("kube-scheduler.evil"), []),
    "a list": (_common("kube-scheduler,x"), []),
    "a wildcard": (_common("*"), []),
    "spelt like an alternative name": (_common("DNS:kube-scheduler"), []),
    "nobody": (x509.Name([]), [_san(x509.IPAddress(LOOPBACK))]),
}  # fmt: skip
NO_CLIENTS = {
    "a server": (KUBE_SCHEDULER, [_eku(SERVER)]),
    "a server, critically": (KUBE_SCHEDULER, [_eku(SERVER, critical=True)]),
    "signs code": (KUBE_SCHEDULER, [_eku(Usage.CODE_SIGNING, Usage.EMAIL_PROTECTION)]),
    "anything": (KUBE_SCHEDULER, [_eku(Usage.ANY_EXTENDED_KEY_USAGE)]),
    "may not sign": (KUBE_SCHEDULER, [(_usage(encipher=True), True), _eku(CLIENT)]),
}
Certificate = tuple[x509.Name, list[Extension]]


def _leaf(authority: Authority, certificate: Certificate, folder: Path, key: Key) -> str:
    leaf = authority.sign(certificate[0], key, certificate[1])
    return _write(folder / "client.pem", key, leaf)


@pytest.fixture(scope="module", params=["EC", "RSA"])
def key(request: pytest.FixtureRequest) -> Key:
    if request.param == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("certificate", LET_IN.values(), ids=list(LET_IN))
def test_the_scheduler_is_let_in(begin, authority, tmp_path, key, certificate: Certificate) -> None:
    server = begin()
    file = _leaf(authority, certificate, tmp_path, key)
    assert _call(server, authority, file) == 200
    assert _call(server, authority, file, path="/debug/state") == 200


@pytest.mark.parametrize("certificate", KEPT_OUT.values(), ids=list(KEPT_OUT))
def test_others_with_a_certificate_are_not(
    begin, authority, tmp_path, key, certificate: Certificate
) -> None:
    server = begin()
    file = _leaf(authority, certificate, tmp_path, key)
    for method, path in (
        ("GET", "/healthz"),
        ("POST", "/filter"),
        ("GET", "/debug/state"),
        ("DELETE", "/offline/pods/x"),
    ):
        assert _call(server, authority, file, method, path) == 403


@pytest.mark.parametrize("certificate", NO_CLIENTS.values(), ids=list(NO_CLIENTS))
def test_certificates_for_another_use_are_not(
    begin, authority, tmp_path, key, certificate: Certificate
) -> None:
    assert _call(begin(), authority, _leaf(authority, certificate, tmp_path, key)) == 0


def test_neither_are_old_ones_those_of_others_nor_leaves_that_sign(
    begin, authority, tmp_path, key
) -> None:
    server = begin()
    old = authority.sign(KUBE_SCHEDULER, key, [_eku(CLIENT)], ends_in=timedelta(days=-1))
    assert _call(server, authority, _write(tmp_path / "c.pem", key, old)) == 0
    forged = Authority().sign(KUBE_SCHEDULER, key, [_eku(CLIENT)])
    assert _call(server, authority, _write(tmp_path / "c.pem", key, forged)) == 0
    # The holder of a leaf signs one for somebody else.
    workload = Authority(name="some-workload")
    leaf = authority.sign(workload.name, workload.key, [LEAF])
    signed = workload.sign(KUBE_SCHEDULER, key, [_eku(CLIENT)])
    assert _call(server, authority, _write(tmp_path / "c.pem", key, signed, leaf)) == 0


def test_an_authority_in_between_may_be_all_that_is_trusted(begin, tmp_path, key) -> None:
    """As where cert-manager's issuer is signed by another one: `ca.crt` need not be the root."""
    root = Authority(name="root")
    between = Authority(root, name="between")
    server = begin(tls_client_ca=between.write(tmp_path / "between.pem"))
    # The server's own certificate is that of the fixture's authority; only the client's matters.
    file = _write(tmp_path / "c.pem", key, between.sign(KUBE_SCHEDULER, key, [_eku(CLIENT)]))
    assert _unverified(server, file) == 200
    other = Authority(root, name="other")
    file = _write(tmp_path / "c.pem", key, other.sign(KUBE_SCHEDULER, key, []), other.cert)
    assert _unverified(server, file) == 0


def _unverified(server: Running, file: str) -> int:
    context = ssl._create_unverified_context()
    context.load_cert_chain(file)
    port = server.server.verbs.port
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError):
        return 0
    finally:
        connection.close()


def test_the_list_of_subjects_is_a_setting(begin, authority, tmp_path, key) -> None:
    server = begin(tls_client_subjects="gpu-scheduler, DNS:a.b.svc,URI:spiffe://c/ns/x/sa/y")

    def status(name: x509.Name, *extensions: Extension) -> int:
        return _call(server, authority, _leaf(authority, (name, list(extensions)), tmp_path, key))

    assert status(_common("gpu-scheduler")) == 200
    assert status(KUBE_SCHEDULER) == 403
    assert status(x509.Name([]), _san(x509.DNSName("x"), x509.DNSName("a.b.svc"))) == 200
    assert (
        status(x509.Name([]), _san(x509.UniformResourceIdentifier("spiffe://c/ns/x/sa/y"))) == 200
    )
    assert status(_common("a.b.svc")) == 403
    assert status(_common("DNS:a.b.svc")) == 403
    assert status(x509.Name([]), _san(x509.DNSName("*.b.svc"))) == 403
    assert status(x509.Name([]), _san(x509.DNSName("gpu-scheduler"))) == 403
    assert status(x509.Name([]), _san(x509.RFC822Name("a.b.svc"))) == 403


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_its_certificate(
    begin, authority, tmp_path, key, version: ssl.TLSVersion
) -> None:
    """A session that was taken up again would not be asked for a certificate."""
    server = begin()
    context = ssl.create_default_context(
        cadata=authority.cert.public_bytes(serialization.Encoding.PEM).decode()
    )
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(_leaf(authority, (KUBE_SCHEDULER, [_eku(CLIENT)]), tmp_path, key))
    connection = http.client.HTTPSConnection(
        "localhost", server.server.verbs.port, context=context, timeout=60
    )
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    session = sock.session
    assert session is None or not session.has_ticket
    connection.close()


def test_old_versions_are_not_spoken(tmp_path, authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = _write(tmp_path / "s.pem", key, authority.sign(_common("x"), key, []))
    context = Certificates(file, file, authority.write(tmp_path / "ca.pem")).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
