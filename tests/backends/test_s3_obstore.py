"""S3 through obstore: what it does itself, what it leaves to the SDK, and the same promises when things go wrong. The
kit and the state machine run on it in ``test_s3.py``."""

import multiprocessing
import pickle
import random
import subprocess
import sys
import threading
import time
import traceback
import warnings
from dataclasses import replace

import pytest

from omnistorage import ops
from omnistorage.backends.s3 import S3Backend
from omnistorage.backends.s3.client import S3Client
from omnistorage.backends.s3.obstore import ObstoreS3Client
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)

from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy, Reset, Stall, Unsent
from ..waiting import LIMIT
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked
from .test_s3 import fresh, plant
from .test_s3_faults import BIG, error_body, peek, policy, put


@pytest.fixture
def proxy():
    with Proxy(server("seaweedfs")["port"]) as proxy:
        yield proxy


@pytest.fixture
def make(proxy):
    made = []

    def make(**options):
        given = {"policy": policy(), "read_timeout": 5, "client": "obstore", **options}
        made.append(fresh("seaweedfs", endpoint=proxy.url, **given))
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


def test_reads_and_small_writes_are_obstores_and_cost_one_request(proxy, store):
    assert type(store.client) is ObstoreS3Client
    put(store, "a", user_metadata={"k": "v"})
    assert ops.read_bytes(store, "a") == b"data"
    assert ops.read_bytes(store, "a", ReadOptions(1, 2)) == b"at"
    put(store, "new", overwrite=False)
    assert len(by_obstore(proxy)) == len(proxy.requests) == 4
    proxy.forget()
    assert store.stat("a").metadata == {"k": "v"}
    assert [info.path for info in store.list()] == ["a", "new"]
    store.copy("a", "b")
    put(store, "tagged", extra={"s3.tags": {"x": "y"}})
    put(store, "long", b"1" * (store.part_size + 1))
    assert by_obstore(proxy) == []


@pytest.mark.ci_only
def test_a_key_that_obstore_would_change_goes_through_the_sdk(proxy, store):
    """It has no empty segments, and takes the slash from the end of a key."""
    for key in ("a//b", "c/./d"):  # SeaweedFS has no such keys
        with pytest.raises(StorageError):
            ops.read_bytes(store, key)
    assert by_obstore(proxy) == []
    for key in ("%2F", "ü/ñ b", "#q?x=1&y", "a+b", "100%", "~a'b(c)*", "=;,@:"):
        put(store, key, key.encode())
        assert ops.read_bytes(store, key) == key.encode()
        assert peek(store, key) == key.encode()
    assert len(by_obstore(proxy)) == 14


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 1, 70_000, 2_999_999, shown=[(Reset, 70_000)]))
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, make, fault, after):
    store = make(read_timeout=silence(fault))
    plant(store, "x", BIG)
    proxy.forget()
    proxy.next(fault("GET", after))
    assert ops.read_bytes(store, "x") == BIG
    assert asked_again(proxy.count("GET"), fault)
    assert b"if-match" in proxy.heads[1].lower()


@pytest.mark.ci_only
def test_goal_29_a_download_taken_up_again_never_splices_two_versions(proxy, make):
    store = make(read_timeout=0.5)
    for size in (1_500_000, 3_000_000):  # the rest is asked for through obstore, and through the SDK
        put(store, "x", BIG[:size])
        proxy.next(Stall("GET", after=1_200_000))
        with store.open_reader("x") as reader:
            assert reader.read(1000) == BIG[:1000]
            put(store, "x", BIG[:size][::-1])
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
    (503, "SlowDown", BackendUnavailable, True),
    (429, "TooManyRequests", BackendUnavailable, True),
    (500, "InternalError", BackendUnavailable, True),
    (502, "", BackendUnavailable, True),
    (409, "OperationAborted", BackendUnavailable, True),
    (400, "RequestTimeout", BackendUnavailable, True),
    (400, "BadDigest", CorruptData, True),
    (403, "AccessDenied", PermissionDenied, False),
    (403, "SignatureDoesNotMatch", PermissionDenied, False),
    (401, "", PermissionDenied, False),
    (404, "NoSuchBucket", BucketNotFound, False),
    (404, "NoSuchKey", NotFound, False),
    (412, "PreconditionFailed", PreconditionFailed, False),
    (501, "NotImplemented", CapabilityNotSupported, False),
    (400, "AuthorizationHeaderMalformed", ConfigError, False),
    (301, "PermanentRedirect", ConfigError, False),
    (400, "InvalidArgument", StorageError, False),
]


