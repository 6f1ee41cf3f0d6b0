"""GCS through obstore: who one is there, and what the environment has to say in it: nothing."""

import json
import traceback
from datetime import UTC, datetime

import pytest

from omnistorage import ops
from omnistorage.backends.gcs import GCSBackend
from omnistorage.backends.gcs.obstore import lent_by, store_options
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.errors import BackendUnavailable, OutcomeUnknown

from ..servers.gcs import Double
from ..servers.proxy import Proxy
from .gcs_places import peek
from .test_gcs import service_account_key
from .test_gcs_faults import policy, put
from .test_gcs_obstore import by, by_obstore, known_to, loopback_alone  # noqa: F401


@pytest.fixture
def double():
    with Double() as double:
        yield double


@pytest.fixture
def proxy(double):
    with Proxy(double.port) as proxy:
        yield proxy


@pytest.fixture
def make(proxy, double):
    made = []

    def make(**options):
        given = {"policy": policy(), "read_timeout": 5, "endpoint": proxy.url, **options}
        made.append(by(double, **given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(make):
    return make()


def test_the_sdks_credentials_lend_their_token_and_a_new_one_when_it_ends(proxy, double, store):
    put(store, "x")
    put(store, "x")
    assert double.tokens == 1
    assert b"authorization: bearer token-1\r\n" in proxy.heads[-1].lower()
    credentials = store.client._session.credentials
    told = lent_by(credentials)
    assert (told["token"], told["expires_at"]) == ("token-1", credentials.expiry.replace(tzinfo=UTC))
    credentials.expiry = datetime.now(UTC).replace(tzinfo=None)
    assert lent_by(credentials)["token"] == "token-2"
    assert double.tokens == 2


def test_no_token_is_no_permission_and_nothing_was_sent(proxy, make):
    store = make(credentials=service_account_key(), policy=policy(retries=0))  # its tokens come from nowhere
    for call in (lambda: ops.read_bytes(store, "x"), lambda: put(store, "x", overwrite=False)):
        with pytest.raises(BackendUnavailable, match="no token") as caught:
            call()
        assert not isinstance(caught.value, OutcomeUnknown)
    assert proxy.requests == []


def test_who_pays_is_said():
    class Credentials:
        quota_project_id = "payer"

    options = store_options("http://host", None, Credentials(), (5, 5), nobody=False)
    assert options["client_options"]["default_headers"]["x-goog-user-project"] == "payer"


def test_goal_41_secrets_are_shown_nowhere(caplog, double):
    caplog.set_level("DEBUG")
    key = known_to(double).reveal()
    secret = json.loads(key)["private_key"].splitlines()[3]
    store = GCSBackend(
        "b", endpoint_url="http://127.0.0.1:9", vendor="google", policy=RequestPolicy(retries=0), credentials=key,
        client="obstore", checksums=False,
    )  # fmt: skip
    with store:
        shown = [repr(store), str(vars(store)), repr(store.client._second._store)]
        for call in (lambda: ops.read_bytes(store, "x"), lambda: store.open_writer("x").close()):
            with pytest.raises(BackendUnavailable) as failed:
                call()
            shown += [str(failed.value), "".join(traceback.format_exception(failed.value))]
    assert not [text for text in shown if secret in text or "token-1" in text]
    assert not [record for record in caplog.records if secret in record.getMessage()]


def test_it_does_what_the_sdk_was_told_whatever_the_environment_says(monkeypatch, proxy, make):
    """obstore reads variables of its own, which the SDK does not know."""
    with Double() as other, Proxy(other.port) as stranger:
        for name, value in {
            "GOOGLE_BASE_URL": stranger.url, "GOOGLE_PROXY_URL": stranger.url, "GOOGLE_BUCKET": "other",
            "GOOGLE_BUCKET_NAME": "other", "GOOGLE_BEARER_TOKEN": "other", "GOOGLE_SKIP_SIGNATURE": "true",
            "GOOGLE_APPLICATION_CREDENTIALS": "/other.json", "GOOGLE_USER_AGENT": "other", "GOOGLE_TIMEOUT": "1ns",
            "GOOGLE_DEFAULT_CONTENT_TYPE": "other/other",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        store = make()
        put(store, "x", overwrite=False)
        assert ops.read_bytes(store, "x") == peek(store, "x") == b"data"
        assert len(by_obstore(proxy)) == 2
        for head in proxy.heads:
            assert b"authorization: bearer token-1" in head.lower()
            assert b"other" not in head
        proxy.forget()
        nobody = make(credentials=None)
        nobody._prefix = store._prefix
        assert ops.read_bytes(nobody, "x") == b"data"
        assert len(by_obstore(proxy)) == 1
        assert b"authorization" not in proxy.heads[0].lower()
        assert stranger.connections == 0
