"""Azure through obstore: the kit, what it does itself, what it leaves to the SDK, and the same promises when things go
wrong."""

import multiprocessing
import pickle
import random
import threading
import time
import warnings
from dataclasses import replace

import pytest

from omnistorage import BackendConfig, open_backend, ops
from omnistorage.backends.azure import AzureBackend
from omnistorage.backends.azure.client import AzureClient
from omnistorage.backends.azure.obstore import ObstoreAzureClient
from omnistorage.core import ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)
from omnistorage.testing import BackendTests, backend_machine

from ..budget import pick
from ..servers import server
from ..servers.proxy import Answer, Lost, Proxy, Reset, Stall, Unsent
from ..waiting import LIMIT
from .azure_places import Token, fresh, marked, peek, plant, via
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked
from .test_azure_faults import BIG, CASES, answer, policy, put


@pytest.mark.ci_only
class TestAzuriteObstore(BackendTests):
    def make(self):
        return fresh(client="obstore")

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)


def without_create():
    """As in ``test_azure.py``: Azurite takes blocks that nobody committed for a blob."""
    backend = fresh(client="obstore")
    backend.features = replace(backend.features, create_only=False)
    delete = backend._delete

    def quiet(path, if_match):
        delete(path, if_match)

    backend._delete = quiet
    return backend


STEPS = pick(default=20, ci=500, soak=50_000)
LENGTH = min(STEPS, 50)
TestGoal32AzuriteObstore = backend_machine(without_create, steps=STEPS, length=LENGTH, peek=peek)


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


def by_obstore(proxy):
    """The requests that obstore has sent."""
    return [line for line, head in zip(proxy.requests, proxy.heads, strict=True) if b"object_store/" in head]


# -- who does what -----------------------------------------------------------------------------------------------------


def test_reads_and_small_writes_are_obstores_and_cost_one_request(proxy, store):
    assert type(store.client) is ObstoreAzureClient
    info = put(store, "a", user_metadata={"k": "v"}, content_type="text/x")
    with store.open_reader("a") as reader:
        assert reader.read(-1) == b"data"
        told = store.stat("a")
        assert reader.info._replace(hashes=None) == told._replace(hashes=None)
    assert (info.etag, info.version, told.metadata, told.content_type) == (told.etag, None, {"k": "v"}, "text/x")
    proxy.forget()
    assert ops.read_bytes(store, "a", ReadOptions(1, 2)) == b"at"
    assert ops.read_bytes(store, "a", ReadOptions(if_match=info.etag)) == b"data"
    put(store, "new", overwrite=False)
    put(store, "new", b"again", if_match=store.stat("new").etag)
    assert len(by_obstore(proxy)) == len(proxy.requests) - 1 == 4
    proxy.forget()
    assert [info.path for info in store.list()] == ["a", "new"]
    store.copy("a", "b")
    put(store, "cool", extra={"azure.access_tier": "Cool"})
    put(store, "middling", BIG)
    put(store, "long", b"1" * (store.part_size + 1))
    assert by_obstore(proxy) == []


@pytest.mark.ci_only
def test_a_key_that_obstore_would_change_goes_through_the_sdk(proxy, store):
    for key in ("a//b", "x\u200by", "t\u00a0"):
        plant(store, key, key.encode())
        assert ops.read_bytes(store, key) == key.encode()
        if "//" not in key:
            put(store, key, b"new")
            assert peek(store, key) == b"new"
    assert by_obstore(proxy) == []
    for key in ("%2F", "ü/ñ b", "#q?x=1&y", "a+b", "100%", "~a'b(c)*", "=;,@:", '!$^`{}|<>[]"', "a..b", "..."):
        put(store, key, key.encode())
        assert ops.read_bytes(store, key) == key.encode()
        assert peek(store, key) == key.encode()
    assert len(by_obstore(proxy)) == 20


def test_metadata_never_becomes_a_header(store):
    metadata = {"contenttype": "v1", "cache_control": "v2", "plain": "v3"}
    put(store, "x", user_metadata=metadata, content_type="text/plain")
    assert (store.stat("x").metadata, store.stat("x").content_type) == (metadata, "text/plain")


