"""HTTPS: who the server is, and what happens where it is somebody else."""

import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import ops
from omnistorage.backends.http import HTTPBackend
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable, PermissionDenied

from ..servers import range_server
from ..waiting import LIMIT
from .http_places import Ours


def certificate(folder, name):
    """A certificate for ``name`` that signs itself, and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.pem").write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return str(folder / f"{name}.pem")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Our server behind TLS, in this process: its port, its certificate, and the names that clients asked for."""
    folder = tmp_path_factory.mktemp("tls")
    names = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = certificate(folder, "good.example")
    context.load_cert_chain(pem)
    context.sni_callback = lambda connection, name, _: names.append(name)

    class Server(range_server.Server):
        def get_request(self):
            raw, address = self.socket.accept()
            return context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, request, address):
            pass  # a client that does not like the certificate goes away

    with Server(("127.0.0.1", 0), range_server.Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.server_port, pem, names, certificate(folder, "other.example")
        server.shutdown()
        thread.join(LIMIT)


def at(port, root="plain/", **options):
    import socket

    def dial(address, _, timeout):
        return socket.create_connection(("127.0.0.1", port), timeout)

    options = {"policy": RequestPolicy(retries=2), "resolver": lambda host, port: ["93.184.216.34"], **options}
    return HTTPBackend(f"https://good.example:{port}/{root}", _dial=dial, **options)


def test_a_server_whose_certificate_is_believed_is_read_by_its_name(site):
    port, pem, names, _ = site
    range_server.OBJECTS["x"] = (b"over TLS", 1.0, 1)
    with at(port, ca_file=pem, untrusted=True) as backend:
        assert ops.read_bytes(backend, "x") == b"over TLS"
    assert names[-1] == "good.example", "the name goes along though the address was chosen here"


def test_a_certificate_that_nobody_vouches_for_is_refused_and_not_tried_again(site):
    port, _, _, other = site
    for options in ({}, {"ca_file": other}):
        with at(port, **options) as backend, pytest.raises(BackendUnavailable, match="CERTIFICATE") as caught:
            backend.stat("x")
        assert caught.value.transient is False


def test_a_certificate_of_another_name_is_refused(site):
    port, pem, _, _ = site
    backend = HTTPBackend(f"https://localhost:{port}/plain/", ca_file=pem, policy=RequestPolicy(retries=0))
    with backend, pytest.raises(BackendUnavailable, match="Hostname mismatch"):
        backend.stat("x")


def test_verification_is_off_only_when_told_and_says_so(site):
    port, _, _, _ = site
    range_server.OBJECTS["x"] = (b"over TLS", 1.0, 1)
    with at(port, verify=False) as backend, pytest.warns(Warning, match="Unverified HTTPS"):
        assert ops.read_bytes(backend, "x") == b"over TLS"
    assert "verify=False" in repr(backend)


def test_goal_43_a_real_redirect_from_https_to_http_is_refused_and_when_allowed_bare(site):
    port, pem, _, _ = site
    place = Ours("echo")
    with at(port, "to/302/", ca_file=pem, token="canary") as backend, pytest.raises(PermissionDenied, match="https to"):
        backend.open_reader(f"{place.backend.url}x")
    import socket

    plain = place.info["port"]

    def dial(address, wanted, timeout):
        return socket.create_connection(("127.0.0.1", port if wanted == port else plain), timeout)

    options = {"ca_file": pem, "token": "canary", "allow_downgrade": True, "resolver": lambda host, port: ["127.0.0.1"]}
    with HTTPBackend(f"https://good.example:{port}/to/302/", _dial=dial, **options) as backend:
        told = ops.read_bytes(backend, f"{place.backend.url}x")
    assert b"Host" in told
    assert b"canary" not in told
    place.backend.close()


def test_a_reader_over_tls_is_closed_by_another_thread(site):
    port, pem, _, _ = site
    range_server.OBJECTS["big"] = (bytes(20 << 20), 1.0, 2)
    with at(port, ca_file=pem) as backend:
        reader = backend.open_reader("big")
        assert reader.read(1000) == bytes(1000)
        closer = threading.Thread(target=reader.close)
        closer.start()
        closer.join(LIMIT)
        assert not closer.is_alive()
