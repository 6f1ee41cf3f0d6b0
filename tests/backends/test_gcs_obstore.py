"""GCS through obstore, on our double alone (fake-gcs-server takes no PUT of the XML API): the kit, what obstore does
itself, what it leaves to the SDK, and the same promises when things go wrong. It is no proof of Google's."""

import functools
import json
import multiprocessing
import pickle
import random
import threading
import time
import warnings

import google.auth.credentials
import pytest
from cryptography.hazmat.primitives import serialization

from omnistorage import BackendConfig, Secret, open_backend, ops
from omnistorage.backends.gcs import GCSBackend
from omnistorage.backends.gcs.client import GCSClient
from omnistorage.backends.gcs.obstore import ObstoreGCSClient
from omnistorage.core import ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers.gcs import Double
from ..servers.proxy import Answer, Lost, Proxy, Reset, Stall, Unsent
from ..waiting import LIMIT
from .gcs_places import double as shared
from .gcs_places import fresh, peek, plant
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked
from .test_gcs import service_account_key
from .test_gcs_faults import BIG, policy, put


def known_to(double, **more):
    """A service account whose tokens come from ``double``."""
    key = json.loads(service_account_key()) | {"token_uri": f"{double.url}/token", **more}
    return Secret(json.dumps(key), pickle=True)


@pytest.fixture(autouse=True)
def loopback_alone(monkeypatch):
    """The newer SDK asks a service of Google's about every account, in the background."""
    asks = getattr(google.auth.credentials, "CredentialsWithRegionalAccessBoundary", None)
    if asks is not None:
        monkeypatch.setattr(asks, "_is_regional_access_boundary_lookup_required", lambda _: False)