@pytest.mark.parametrize(("status", "code", "kind", "again"), one_of_each(CASES, lambda case: case[3]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, code, kind, again):
    for method, call in {"PUT": lambda: put(store, "x"), "GET": lambda: ops.read_bytes(store, "x")}.items():
        put(store, "x")
        proxy.forget()
        proxy.next(Answer(method, status, error_body(code) if code else b""))
        if again:
            call()
        else:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind or kind is StorageError
            assert caught.value.path == "x"
            assert not isinstance(caught.value.args[0], Exception)
            assert "Debug source" not in str(caught.value)
        assert proxy.count(method) == (2 if again else 1)


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    proxy.next(Answer("GET", 200, b"0123456789", {"ETag": '"e"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))


@pytest.mark.ci_only
def test_goal_27_a_page_that_a_request_is_sent_on_to_is_neither_an_object_nor_a_success(proxy, make, caplog):
    """obstore follows redirects, a 303 of a PUT with a GET; the SDK does not, and does the rest: that is logged."""
    page = Answer("", 200, b"<html>", {"ETag": '"5e5c0a0c-264"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"})
    for overwrite in (True, False):
        with Proxy(server("seaweedfs")["port"]) as stranger:
            there = {"Location": f"{stranger.url}/page"}
            store = make()
            proxy.next(Answer("PUT", 303, b"", there))
            stranger.next(page)
            put(store, "x", overwrite=overwrite)
            assert peek(store, "x") == b"data"
            assert len(stranger.requests) == 1
            store = make()
            plant(store, "x", b"data")
            proxy.next(Answer("GET", 302, b"", there))
            stranger.next(replace(page, status=206, headers={**page.headers, "Content-Range": "bytes 0-5/6"}))
            assert ops.read_bytes(store, "x") == b"data"
            proxy.forget()
            put(store, "x")
            assert by_obstore(proxy) == []
    assert [record.name for record in caplog.records].count(
        "omnistorage.backends.object_store.obstore"
    ) == 4  # once for each store


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
    proxy.next(fault)
    put(store, "x", BIG)
    assert peek(store, "x") == BIG
    assert proxy.count("PUT") == 2


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
    proxy.next(Unsent("PUT"))
    with pytest.raises((OutcomeUnknown, AlreadyExists)):
        put(store, "x", b"ours", overwrite=False)


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
    assert kind_of_client(pickle.loads(pickle.dumps(store))) == ("ObstoreS3Client", b"data")
    for method, kind in (("fork", "S3Client"), ("spawn", "ObstoreS3Client")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and newer: fork beside threads
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(kind_of_client, (store,)) == (kind, b"data")


def test_pain_11_the_client_follows_what_must_be_checked(monkeypatch):
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    local = {"endpoint_url": "http://127.0.0.1:9", "access_key": "a", "secret_key": "b"}
    for options, kind in (
        (local, ObstoreS3Client),
        ({**local, "anonymous": True, "access_key": None, "secret_key": None}, ObstoreS3Client),
        ({**local, "client": "sdk"}, S3Client),
        ({**local, "vendor": "rclone"}, S3Client),
        ({**local, "checksums": True}, S3Client),
        ({**local, "addressing": "virtual"}, S3Client),
        ({"access_key": "a", "secret_key": "b", "region": "eu-west-1"}, S3Client),
        ({"access_key": "a", "secret_key": "b", "region": "eu-west-1", "client": "obstore", "checksums": False},
         ObstoreS3Client),
    ):  # fmt: skip
        with S3Backend("bucket", **options) as store:
            assert type(store.client) is kind, options
    for wrong in (
        {"client": "boto"},
        {"client": "obstore"},
        {**local, "client": "obstore", "checksums": True},
        {**local, "client": "obstore", "addressing": "virtual"},
    ):
        with pytest.raises(ConfigError):
            S3Backend("bucket", **wrong)
    monkeypatch.setattr("omnistorage.backends.object_store.obstore.find_spec", lambda name: None)
    with S3Backend("bucket", **local, client="obstore") as store, pytest.raises(MissingExtra, match=r"\[accel\]"):
        store.exists("x")


def test_the_default_chain_lends_its_keys(monkeypatch, tmp_path):
    info = server("seaweedfs")
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id={info['access_key']}\naws_secret_access_key={info['secret_key']}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # is for others
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another's")
    options = {"endpoint_url": info["endpoint"], "profile": "mine", "client": "obstore", "vendor": "seaweedfs"}
    with S3Backend(info["bucket"], "chain", **options) as store:
        put(store, "x")
        assert ops.read_bytes(store, "x") == b"data"


def test_goal_41_secrets_are_shown_nowhere(caplog):
    caplog.set_level("DEBUG")
    secret = "canary-" + "secret"
    keys = {"access_key": "AK", "secret_key": secret, "session_token": secret}
    with S3Backend(
        "b", endpoint_url="http://127.0.0.1:9", policy=RequestPolicy(retries=0), client="obstore", **keys
    ) as s:
        with pytest.raises(BackendUnavailable) as failed:
            ops.read_bytes(s, "x")
        shown = [str(failed.value), repr(s), "".join(traceback.format_exception(failed.value))]
        assert not [text for text in shown if secret in text]
    assert not [record for record in caplog.records if record.name != "botocore" and secret in record.getMessage()]


def test_an_outage_is_refused_connections_and_those_did_nothing(proxy, make):
    store = make(policy=policy(retries=1))
    put(store, "x")
    proxy.__exit__()
    with pytest.raises(StorageError):
        ops.read_bytes(store, "x")  # the connection that was kept is noticed to be gone
    with pytest.raises(BackendUnavailable) as caught:
        put(store, "x", overwrite=False)
    assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(StorageError):
        store.open_writer("y", WriteOptions(overwrite=False)).close()


AWS = {"access_key": "a", "secret_key": "b", "region": "eu-west-1", "checksums": False}


@pytest.mark.ci_only
def test_it_does_what_the_sdk_was_told_whatever_the_environment_says(monkeypatch, proxy, make):
    """obstore reads variables of its own, which the SDK does not know."""
    with Proxy(server("moto")["port"]) as stranger:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": stranger.url, "AWS_ENDPOINT_URL": stranger.url, "AWS_SKIP_SIGNATURE": "true",
            "AWS_UNSIGNED_PAYLOAD": "true", "AWS_CONDITIONAL_PUT": "disabled", "AWS_S3_EXPRESS": "true",
            "AWS_REQUEST_PAYER": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        store = make()
        put(store, "x", overwrite=False)
        assert ops.read_bytes(store, "x") == b"data"
        assert len(by_obstore(proxy)) == 2
        assert stranger.connections == 0
        for head in proxy.heads:
            assert b"authorization: aws4-hmac-sha256" in head.lower()
            assert b"unsigned-payload" not in head.lower()
            assert b"x-amz-request-payer" not in head.lower()
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    assert type(make(client="auto").client) is S3Client


def test_certificates_of_ones_own_are_the_sdks(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    (tmp_path / "ca.pem").write_text("")
    with S3Backend("bucket", client="obstore", **AWS) as store, pytest.raises(ConfigError, match="ca_bundle"):
        store.client  # noqa: B018
    options = {**AWS, "endpoint_url": "https://127.0.0.1:9"}
    with S3Backend("bucket", **options) as store:
        assert type(store.client) is S3Client


def test_a_proxy_of_the_environment_is_the_sdks(monkeypatch, make):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert type(make(client="auto").client) is S3Client
    with pytest.raises(ConfigError):
        make(client="obstore").client  # noqa: B018
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert type(make(client="auto").client) is ObstoreS3Client


def test_metadata_never_becomes_a_header(store):
    metadata = {"contenttype": "v1", "cache_control": "v2", "plain": "v3"}
    put(store, "x", user_metadata=metadata, content_type="text/plain")
    assert (store.stat("x").metadata, store.stat("x").content_type) == (metadata, "text/plain")


def test_what_others_wrote_into_headers_can_be_read(proxy, store):
    put(store, "x")
    seen = {"ETag": '"8d777f385d3dfec8815d20f7496026dc"', "x-amz-meta-k": "ü".encode().decode("latin-1")}
    proxy.next(Answer("GET", 200, b"data", {**seen, "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}))
    assert ops.read_bytes(store, "x") == b"data"


def test_a_long_body_that_keeps_moving_is_no_silence(proxy, store):
    """obstore would count its read timeout from the beginning of the request."""
    put(store, "x", BIG)
    assert by_obstore(proxy) == []


def test_ranges_are_bounded_by_the_object_alone(store):
    put(store, "empty", b"")
    put(store, "x", b"12345")
    for options, data in (
        (ReadOptions(0, 5), b""), (ReadOptions(3, 1 << 40), b"45"), (ReadOptions(9, 2), b""),
    ):  # fmt: skip
        assert ops.read_bytes(store, "empty" if data == b"" else "x", options) == data
    assert store.read_ranges("empty", [(0, 5), (2, 2)]) == [b"", b""]


@pytest.mark.ci_only
def test_goal_26_a_connection_that_was_reset_may_have_brought_the_body(proxy, make):
    """ "kind: ConnectionReset" is not "kind: Connect"."""
    store = make(policy=policy(retries=0))
    proxy.next(Unsent("PUT", after=2))
    with pytest.raises(OutcomeUnknown):
        put(store, "x", overwrite=False)


FORKED = """
import os, sys
import obstore
from obstore.store import MemoryStore
import omnistorage
from omnistorage.backends.s3 import S3Backend
obstore.put(MemoryStore(), "x", b"1")  # the program's own use of it
if os.fork() == 0:
    store = S3Backend("b", endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")
    print(type(store.client).__name__, flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.ci_only
def test_pain_9_a_child_of_a_program_that_used_obstore_itself_has_the_sdks_client():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout.split()) == (0, ["S3Client", "0"])
