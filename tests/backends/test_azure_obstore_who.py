"""Azure through obstore: who one is there, and what the environment has to say in it: nothing."""

import base64
import traceback
from dataclasses import replace

import pytest

from omnistorage import BackendConfig, ops
from omnistorage.backends.azure import AzureBackend
from omnistorage.backends.azure.client import AzureClient
from omnistorage.backends.azure.obstore import SCOPE, store_options
from omnistorage.backends.object_store.client import Get
from omnistorage.backends.object_store.obstore import Obstore
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable, ConfigError, PermissionDenied

from ..servers import server
from ..servers.proxy import Proxy
from .azure_places import Token, fresh, peek, via
from .test_azure import container_sas
from .test_azure_faults import policy, put
from .test_azure_obstore import by_obstore


@pytest.fixture
def proxy():
    with Proxy(server("azurite")["port"]) as proxy:
        yield proxy


@pytest.fixture
def make(proxy):
    made = []

    def make(**options):
        given = {"policy": policy(), "read_timeout": 5, "client": "obstore", **options}
        made.append(fresh(endpoint=via(proxy), **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(make):
    return make()


@pytest.fixture
def no_certificates(monkeypatch):
    """The machine's own say nothing here."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def through(proxy, credential):
    """A client that lends tokens without TLS, which no backend makes."""
    with AzureBackend("container", endpoint_url="https://127.0.0.1:9/me", credential=credential, client="obstore") as s:
        client = s.client
    options = store_options(replace(s._account, url=via(proxy)), client._lent, (5, 5))
    client._second = Obstore("AzureStore", "container", 0, options, write_id="w", etags="0x[0-9a-f]+", quoted=str)
    return client


def test_a_credential_lends_its_token_and_no_token_is_no_permission(proxy, no_certificates):
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    credential = Token()
    client = through(proxy, credential)
    with pytest.raises(Exception, match="403") as refused:  # Azurite knows no such token
        client.get("x", Get())
    assert type(client.translate(refused.value)) is PermissionDenied
    assert credential.asked == [(SCOPE,)]
    assert b"authorization: bearer canary-token" in proxy.heads[-1].lower()
    for error, kind in (
        (ClientAuthenticationError("nobody gives one"), PermissionDenied),
        (HttpResponseError("no connection"), BackendUnavailable),
        (AttributeError("what nobody expects"), PermissionDenied),
    ):
        client = through(proxy, Token(error=error))
        with pytest.raises(Exception, match="credential provider") as failed:
            client.get("x", Get())
        assert type(client.translate(failed.value)) is kind
    assert len(proxy.requests) == 1


def test_a_token_is_sent_over_https_alone():
    with (
        AzureBackend("c", endpoint_url="http://127.0.0.1:9/a", credential=Token(), client="obstore") as plain,
        pytest.raises(ConfigError, match="HTTPS"),
    ):
        ops.read_bytes(plain, "x")


def test_a_sas_is_the_sdks(proxy, make):
    store = make(client="auto", account_key=None, sas_token=container_sas())
    put(store, "x")
    assert ops.read_bytes(store, "x") == b"data"
    assert by_obstore(proxy) == []


def test_go_f5_wrong_keys_are_permission_denied_and_a_key_that_is_none_too(store):
    for key in ("d3Jvbmc=", "not base64!"):
        with AzureBackend(**{**store._options, "account_key": key}) as denied:
            with pytest.raises(PermissionDenied):
                ops.read_bytes(denied, "x")
            with pytest.raises(PermissionDenied):
                denied.open_writer("x").close()


def test_goal_41_secrets_are_shown_nowhere(caplog):
    caplog.set_level("DEBUG")
    secret = "Y2FuYXJ5" + "c2VjcmV0"
    where = {"endpoint_url": "http://127.0.0.1:9/me", "policy": RequestPolicy(retries=0), "client": "obstore"}
    shown = [repr(BackendConfig("azure", {"container": "box", "account_key": secret, **where}))]
    for key in (secret, secret + "!"):
        with AzureBackend("box", account_key=key, **where) as s:
            shown += [repr(s), str(vars(s)), repr(vars(s.client)), repr(s.client._second._store)]
            for call in (lambda s=s: ops.read_bytes(s, "x"), lambda s=s: s.open_writer("x").close()):
                with pytest.raises((BackendUnavailable, PermissionDenied)) as failed:
                    call()
                shown += [str(failed.value), "".join(traceback.format_exception(failed.value))]
    assert not [text for text in shown if secret in text]
    assert not [record for record in caplog.records if secret in record.getMessage()]


HOSTILE = {
    "AZURE_STORAGE_ACCOUNT_NAME": "other", "AZURE_STORAGE_ACCOUNT_KEY": "b3RoZXI=",
    "AZURE_STORAGE_ACCESS_KEY": "b3RoZXI=", "AZURE_STORAGE_MASTER_KEY": "b3RoZXI=", "AZURE_CLIENT_ID": "x",
    "AZURE_CLIENT_SECRET": "x", "AZURE_TENANT_ID": "x", "AZURE_STORAGE_SAS_KEY": "sv=1&sig=x",
    "AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=x", "AZURE_STORAGE_TOKEN": "other", "AZURE_STORAGE_USE_EMULATOR": "true",
    "AZURE_USE_FABRIC_ENDPOINT": "true", "AZURE_SKIP_SIGNATURE": "true", "AZURE_CONTAINER_NAME": "other",
    "AZURE_CREDENTIAL_TYPE": "azure_cli", "AZURE_USE_AZURE_CLI": "true", "AZURE_USER_AGENT": "other",
    "AZURE_DEFAULT_CONTENT_TYPE": "other/other", "AZURE_TIMEOUT": "1ns", "AZURE_ALLOW_INVALID_CERTIFICATES": "true",
    "AZURE_ALLOW_HTTP": "false",
}  # fmt: skip


def test_it_does_what_the_sdk_was_told_whatever_the_environment_says(monkeypatch, proxy, make):
    """obstore reads variables of its own, which the SDK does not know."""
    with Proxy(server("azurite")["port"]) as stranger:
        for name in ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_PROXY_URL", "AZURE_MSI_ENDPOINT",
                     "IDENTITY_ENDPOINT", "AZURE_AUTHORITY_HOST", "AZURE_FABRIC_TOKEN_SERVICE_URL"):  # fmt: skip
            monkeypatch.setenv(name, via(stranger))
        for name, value in HOSTILE.items():
            monkeypatch.setenv(name, value)
        store = make()
        put(store, "x", overwrite=False)
        assert ops.read_bytes(store, "x") == b"data"
        assert peek(store, "x") == b"data"
        assert len(by_obstore(proxy)) == 2
        for head in proxy.heads:
            assert b"authorization: sharedkey devstoreaccount1:" in head.lower()
            assert b"other" not in head
            assert b"sig=" not in head
        proxy.forget()
        nobody = make(account_key=None, anonymous=True)
        with pytest.raises(PermissionDenied):
            ops.read_bytes(nobody, "x")
        assert len(by_obstore(proxy)) == 1
        assert b"authorization" not in proxy.heads[0].lower()
        assert b"sig=" not in proxy.heads[0]
        assert stranger.connections == 0


def test_what_the_environment_alone_can_say_is_the_sdks_or_refused(monkeypatch, tmp_path):
    local = {"endpoint_url": "https://127.0.0.1:9/me", "account_key": "c2VjcmV0"}
    key = base64.b64encode(b"1" * 32).decode()
    for name, value, hint in (
        ("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"), "certificates"),
        ("CURL_CA_BUNDLE", str(tmp_path / "ca.pem"), "certificates"),
        ("AZURE_STORAGE_ENCRYPTION_KEY", key, "encrypt"),
        ("AZURE_storage_Encryption_key", key, "encrypt"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with AzureBackend("box", **local) as store:
                assert type(store.client) is AzureClient
            with AzureBackend("box", client="obstore", **local) as store, pytest.raises(ConfigError, match=hint):
                store.client  # noqa: B018