def test_what_others_wrote_into_headers_can_be_read(proxy, store):
    put(store, "x")
    seen = {"ETag": '"0x8D"', "x-ms-meta-k": "ü".encode().decode("latin-1")}
    proxy.next(marked("GET", 200, b"data", {**seen, "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}))
    assert ops.read_bytes(store, "x") == b"data"


def test_ranges_are_bounded_by_the_object_alone(store):
    put(store, "empty", b"")
    put(store, "x", b"12345")
    for options, data in (
        (ReadOptions(0, 5), b""), (ReadOptions(3, 1 << 40), b"45"), (ReadOptions(9, 2), b""), (ReadOptions(5), b""),
    ):  # fmt: skip
        assert ops.read_bytes(store, "empty" if data == b"" else "x", options) == data
    assert store.read_ranges("empty", [(0, 5), (2, 2)]) == [b"", b""]


@pytest.fixture
def no_certificates(monkeypatch):
    """The machine's own say nothing here."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_pain_11_the_client_follows_what_must_be_checked(monkeypatch, no_certificates):
    local = {"endpoint_url": "http://127.0.0.1:9/me", "account_key": "c2VjcmV0"}
    for options, kind in (
        (local, ObstoreAzureClient),
        ({**local, "account_key": None, "anonymous": True}, ObstoreAzureClient),
        ({**local, "client": "sdk"}, AzureClient),
        ({**local, "checksums": True}, AzureClient),
        ({**local, "hierarchical": True}, AzureClient),
        ({**local, "api_version": "2021-12-02"}, AzureClient),
        ({**local, "account_key": None, "sas_token": "sig=1"}, AzureClient),
        ({"endpoint_url": "https://127.0.0.1:9/me", "credential": Token()}, AzureClient),
        ({"endpoint_url": "https://127.0.0.1:9/me", "credential": Token(), "client": "obstore"}, ObstoreAzureClient),
        ({"account_name": "me", "account_key": "c2VjcmV0"}, AzureClient),
        ({"account_name": "me", "account_key": "c2VjcmV0", "client": "obstore", "checksums": False},
         ObstoreAzureClient),
    ):  # fmt: skip
        with AzureBackend("box", **options) as store:
            assert type(store.client) is kind, options
    for wrong, hint in (
        ({**local, "client": "rust"}, "auto, sdk or obstore"),
        ({"account_name": "me", "account_key": "c2VjcmV0", "client": "obstore"}, "checksums=False"),
        ({**local, "client": "obstore", "checksums": True}, "checksums=False"),
        ({**local, "client": "obstore", "hierarchical": True}, "client='sdk'"),
        ({**local, "client": "obstore", "api_version": "2021-12-02"}, "client='sdk'"),
        ({**local, "client": "obstore", "account_key": None, "sas_token": "canary"}, "client='sdk'"),
        ({**local, "client": "obstore", "account_key": None, "credential": object()}, "client='sdk'"),
    ):
        with pytest.raises(ConfigError, match=hint) as caught:
            AzureBackend("box", **wrong)
        assert "canary" not in str(caught.value)
    monkeypatch.setattr("omnistorage.backends.object_store.obstore.find_spec", lambda name: None)
    with AzureBackend("box", **local, client="obstore") as store, pytest.raises(MissingExtra, match=r"\[accel\]"):
        store.exists("x")
    with AzureBackend("box", **local) as store:
        assert type(store.client) is AzureClient


def test_a_url_and_a_configuration_name_the_client():
    where = "endpoint_url=http%3A%2F%2F127.0.0.1%3A9%2Fme&anonymous=true"
    with open_backend(f"az://box/p?client=obstore&{where}") as store:
        assert type(store.client) is ObstoreAzureClient
    with open_backend(f"az://box/p?client=sdk&{where}") as store:
        assert type(store.client) is AzureClient
    with open_backend(BackendConfig("azure", {"container": "box", "account_name": "me", "client": "sdk"})) as store:
        assert store._options["client"] == "sdk"
    for wrong in ("az://box/p?client=boto&" + where, "az://box/p?account_name=me&anonymous=true&client=obstore"):
        with pytest.raises(ConfigError):
            open_backend(wrong)
    with pytest.raises(ConfigError):
        open_backend(BackendConfig("azure", {"container": "box", "account_name": "me", "client": 1}))


# -- when things go wrong ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("status", "code", "kind", "again"), one_of_each(CASES, lambda case: case[3]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, code, kind, again):
    for method, call in {"PUT": lambda: put(store, "x"), "GET": lambda: ops.read_bytes(store, "x")}.items():
        put(store, "x")
        proxy.forget()
        proxy.next(answer(method, status, code))
        if again:
            call()
        else:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert caught.value.path == "x"
            assert "Debug source" not in str(caught.value)
        assert proxy.count(method) == (2 if again else 1)
        by_sdk = again and status in (429, 503)  # which sees how long the store wants to be left alone
        assert len(by_obstore(proxy)) == len(proxy.requests) - by_sdk


def test_rs_7_7_a_missing_container_is_not_found(store):
    with AzureBackend(**{**store._options, "container": "no-such-container"}) as gone:
        for call in (
            lambda: gone.open_reader("x"),
            lambda: gone.open_writer("x").close(),
            lambda: put(gone, "x", overwrite=False),
            lambda: put(gone, "x", if_match="y"),
        ):
            with pytest.raises(NotFound, match="bucket"):
                call()
    with pytest.raises(NotFound, match="object"):
        ops.read_bytes(store, "nothing")


PAGE = {"ETag": '"5e5c0a0c-264"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}


@pytest.mark.ci_only
def test_goal_27_a_page_that_a_request_is_sent_on_to_is_neither_an_object_nor_a_success(proxy, make):
    """obstore follows redirects, a 303 of a PUT with a GET; the SDK does not."""
    for overwrite in (True, False):
        with Proxy(server("azurite")["port"]) as stranger:
            there = {"Location": f"{stranger.url}/page"}
            store = make()
            proxy.next(Answer("PUT", 303, b"", there))
            stranger.next(marked("GET", 200, b"<html>", PAGE))
            put(store, "x", overwrite=overwrite)
            assert peek(store, "x") == b"data"
            assert len(stranger.requests) == 1
            assert b"authorization" not in stranger.heads[0].lower()
            store = make()
            plant(store, "x", b"data")
            proxy.next(Answer("GET", 302, b"", there))
            stranger.next(marked("GET", 200, b"<html>", PAGE))
            assert ops.read_bytes(store, "x") == b"data"
            proxy.forget()
            put(store, "x")
            assert by_obstore(proxy) == []


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    told = {"ETag": '"0x8D"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT"}
    proxy.next(marked("GET", 200, b"0123456789", told))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))
    proxy.next(marked("GET", 206, b"0123", {**told, "Content-Range": "bytes 0-3/10"}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))
    etag = {"ETag": f'"{store.stat("x").etag}"'}
    for body in (b"4", b"456789"):  # fewer or more than the range that it names
        proxy.next(marked("GET", 206, body, {**told, **etag, "Content-Range": "bytes 4-6/10"}))
        assert ops.read_bytes(store, "x", ReadOptions(4, 3)) == b"456"


def test_goal_27_a_write_whose_answer_says_nothing_is_not_taken_for_success(proxy, store):
    proxy.next(marked("PUT", 201))
    put(store, "x")
    assert peek(store, "x") == b"data"


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
    proxy.next(Unsent("PUT"))
    with pytest.raises((OutcomeUnknown, AlreadyExists)):
        put(store, "x", b"ours", overwrite=False)


@pytest.mark.ci_only
def test_goal_26_a_connection_that_was_reset_may_have_brought_the_body(proxy, make):
    store = make(policy=policy(retries=0))
    proxy.next(Unsent("PUT", after=2))
    with pytest.raises(OutcomeUnknown):
        put(store, "x", overwrite=False)


def test_an_outage_is_refused_connections_and_those_did_nothing(proxy, make):
    store = make(policy=policy(retries=1))  # without a connection yet, whose end could come behind a request
    proxy.__exit__()
    with pytest.raises(BackendUnavailable) as caught:
        put(store, "x", overwrite=False)
    assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(StorageError):
        store.open_writer("y", WriteOptions(overwrite=False)).close()


@pytest.mark.ci_only
def test_blocks_that_nobody_committed_are_no_object(store):
    writer = store.open_writer("x")
    writer.write(b"1" * (store.part_size + 1))
    writer.prepare()
    writer.abort()
    put(store, "x", overwrite=False)
    assert peek(store, "x") == b"data"
    with pytest.raises(AlreadyExists):
        put(store, "x", b"other", overwrite=False)


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
    assert kind_of_client(pickle.loads(pickle.dumps(store))) == ("ObstoreAzureClient", b"data")
    for method, kind in (("fork", "AzureClient"), ("spawn", "ObstoreAzureClient")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and newer: fork beside threads
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(kind_of_client, (store,)) == (kind, b"data")


def test_a_backslash_in_a_key_is_no_slash(store):
    put(store, "d/e")
    for key in ("d\\e", "\\d/e"):
        with pytest.raises(InvalidPath):
            ops.read_bytes(store, key)
