"""Certificates of both sides: they meet, are renewed in time, and no change locks anybody out."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from scheduler.cli.run.certificates import command
from scheduler.cluster.certificates import ROTATE, Leaf, Secrets, Terms, authority, leaf, renew
from scheduler.core.errors import InvalidInput, KubeApiError
from testbed.fake_api import FakeApi

SECRETS = "/api/v1/namespaces/ns/secrets"
NAMES = Secrets("ns", "authority", "server", "client")
SERVER = Leaf("snugfit.ns.svc", ("snugfit.ns.svc", "snugfit"), ("10.96.0.50", "fd00::1"))
CALLER = Leaf("kube-scheduler", client=True)
TERMS = Terms(timedelta(days=90), timedelta(days=600), timedelta(days=20))
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    made = FakeApi()
    for name in ("authority", "server", "client"):
        made.put(SECRETS, {"metadata": {"name": name, "namespace": "ns"}})
    yield made
    made.stop()


def _held(api: FakeApi, name: str) -> dict[str, bytes]:
    data = api.objects[SECRETS][name].get("data") or {}
    return {key: base64.b64decode(value) for key, value in data.items()}


def _run(api: FakeApi, now: datetime | None = None, server: Leaf = SERVER) -> dict[str, str]:
    return renew(api.client(), NAMES, server, CALLER, TERMS, now)


def _context(folder: Path, content: dict[str, bytes], *, server: bool) -> ssl.SSLContext:
    folder.mkdir(exist_ok=True)
    for name, part in content.items():
        (folder / name).write_bytes(part)
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    if server:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> dict[str, object]:
    """Subject of the caller, as the server sees it; ``ssl.SSLError`` if they do not meet."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    waiting = [here, there]
    for side in [here, there] * 6:
        if side in waiting:
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return there.getpeercert() or {}


@pytest.mark.parametrize("host", ["snugfit.ns.svc", "snugfit", "10.96.0.50", "fd00::1"])
def test_both_sides_meet_and_know_each_other(api: FakeApi, tmp_path: Path, host: str) -> None:
    _run(api)
    server = _context(tmp_path / "server", _held(api, "server"), server=True)
    client = _context(tmp_path / "client", _held(api, "client"), server=False)
    subject = _handshake(server, client, host)["subject"]
    assert subject == ((("commonName", "kube-scheduler"),),)
    with pytest.raises(ssl.SSLError, match=r"mismatch|doesn't match"):
        _handshake(server, client, "elsewhere.example")


def test_a_servers_certificate_is_no_callers(api: FakeApi, tmp_path: Path) -> None:
    _run(api)
    server = _context(tmp_path / "server", _held(api, "server"), server=True)
    posing = _context(tmp_path / "server", _held(api, "server"), server=False)
    with pytest.raises(ssl.SSLError, match=r"purpose"):
        _handshake(server, posing, "snugfit")


def test_keys_stay_where_they_belong(api: FakeApi) -> None:
    _run(api)
    held = {name: _held(api, name) for name in ("authority", "server", "client")}
    assert len({content["tls.key"] for content in held.values()}) == 3
    assert held["server"]["ca.crt"] == held["client"]["ca.crt"] == held["authority"]["tls.crt"]
    for name in ("server", "client"):
        assert set(held[name]) == {"tls.crt", "tls.key", "ca.crt"}


def test_what_is_good_is_left_alone(api: FakeApi) -> None:
    _run(api, NOW)
    before = {name: dict(obj) for name, obj in api.objects[SECRETS].items()}
    done = _run(api, NOW + 59 * DAY)
    assert api.objects[SECRETS] == before
    assert all(said.startswith("kept, ") for said in done.values())


def test_certificates_are_renewed_after_two_thirds_and_the_authority_stays(api: FakeApi) -> None:
    _run(api, NOW)
    first = {name: _held(api, name) for name in ("authority", "server", "client")}
    _run(api, NOW + 61 * DAY)
    assert _held(api, "authority") == first["authority"]
    for name in ("server", "client"):
        assert _held(api, name)["tls.crt"] != first[name]["tls.crt"]
        assert _held(api, name)["ca.crt"] == first[name]["ca.crt"]