@pytest.fixture(autouse=True, scope="module")
def one_key_is_read_once():
    """With each reading its primes are proven anew, which takes longer than most tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serialization, "load_pem_private_key", functools.cache(serialization.load_pem_private_key))
        yield


def by(double, **options):
    return fresh(double, **{"client": "obstore", "checksums": False, "credentials": known_to(double), **options})


@pytest.mark.ci_only
class TestDoubleObstore(BackendTests):
    def make(self):
        return by(shared())

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32DoubleObstore = backend_machine(lambda: by(shared()), steps=STEPS, length=LENGTH, peek=peek)


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


def by_obstore(proxy):
    """The requests that obstore has sent."""
    return [line for line, head in zip(proxy.requests, proxy.heads, strict=True) if b"object_store/" in head]


# -- who does what -----------------------------------------------------------------------------------------------------


def test_reads_and_small_writes_are_obstores_and_cost_one_request(proxy, double, store):
    assert type(store.client) is ObstoreGCSClient
    info = put(store, "a", user_metadata={"k": "v"}, content_type="text/x")
    with store.open_reader("a") as reader:
        assert reader.read(-1) == b"data"
        told = store.stat("a")
        assert reader.info._replace(hashes=None) == told._replace(hashes=None, modified_at=None)
    assert info.etag == info.version == told.etag
    assert (told.metadata, told.content_type) == ({"k": "v"}, "text/x")
    proxy.forget()
    assert ops.read_bytes(store, "a", ReadOptions(1, 2)) == b"at"
    put(store, "new", overwrite=False)
    put(store, "new", b"again", if_match=store.stat("new").etag)
    assert len(by_obstore(proxy)) == len(proxy.requests) - 1 == 3
    assert all(b"accept-encoding: gzip" in head for head in proxy.heads if b"object_store/" in head)
    assert double.tokens <= 2
    proxy.forget()
    assert ops.read_bytes(store, "a", ReadOptions(if_match=info.etag)) == b"data"
    assert ops.read_bytes(store, "a", ReadOptions(version=info.etag)) == b"data"
    assert [info.path for info in store.list()] == ["a", "new"]
    store.copy("a", "b")
    put(store, "cold", extra={"gcs.storage_class": "COLDLINE"})
    put(store, "middling", BIG)
    put(store, "long", b"1" * (store.part_size + 1))
    assert by_obstore(proxy) == []


@pytest.mark.ci_only
def test_a_key_that_obstore_would_change_goes_through_the_sdk(proxy, store):
    for key in ("a//b", "x\u200by", "t\u00a0"):
        plant(store, key, key.encode())
        assert ops.read_bytes(store, key) == key.encode()
    assert by_obstore(proxy) == []
    for key in ("%2F", "ü/ñ b", "#q?x=1&y", "a+b", "100%", "~a'b(c)*", "=;,@:", '!$^`{}|<>[]"', "a\\b", "a..b"):
        put(store, key, key.encode())
        assert ops.read_bytes(store, key) == key.encode()
        assert peek(store, key) == key.encode()
    assert len(by_obstore(proxy)) == 20


def test_nobody_reads_through_obstore_and_writes_through_the_sdk(proxy, make):
    store = make(credentials=None)
    put(store, "x")
    assert by_obstore(proxy) == []
    assert ops.read_bytes(store, "x") == b"data"
    assert len(by_obstore(proxy)) == 1
    assert not any(b"authorization" in head.lower() for head in proxy.heads)


def test_metadata_never_becomes_a_header(store):
    metadata = {"contenttype": "v1", "cache_control": "v2", "plain": "v3"}
    put(store, "x", user_metadata=metadata, content_type="text/plain")
    assert (store.stat("x").metadata, store.stat("x").content_type) == (metadata, "text/plain")


def test_ranges_are_bounded_by_the_object_alone(store):
    put(store, "empty", b"")
    put(store, "x", b"12345")
    for options, data in (
        (ReadOptions(0, 5), b""), (ReadOptions(3, 1 << 40), b"45"), (ReadOptions(9, 2), b""), (ReadOptions(5), b""),
    ):  # fmt: skip
        assert ops.read_bytes(store, "empty" if data == b"" else "x", options) == data
    assert store.read_ranges("empty", [(0, 5), (2, 2)]) == [b"", b""]


def test_pain_11_the_client_follows_what_must_be_checked(monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    google = {"credentials": service_account_key(), "checksums": False}
    local = {"endpoint_url": "http://127.0.0.1:9", "vendor": "google", "checksums": False}
    for options, kind in (
        (google, ObstoreGCSClient),
        (local, ObstoreGCSClient),
        ({**google, "client": "sdk"}, GCSClient),
        ({**google, "checksums": True}, GCSClient),
        ({"credentials": service_account_key()}, GCSClient),
        ({**local, "vendor": "fake-gcs-server"}, GCSClient),
        ({**local, "vendor": None}, GCSClient),
        ({**google, "client": "obstore"}, ObstoreGCSClient),
    ):
        with GCSBackend("bucket", **options) as store:
            assert type(store.client) is kind, options
    for wrong, hint in (
        ({**google, "client": "rust"}, "auto, sdk or obstore"),
        ({"client": "obstore"}, "checksums=False"),
        ({**local, "client": "obstore", "vendor": "fake-gcs-server"}, "XML API"),
    ):
        with pytest.raises(ConfigError, match=hint):
            GCSBackend("bucket", **wrong)
    for name in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY",
                 "SERVICE_ACCOUNT"):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(name, "another's")
            with GCSBackend("bucket", **google) as store:
                assert type(store.client) is GCSClient
            with GCSBackend("bucket", **google, client="obstore") as store, pytest.raises(ConfigError, match="key"):
                store.client  # noqa: B018
    monkeypatch.setattr("omnistorage.backends.object_store.obstore.find_spec", lambda name: None)
    with GCSBackend("bucket", **google, client="obstore") as store, pytest.raises(MissingExtra, match=r"\[accel\]"):
        store.exists("x")


def test_without_checksums_nothing_is_held_against_them(double, make):
    store = make(client="sdk")
    put(store, "x", b"data")
    double.live(store._prefix + "x")["row"]["crc32c"] = "AAAAAA=="
    assert ops.read_bytes(store, "x") == b"data"
    with GCSBackend(**{**store._options, "checksums": True}) as strict, pytest.raises(CorruptData):
        ops.read_bytes(strict, "x")


def test_a_url_and_a_configuration_name_the_client():
    with open_backend("gs://bucket/p?client=obstore&checksums=false&anonymous=true") as store:
        assert store._options["client"] == "obstore"
    with open_backend(BackendConfig("gcs", {"bucket": "b", "client": "sdk", "checksums": False})) as store:
        assert store._options["client"] == "sdk"
    for wrong in ("client=boto", "client=obstore", "checksums=maybe"):
        with pytest.raises(ConfigError):
            open_backend(f"gs://bucket/p?{wrong}")
    with pytest.raises(ConfigError):
        open_backend(BackendConfig("gcs", {"bucket": "b", "client": 1}))


# -- when things go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 1, 70_000, 2_999_999, shown=[(Reset, 70_000)]))
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, make, fault, after):
    store = make(read_timeout=silence(fault))
    plant(store, "x", BIG)
    proxy.forget()
    proxy.next(fault("GET", after))
    assert ops.read_bytes(store, "x") == BIG
    assert asked_again(proxy.count("GET"), fault)
    if after:
        assert b"x-goog-if-generation-match" in proxy.heads[1].lower()


@pytest.mark.ci_only
def test_goal_29_a_download_taken_up_again_never_splices_two_versions(proxy, make):
    store = make(read_timeout=0.5)
    put(store, "x", BIG)
    proxy.next(Stall("GET", after=1_500_000))
    with store.open_reader("x") as reader:
        assert reader.read(1000) == BIG[:1000]
        put(store, "x", BIG[::-1])
        with pytest.raises(CorruptData, match="changed"):
            while reader.read(65536):
                pass


def test_a_reader_closed_by_another_thread_is_free_at_once(proxy, make):
    store = make(read_timeout=2 * LIMIT)
    put(store, "x", BIG)
    proxy.next(Stall("GET", after=1_200_000))
    reader = store.open_reader("x")
    assert reader.read(1000)
    close_when_blocked(proxy, reader)
    began = time.monotonic()
    with pytest.raises(ReaderClosed):
        while reader.read(65536):
            pass
    assert time.monotonic() - began < LIMIT


CASES = [
    (503, "ServiceUnavailable", BackendUnavailable, True),
    (429, "SlowDown", BackendUnavailable, True),
    (500, "InternalError", BackendUnavailable, True),
    (502, "", BackendUnavailable, True),
    (408, "RequestTimeout", BackendUnavailable, True),
    (409, "OperationAborted", BackendUnavailable, True),
    (403, "AccessDenied", PermissionDenied, False),
    (401, "AuthenticationRequired", PermissionDenied, False),
    (404, "NoSuchBucket", BucketNotFound, False),
    (404, "NoSuchKey", NotFound, False),
    (412, "PreconditionFailed", PreconditionFailed, False),
    (501, "NotImplemented", CapabilityNotSupported, False),
    (307, "", ConfigError, False),
    (400, "InvalidObjectName", StorageError, False),
    (400, "InvalidArgument", StorageError, False),
]


@pytest.mark.parametrize(("status", "code", "kind", "again"), one_of_each(CASES, lambda case: case[3]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, code, kind, again):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    for method, call in {"PUT": lambda: put(store, "x"), "GET": lambda: ops.read_bytes(store, "x")}.items():
        put(store, "x")
        proxy.forget()
        proxy.next(Answer(method, status, body))
        if again:
            call()
        else:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) in (kind, InvalidPath)
            assert caught.value.path == "x"
            assert "Debug source" not in str(caught.value)
            assert isinstance(caught.value, BucketNotFound) is (code == "NoSuchBucket")
        assert len(proxy.requests) == (2 if again else 1)
        by_sdk = again and status in (429, 503)  # which sees how long the store wants to be left alone
        assert len(by_obstore(proxy)) == len(proxy.requests) - by_sdk


def test_rs_7_7_a_missing_bucket_is_not_found(store):
    with GCSBackend(**{**store._options, "bucket": "no-such-bucket"}) as gone:
        for call in (
            lambda: gone.open_reader("x"),
            lambda: gone.open_writer("x").close(),
            lambda: put(gone, "x", overwrite=False),
        ):
            with pytest.raises(NotFound, match="bucket"):
                call()


@pytest.mark.ci_only
def test_goal_27_a_page_that_a_request_is_sent_on_to_is_neither_an_object_nor_a_success(proxy, double, make):
    """obstore follows redirects, a 303 of a PUT with a GET; the SDK does not. A page has no generation."""
    page = {"ETag": '"5e5c0a0c-264"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
    for overwrite in (True, False):
        with Proxy(double.port) as stranger:
            there = {"Location": f"{stranger.url}/page"}
            store = make()
            proxy.next(Answer("PUT", 303, b"", there))
            stranger.next(Answer("GET", 200, b"<html>", page))
            put(store, "x", overwrite=overwrite)
            assert peek(store, "x") == b"data"
            assert len(stranger.requests) == 1
            assert b"authorization" not in stranger.heads[0].lower()
            store = make()
            plant(store, "x", b"data")
            proxy.next(Answer("GET", 302, b"", there))
            stranger.next(Answer("GET", 200, b"<html>", page))
            assert ops.read_bytes(store, "x") == b"data"
            proxy.forget()
            put(store, "x")
            assert by_obstore(proxy) == []


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    told = {"ETag": '"e"', "x-goog-generation": "7", "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
    proxy.next(Answer("GET", 200, b"0123456789", told))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))


@pytest.mark.parametrize(
    "fault",
    [
        Lost("PUT"),
        *(
            pytest.param(fault, marks=pytest.mark.ci_only)
            for fault in (Reset("PUT"), Unsent("PUT", 1000), Unsent("PUT"))
        ),
    ],
)
def test_a_put_whose_answer_is_lost_is_sent_again(proxy, store, fault):
    data = BIG[:500_000]
    proxy.next(fault)
    put(store, "x", data)
    assert peek(store, "x") == data
    assert proxy.count("PUT") == len(by_obstore(proxy)) == 2


def test_goal_26_a_created_object_whose_answer_was_lost_is_no_conflict(proxy, store):
    proxy.next(Lost("PUT"))
    info = put(store, "x", overwrite=False)
    assert info.etag == store.stat("x").etag
    with store.open_reader("x") as reader:
        assert reader.info.metadata == {}, "the write id is ours"
    with pytest.raises(AlreadyExists):
        put(store, "x", b"other", overwrite=False)
    proxy.next(Lost("PUT"))
    put(store, "x", b"replaced", if_match=info.etag)
    assert peek(store, "x") == b"replaced"
    with pytest.raises(PreconditionFailed):
        put(store, "x", b"late", if_match=info.etag)
    with pytest.raises(PreconditionFailed):
        put(store, "x", b"late", if_match="no generation")
    proxy.next(Unsent("PUT"))
    with pytest.raises((OutcomeUnknown, AlreadyExists)):
        put(store, "x", b"ours", overwrite=False)


def test_an_outage_is_refused_connections_and_those_did_nothing(proxy, make):
    store = make(policy=policy(retries=1))  # without a connection yet, whose end could come behind a request
    proxy.__exit__()
    with pytest.raises(BackendUnavailable) as caught:
        put(store, "x", overwrite=False)
    assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(StorageError):
        store.open_writer("y", WriteOptions(overwrite=False)).close()


@pytest.mark.ci_only
def test_rs_7_2_pain_14_sixteen_writers_of_one_new_key_have_one_winner(make):
    stores = [make(read_timeout=60) for _ in range(16)]
    for store in stores:
        store._prefix = stores[0]._prefix
    won, barrier = [], threading.Barrier(16)

    def run(at):
        barrier.wait(LIMIT)
        try:
            put(stores[at], "x", b"%d" % at, overwrite=False)
            won.append(at)
        except AlreadyExists:
            pass

    threads = [threading.Thread(target=run, args=(at,)) for at in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(won) == 1
    assert peek(stores[0], "x") == b"%d" % won[0]


@pytest.mark.ci_only
def test_threads_share_one_client(store):
    bodies = {f"k{n}": random.Random(n).randbytes(400_000) for n in range(12)}

    def run(item):
        put(store, *item)
        assert ops.read_bytes(store, item[0]) == item[1]
        assert store.read_ranges(item[0], [(5, 9), (399_990, 50)]) == [item[1][5:14], item[1][399_990:]]
        done.append(item[0])

    done = []
    threads = [threading.Thread(target=run, args=(item,)) for item in bodies.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(done) == sorted(bodies)


def kind_of_client(store):
    return type(store.client).__name__, ops.read_bytes(store, "x")


@pytest.mark.ci_only
def test_pain_9_a_forked_child_has_the_sdks_client_and_a_spawned_one_its_own(store):
    put(store, "x")
    assert kind_of_client(pickle.loads(pickle.dumps(store))) == ("ObstoreGCSClient", b"data")
    for method, kind in (("fork", "GCSClient"), ("spawn", "ObstoreGCSClient")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and newer: fork beside threads
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(kind_of_client, (store,)) == (kind, b"data")