@pytest.mark.parametrize(
    "changed",
    [
        Leaf("snugfit.ns.svc", ("snugfit.ns.svc",), ("10.96.0.50", "fd00::1")),
        Leaf("snugfit.ns.svc", SERVER.hosts, ("10.96.0.51", "fd00::1")),
        Leaf("other", SERVER.hosts, SERVER.addresses),
        Leaf("snugfit.ns.svc", SERVER.hosts, SERVER.addresses, client=True),
    ],
)
def test_a_certificate_that_says_something_else_is_replaced(api: FakeApi, changed: Leaf) -> None:
    _run(api, NOW)
    first, client = _held(api, "server"), _held(api, "client")
    _run(api, NOW + DAY, changed)
    assert _held(api, "server")["tls.crt"] != first["tls.crt"]
    assert _held(api, "client") == client


@pytest.mark.parametrize("spoilt", ["tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_certificate_that_cannot_be_read_is_made_anew(spoilt: str, content: bytes) -> None:
    held = authority({}, "ca", TERMS, NOW)
    first = leaf({}, SERVER, held, TERMS, NOW)
    assert leaf(first, SERVER, held, TERMS, NOW) == first
    again = leaf(first | {spoilt: content}, SERVER, held, TERMS, NOW)
    assert again["tls.crt"] not in (first["tls.crt"], content) and again["tls.key"] != content


@cache
def _spans(certificate: bytes, bundle: bytes) -> list[tuple[datetime, datetime]]:
    """When somebody who trusts this bundle accepts this certificate."""
    one = x509.load_pem_x509_certificate(certificate)
    found = []
    for issuer in x509.load_pem_x509_certificates(bundle):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, InvalidSignature):
            continue
        begins = max(one.not_valid_before_utc, issuer.not_valid_before_utc)
        found.append((begins, min(one.not_valid_after_utc, issuer.not_valid_after_utc)))
    return found


def _trusted(certificate: bytes, bundle: bytes, now: datetime) -> bool:
    return any(begins <= now <= ends for begins, ends in _spans(certificate, bundle))


@pytest.mark.parametrize("asked", [(), (100,), (100, 101, 130), (5, 300, 301, 700)])
@pytest.mark.parametrize("every", [3, 7])
def test_no_replacement_locks_out_a_copy_that_is_not_too_old(
    asked: tuple[int, ...], every: int
) -> None:
    """Over five years, with copies of kube-scheduler's files that lag behind by the overlap."""
    held: dict[str, bytes] = {}
    server: dict[str, bytes] = {}
    client: dict[str, bytes] = {}
    copies: list[tuple[int, dict[str, bytes]]] = []
    authorities = set()
    pending = list(asked)
    for day in range(0, 1800, every):
        now = NOW + day * DAY
        rotate = bool(pending) and pending[0] <= day
        if rotate:
            pending.pop(0)
        held = authority(held, "ca", TERMS, now, rotate=rotate)
        server = leaf(server, SERVER, held, TERMS, now)
        client = leaf(client, CALLER, held, TERMS, now)
        copies = [(when, c) for when, c in copies if day - when < TERMS.overlap.days - every]
        copies.append((day, client))
        authorities.add(held["tls.crt"])
        assert len(x509.load_pem_x509_certificates(held["ca.crt"])) <= 2
        for _, copy in copies:
            assert _trusted(server["tls.crt"], copy["ca.crt"], now)
            assert _trusted(copy["tls.crt"], server["ca.crt"], now)
    assert len(authorities) >= 4 + bool(asked)  # 600 days each, replaced well before


def test_an_authority_that_was_replaced_is_forgotten_in_the_end() -> None:
    held = first = authority({}, "ca", TERMS, NOW)
    held = authority(held, "ca", TERMS, NOW + DAY, rotate=True)
    assert held["tls.crt"] == first["tls.crt"] and held["next.crt"] in held["ca.crt"]
    held = authority(held, "ca", TERMS, NOW + 22 * DAY)
    assert held["previous.crt"] == first["tls.crt"] and "next.key" not in held
    assert first["tls.key"] not in held.values()
    late = authority(held, "ca", TERMS, NOW + (22 + 90) * DAY)
    assert late["ca.crt"] == late["tls.crt"] != first["tls.crt"]


def test_an_annotation_begins_the_replacement_once(api: FakeApi) -> None:
    _run(api, NOW)
    secret = api.objects[SECRETS]["authority"]
    secret["metadata"]["annotations"] = {ROTATE: "now", "other": "stays"}
    api.put(SECRETS, secret)
    done = _run(api, NOW + DAY)
    assert "next one is trusted" in done["authority"]
    assert "other authorities are trusted" in done["server"]
    assert api.objects[SECRETS]["authority"]["metadata"]["annotations"] == {"other": "stays"}
    held = _held(api, "authority")
    _run(api, NOW + 2 * DAY)
    assert _held(api, "authority") == held


def test_a_replacement_waits_for_the_one_before(api: FakeApi) -> None:
    """Whoever still shows a certificate of the authority before that would be out."""
    _run(api, NOW)

    def ask() -> None:
        secret = api.objects[SECRETS]["authority"]
        secret["metadata"]["annotations"] = {ROTATE: "now"}
        api.put(SECRETS, secret)

    ask()
    _run(api, NOW + DAY)
    _run(api, NOW + 30 * DAY)  # the next one signs
    ask()
    _run(api, NOW + 31 * DAY)
    assert "next.crt" not in _held(api, "authority")
    assert ROTATE in api.objects[SECRETS]["authority"]["metadata"]["annotations"]
    _run(api, NOW + 121 * DAY)  # the first one is forgotten
    _run(api, NOW + 122 * DAY)
    assert "next.crt" in _held(api, "authority")
    assert ROTATE not in api.objects[SECRETS]["authority"]["metadata"]["annotations"]


@pytest.mark.parametrize(
    "spoilt", [{"tls.key": b""}, {"tls.crt": b"nonsense"}, {"next.crt": b"nonsense"}]
)
def test_an_authority_that_cannot_be_read_is_not_replaced(
    api: FakeApi, spoilt: dict[str, bytes]
) -> None:
    _run(api, NOW)
    secret = api.objects[SECRETS]["authority"]
    secret["data"] |= {key: base64.b64encode(value).decode() for key, value in spoilt.items()}
    api.put(SECRETS, secret)
    before = _held(api, "authority")
    with pytest.raises(InvalidInput, match=r"cannot be read"):
        _run(api, NOW + DAY)
    assert _held(api, "authority") == before


def test_a_run_that_breaks_off_is_made_good_by_the_next(api: FakeApi) -> None:
    def broken(handler: object) -> bool:
        handler.answer({"code": 500, "message": "broken"}, 500)  # type: ignore[attr-defined]
        return True

    api.next("PUT", "secrets/server", broken)
    with pytest.raises(KubeApiError):
        _run(api, NOW)
    held = _held(api, "authority")
    assert held and not _held(api, "server")
    _run(api, NOW)
    assert _held(api, "authority") == held
    assert _trusted(_held(api, "server")["tls.crt"], _held(api, "client")["ca.crt"], NOW)


def test_of_two_runs_at_once_one_fails_and_writes_nothing(api: FakeApi) -> None:
    def meanwhile(_: object) -> bool:
        _run(api, NOW)
        return False

    api.next("PUT", "secrets/authority", meanwhile)
    with pytest.raises(KubeApiError) as refused:
        _run(api, NOW)
    assert refused.value.status == 409
    assert _trusted(_held(api, "server")["tls.crt"], _held(api, "authority")["ca.crt"], NOW)


def test_secrets_have_to_exist(api: FakeApi) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        renew(api.client(), Secrets("ns", "none", "server", "client"), SERVER, CALLER, TERMS, NOW)


def test_an_authority_outlives_what_it_signs() -> None:
    with pytest.raises(InvalidInput, match="authority"):
        Terms(timedelta(days=365), timedelta(days=400), timedelta(days=30))


def test_a_server_may_vouch_for_itself(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["self-signed", str(tmp_path), "--host", "a.example"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "tls.key").stat().st_mode & 0o077 == 0
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    _handshake(server, client, "a.example")
