"""S3 when the network and the server misbehave: goals 24 to 29, through a proxy in front of SeaweedFS."""

import gc
import random
import threading
import tracemalloc
from datetime import timedelta

import pytest

from omnistorage import ops
from omnistorage.concurrency.cancellation import Clock, deadline
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
    WriterClosed,
)

from ..budget import pick
from ..servers import server
from ..servers.proxy import Answer, Fault, Flip, Lost, Proxy, Reset, Stall, Unsent, Without
from ..waiting import LIMIT
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked
from .test_s3 import fresh, plant, sdk

AT_ONCE = timedelta(seconds=-1)


class NoWait(Clock):
    """Notes the waits and does not wait."""

    def __init__(self):
        self.waits = []

    def wait(self, seconds, wake):
        self.waits.append(seconds)


def policy(**options):
    return RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1000), **options)


@pytest.fixture
def proxy():
    with Proxy(server("seaweedfs")["port"]) as proxy:
        yield proxy


@pytest.fixture
def make(proxy):
    made = []

    def make(**options):
        made.append(fresh("seaweedfs", endpoint=proxy.url, **{"policy": policy(), "read_timeout": 5, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(make):
    return make()


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def peek(store, path):
    try:
        return sdk("seaweedfs").get_object(Bucket=store.bucket, Key=store._prefix + path)["Body"].read()
    except sdk("seaweedfs").exceptions.NoSuchKey:
        return None


def error_body(code):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


BIG = random.Random(1).randbytes(3_000_000)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 1, 70_000, 2_999_999))
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, make, fault, after):
    store = make(read_timeout=silence(fault))
    plant(store, "x", BIG)
    proxy.forget()
    proxy.next(fault("GET", after))
    assert ops.read_bytes(store, "x") == BIG
    assert asked_again(proxy.count("GET"), fault)
    assert b"If-Match" in proxy.heads[1]


def test_a_range_that_breaks_off_stays_a_range(proxy, store):
    put(store, "x", BIG)
    proxy.next(Reset("GET", 1000), Reset("GET", 500))
    assert ops.read_bytes(store, "x", ReadOptions(100, 5000)) == BIG[100:5100]


def test_goal_29_a_download_taken_up_again_never_splices_two_versions(proxy, store):
    put(store, "x", BIG)
    with store.open_reader("x") as reader:
        proxy.next()
        head = reader.read(1000)
        put(store, "x", BIG[::-1])
        reader._first._body.interrupt()  # the connection breaks
        with pytest.raises(CorruptData, match="changed"):
            while reader.read(65536):
                pass
        with pytest.raises(CorruptData):
            reader.read(1)
    assert head == BIG[:1000]


def test_a_server_that_is_gone_is_unavailable_and_never_a_clean_end(proxy, store):
    put(store, "x", BIG)
    proxy.next(Reset("GET", after=1000))
    reader = store.open_reader("x")
    proxy.__exit__()
    with pytest.raises(BackendUnavailable):
        while reader.read(65536):
            pass
    reader.close()


def test_goal_28_one_flipped_bit_of_a_download_is_noticed(proxy, make):
    store = make(checksums=True)
    put(store, "x", BIG)
    for at in (0, 1_500_000, len(BIG) - 1):
        proxy.next(Flip("GET", at))
        with store.open_reader("x") as reader:
            for _ in range(2):
                with pytest.raises(CorruptData):
                    reader.read(-1)
    proxy.next(Reset("GET", after=5000))
    assert ops.read_bytes(store, "x") == BIG
    proxy.next(Reset("GET", after=5000), Flip("GET", 5000))
    with pytest.raises(CorruptData):
        ops.read_bytes(store, "x")


@pytest.mark.parametrize("size", [3_000_000, pytest.param(9_000_000, marks=pytest.mark.ci_only)])
def test_goal_28_one_flipped_bit_of_an_upload_is_noticed_and_sent_again(proxy, make, size):
    store, data = make(checksums=True), random.Random(2).randbytes(size)
    for at in (0, size // 3, size - 1):
        proxy.forget()
        proxy.next(Flip("PUT", at, up=True))
        put(store, "x", data)
        assert proxy.count("PUT") == (2 if size < store.part_size else 3)
        assert peek(store, "x") == data


# -- answers -----------------------------------------------------------------------------------------------------------

CASES = [
    (503, "SlowDown", BackendUnavailable, True),
    (503, "ServiceUnavailable", BackendUnavailable, True),
    (429, "TooManyRequests", BackendUnavailable, True),
    (500, "InternalError", BackendUnavailable, True),
    (502, "BadGateway", BackendUnavailable, True),
    (504, "GatewayTimeout", BackendUnavailable, True),
    (400, "RequestTimeout", BackendUnavailable, True),
    (409, "OperationAborted", BackendUnavailable, True),
    (409, "ConditionalRequestConflict", BackendUnavailable, True),
    (400, "BadDigest", CorruptData, True),
    (400, "XAmzContentSHA256Mismatch", CorruptData, True),
    (403, "AccessDenied", PermissionDenied, False),
    (403, "SignatureDoesNotMatch", PermissionDenied, False),
    (403, "InvalidAccessKeyId", PermissionDenied, False),
    (400, "ExpiredToken", PermissionDenied, False),
    (403, "RequestTimeTooSkewed", PermissionDenied, False),
    (401, "", PermissionDenied, False),
    (404, "NoSuchBucket", BucketNotFound, False),
    (404, "NoSuchKey", NotFound, False),
    (412, "PreconditionFailed", PreconditionFailed, False),
    (501, "NotImplemented", CapabilityNotSupported, False),
    (301, "PermanentRedirect", ConfigError, False),
    (400, "AuthorizationHeaderMalformed", ConfigError, False),
    (400, "InvalidArgument", StorageError, False),
    (400, "KeyTooLongError", StorageError, False),
]


@pytest.mark.parametrize(("status", "code", "kind", "again"), one_of_each(CASES, lambda case: case[2:]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, code, kind, again):
    calls = {
        "PUT": lambda: put(store, "x"),
        "GET": lambda: ops.read_bytes(store, "x"),
        "DELETE": lambda: store.delete("x"),
        "GET ": lambda: list(store.list()),
        "POST": lambda: list(store.delete_many(["x"])),
    }
    put(store, "x")
    for method, call in calls.items():
        put(store, "x")
        proxy.forget()
        proxy.next(Answer(method, status, error_body(code) if code else b""))
        if again:
            call()
            assert proxy.count(method) == 2, method
        else:
            with pytest.raises(kind) as caught:
                call()
            # Whatever the code, a listing that is not found is of a bucket that is not there.
            told = BucketNotFound if kind is NotFound and method == "GET " else kind
            assert type(caught.value) is told or kind is StorageError
            assert caught.value.path in ("x", ""), method
            assert proxy.count(method) == 1, method


def test_goal_24_retry_after_is_heeded(proxy, store):
    proxy.next(Answer("PUT", 429, error_body("TooManyRequests"), {"Retry-After": "7"}))
    put(store, "x")
    assert store._policy.clock.waits[-1] >= 7


@pytest.mark.parametrize(
    ("status", "body"), [(429, error_body("TooManyRequests")), (503, error_body("SlowDown")), (503, b"")]
)
@pytest.mark.parametrize("method", ["PUT", "GET"])
@pytest.mark.parametrize("client", ["sdk", "obstore"])
def test_retry_after_is_heeded_by_both_clients_and_never_for_hours(proxy, make, client, method, status, body):
    """obstore does not show the header: the SDK sees it with the next answer."""
    store = make(client=client)
    put(store, "x")
    call = {"PUT": lambda: put(store, "x"), "GET": lambda: ops.read_bytes(store, "x")}[method]
    proxy.next(*[Answer(method, status, body, {"Retry-After": "7"})] * 2)
    call()
    assert store._policy.clock.waits[-1] >= 7
    proxy.forget()
    proxy.next(*[Answer(method, status, body, {"Retry-After": "3600"})] * 9)
    with pytest.raises(StorageError):
        call()
    assert len(proxy.requests) == (1 if client == "sdk" else 2)
    assert max(store._policy.clock.waits) < 60
    proxy.forget()
    call()


def test_goal_24_an_outage_ends_in_our_error_after_the_tries_there_are(proxy, make):
    store = make(policy=policy(retries=2))
    proxy.next(*[Answer("PUT", 503, error_body("SlowDown"))] * 3)
    with pytest.raises(BackendUnavailable, match="SlowDown"):
        put(store, "x")
    assert proxy.count("PUT") == 3
    assert peek(store, "x") is None


@pytest.fixture
def prepared(store):
    """A writer whose parts have all arrived, and what is in them."""
    data = random.Random(3).randbytes(store.part_size + 1)
    writer = store.open_writer("x")
    writer.write(data)
    writer.prepare()
    yield writer, data
    writer.abort()


@pytest.mark.parametrize("code", ["InternalError", pytest.param("SlowDown", marks=pytest.mark.ci_only)])
def test_goal_27_an_upload_that_ends_with_an_error_under_200_has_not_ended(proxy, store, prepared, code):
    writer, data = prepared
    proxy.forget()
    proxy.next(Answer("POST", 200, error_body(code)))
    writer.close()
    assert proxy.count("POST") == 2
    assert peek(store, "x") == data


def test_goal_27_a_refusal_under_200_is_a_refusal(proxy, store, prepared):
    proxy.next(Answer("POST", 200, error_body("AccessDenied")))
    with pytest.raises(PermissionDenied):
        prepared[0].close()
    assert peek(store, "x") is None
    assert list(store.stale_uploads(older_than=AT_ONCE)) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        *(
            pytest.param(body, marks=pytest.mark.ci_only)
            for body in (b"<html>", b"<?xml version='1.0'?><Complete", b"<a/>")
        ),
    ],
)
def test_goal_27_an_end_of_an_upload_that_says_nothing_is_not_taken_for_success(proxy, store, prepared, body):
    writer, data = prepared
    proxy.forget()
    proxy.next(Answer("POST", 200, body))
    writer.close()
    assert proxy.count("POST") == 2
    assert peek(store, "x") == data


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_goal_27_an_answer_of_the_wrong_length_is_no_answer(proxy, store, method):
    put(store, "x", BIG)
    if method == "GET":
        proxy.next(Answer("GET", 200, b"short", {"ETag": '"another"'}, length=3_000_000))
        with pytest.raises(CorruptData, match="changed"):
            ops.read_bytes(store, "x")
    else:
        proxy.next(Reset("HEAD"))
        assert store.stat("x").size == len(BIG)


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    proxy.next(Answer("GET", 200, b"0123456789", {"ETag": '"e"'}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))


def test_goal_30_a_page_that_says_there_is_more_and_not_where_is_no_end(proxy, make):
    store = make(policy=policy(retries=0))
    page = b"<?xml version='1.0'?><ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    proxy.next(Answer("GET", 200, page))
    with pytest.raises(BackendUnavailable, match="goes on"):
        list(store.list())


def test_a_name_with_416_in_it_that_cannot_be_read_is_no_empty_range(proxy, make):
    store = make(policy=policy(retries=0), read_timeout=0.3)
    put(store, "logs/416.InvalidRange", b"12345")
    proxy.next(Stall("GET"), Reset("GET"))
    for options in (ReadOptions(), ReadOptions(1)):
        with pytest.raises(BackendUnavailable):
            ops.read_bytes(store, "logs/416.InvalidRange", options)


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_goal_26_a_conflict_under_way_did_nothing(proxy, store, code):
    put(store, "x", b"theirs")
    proxy.next(Answer("PUT", 409, error_body(code)))
    with pytest.raises(AlreadyExists):
        put(store, "x", b"ours", overwrite=False)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_goal_26_a_gateway_that_names_a_time_has_not_said_that_nothing_was_done(proxy, store, status):
    """The object was stored all the same: told by its write id."""
    proxy.next(Lost("PUT"), Answer("PUT", status, b"", {"Retry-After": "0"}))
    put(store, "x", overwrite=False)
    assert peek(store, "x") == b"data"


def test_goal_26_a_lost_answer_before_the_deadline_is_unknown(proxy, store):
    clock = store._policy.clock
    proxy.next(Lost("PUT"))
    with deadline(60, clock):
        clock.wait = lambda seconds, wake: setattr(clock, "now", lambda: 1e12)
        with pytest.raises(OutcomeUnknown):
            put(store, "x")


def test_an_abort_ends_the_attempts_of_parts_and_of_the_publication(proxy, make):
    store = make()
    writer = store.open_writer("x")
    writer.write(b"1" * (store.part_size + 1))
    writer._parts.settle()
    store._policy.clock.wait = lambda seconds, wake: writer.abort()
    proxy.forget()
    proxy.next(*[Answer("PUT", 500, error_body("InternalError"))] * 5)
    with pytest.raises(StorageError):
        writer.close()
    assert proxy.count("PUT") == 1
    small = store.open_writer("y")
    small.write(b"data")
    store._policy.clock.wait = lambda seconds, wake: small.abort()
    proxy.forget()
    proxy.next(Answer("PUT", 503, error_body("SlowDown")))
    with pytest.raises(WriterClosed):
        small.close()
    assert proxy.count("PUT") == 1
    assert peek(store, "x") is peek(store, "y") is None
    assert list(store.stale_uploads(older_than=AT_ONCE)) == []


def test_a_reader_closed_by_another_thread_asks_for_nothing_more(proxy, store):
    put(store, "x", BIG)
    proxy.next(Stall("GET", after=1000))
    reader = store.open_reader("x")
    assert reader.read(1000)
    close_when_blocked(proxy, reader)
    with pytest.raises(ReaderClosed):
        while reader.read(65536):
            pass
    assert proxy.count("GET") == 1


@pytest.mark.ci_only
def test_many_small_writes_take_no_more_memory_than_one_large_one(store):
    tracemalloc.start()
    writer = store.open_writer("x")
    for _ in range(200_000):
        writer.write(b"1234")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.close()
    assert peak < 4_000_000
    assert peek(store, "x") == b"1234" * 200_000


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Lost("PUT"), Reset("PUT"), Unsent("PUT", after=1000), Unsent("PUT")])
def test_a_put_whose_answer_is_lost_is_sent_again(proxy, store, fault):
    proxy.next(fault)
    put(store, "x", BIG)
    assert peek(store, "x") == BIG
    assert proxy.count("PUT") == 2


def test_goal_26_a_created_object_whose_answer_was_lost_is_no_conflict(proxy, store):
    proxy.next(Lost("PUT"))
    info = put(store, "x", overwrite=False)
    assert info.etag == store.stat("x").etag
    assert store.stat("x").metadata == {}
    with pytest.raises(AlreadyExists):
        put(store, "x", b"other", overwrite=False)
    proxy.next(Lost("PUT"))
    put(store, "x", b"replaced", if_match=info.etag)
    assert peek(store, "x") == b"replaced"


def test_goal_26_a_conflict_behind_a_lost_answer_is_unknown_or_a_conflict_never_a_success(proxy, store):
    put(store, "x", b"theirs")
    proxy.next(Unsent("PUT"))
    with pytest.raises((OutcomeUnknown, AlreadyExists)):
        put(store, "x", b"ours", overwrite=False)
    assert peek(store, "x") == b"theirs"


def test_goal_26_when_nobody_answers_any_more_the_outcome_is_unknown(proxy, make):
    store = make(policy=policy(retries=1))
    proxy.next(Lost("PUT"), Answer("PUT", 503, error_body("SlowDown")))
    with pytest.raises(OutcomeUnknown):
        put(store, "x", overwrite=False)
    assert peek(store, "x") == b"data"


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.ci_only), {"overwrite": False}])
def test_goal_26_an_upload_whose_last_answer_was_lost_is_found(proxy, make, options):
    store = make(conditional_writes=True)
    data = random.Random(5).randbytes(store.part_size + 1)
    writer = store.open_writer("x", WriteOptions(**options))
    writer.write(data)
    writer.prepare()
    proxy.next(Lost("POST"))
    info = writer.close()
    assert (info.size, info.etag) == (len(data), store.stat("x").etag)
    assert peek(store, "x") == data
    assert list(store.stale_uploads(older_than=AT_ONCE)) == []


def test_goal_26_random_faults_on_racing_creators_leave_one_winner_and_no_false_conflict(proxy, make):
    endless = RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1 << 30))
    chance, stores = random.Random(26), [make(policy=endless) for _ in range(3)]
    for store in stores:
        store._prefix = stores[0]._prefix
    for number in range(pick(default=2, ci=100, soak=1500)):
        outcomes = {}
        proxy.next(*[chance.choice([Lost, Unsent, Reset, Fault])("PUT") for _ in range(4)])

        def run(at, number=number, outcomes=outcomes):
            try:
                put(stores[at], f"k{number}", b"%d" % at, overwrite=False)
                outcomes[at] = "won"
            except AlreadyExists:
                outcomes[at] = "lost"
            except OutcomeUnknown:
                outcomes[at] = "unknown"

        threads = [threading.Thread(target=run, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        proxy.forget()
        there = int(peek(stores[0], f"k{number}"))
        assert outcomes[there] in ("won", "unknown"), "never a conflict with oneself"
        assert [at for at, what in outcomes.items() if what == "won"] in ([], [there])


def test_a_part_that_fails_for_good_fails_the_write_and_leaves_no_upload(proxy, store):
    proxy.next(Answer("partNumber=2", 403, error_body("AccessDenied")))
    with pytest.raises(PermissionDenied), store.open_writer("x") as writer:
        for _ in range(40):
            writer.write(b"1" * (store.part_size // 2))
    assert peek(store, "x") is None
    assert list(store.stale_uploads(older_than=AT_ONCE)) == []


def drop_an_upload(store):
    writer = store.open_writer("x")
    writer.write(b"1" * (store.part_size + 1))
    writer._parts.settle()
    assert list(store.stale_uploads(older_than=AT_ONCE)) == [], "a live one is not stale"
    with pytest.warns(ResourceWarning, match="dropped"):
        writer = None
    gc.collect()


def test_goal_8_a_dropped_upload_is_aborted_with_the_next_request(store):
    drop_an_upload(store)
    assert not store.exists("x")
    found = sdk("seaweedfs").list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix)
    assert found.get("Uploads", []) == []


def test_goal_8_a_dropped_upload_is_aborted_when_the_backend_is_closed(make):
    store = make()
    drop_an_upload(store)
    store.close()
    found = sdk("seaweedfs").list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix)
    assert found.get("Uploads", []) == []


def test_stale_uploads_are_those_that_nobody_touches(make):
    store, other = make(), make()
    other._prefix = store._prefix
    key = f"{store._prefix}folder/x"
    left = sdk("seaweedfs").create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"]
    sdk("seaweedfs").upload_part(Bucket=store.bucket, Key=key, UploadId=left, PartNumber=1, Body=b"12345")
    assert list(store.stale_uploads()) == [], "younger than an hour"
    assert [(info.path, info.size) for info in store.stale_uploads(older_than=AT_ONCE)] == [("folder/x", 5)]
    assert list(store.stale_uploads("other", older_than=AT_ONCE)) == []
    assert store.remove_stale_uploads("folder", older_than=AT_ONCE) == 1
    assert list(store.stale_uploads(older_than=AT_ONCE)) == []


def test_a_part_whose_whole_is_not_told_is_not_taken_for_it(proxy, store):
    """A 206 without Content-Range: the length of the answer is that of the part alone."""
    put(store, "x", b"0123456789")
    proxy.forget()
    proxy.next(Answer("GET", 206, b"01234", {"ETag": '"e"'}))
    assert ops.read_bytes(store, "x") == b"0123456789"
    assert proxy.count("GET") == 2


def test_a_server_that_ignores_the_range_of_the_first_request_gives_all(proxy, store):
    put(store, "x", b"0123456789")
    proxy.forget()
    proxy.next(Answer("GET", 200, b"0123456789", {"ETag": '"e"'}))
    assert ops.read_bytes(store, "x") == b"0123456789"
    assert proxy.count("GET") == 1


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), *(pytest.param(*of, marks=pytest.mark.ci_only) for of in ((1, None), (5, 11 << 20)))],
)
def test_bodies_without_a_length_are_read_to_the_end(proxy, make, offset, length):
    """Proxies send a body on in chunks: how long it is then stands in Content-Range alone."""
    store = make(part_size=5 << 20)
    data = random.Random(7).randbytes(12 << 20)
    plant(store, "x", data)
    proxy.next(*[Without("GET", ("content-length",))] * 12)
    end = None if length is None else offset + length
    assert ops.read_bytes(store, "x", ReadOptions(offset, length)) == data[offset:end]
    assert store.open_reader("x").info.size == len(data)


def test_a_listing_cut_short_by_a_login_page_raises(proxy, make):
    store = make(policy=policy(retries=1))
    for name in ("a", "b", "c"):
        plant(store, name, b"x")
    first = sdk("seaweedfs").list_objects_v2
    found = first(Bucket=store.bucket, Prefix=store._prefix, MaxKeys=2)
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{found['NextContinuationToken']}"
    page += "</NextContinuationToken></ListBucketResult>"
    proxy.next(Answer("GET", 200, page.encode()), *[Answer("continuation-token", 200, b"<html>login</html>")] * 2)
    with pytest.raises(BackendUnavailable):
        list(store.list())


def test_a_write_answered_without_an_etag_is_not_published(proxy, make):
    store = make(policy=policy(retries=1))
    proxy.next(*[Answer("PUT", 200, b"<html>login</html>")] * 2)
    with pytest.raises(OutcomeUnknown):
        put(store, "x")
    assert peek(store, "x") is None


@pytest.mark.parametrize("client", ["sdk", "obstore"])
def test_a_redirect_sends_one_request_and_ends_in_our_error(proxy, make, client):
    store = make(client=client)
    put(store, "x")
    proxy.forget()
    proxy.next(*[Answer("", 302, b"", {"Location": proxy.url + "/elsewhere"})] * 100)
    with pytest.raises(StorageError):
        ops.read_bytes(store, "x")
    assert len(proxy.requests) <= 12


def test_a_timeout_of_the_store_is_tried_again(proxy, store):
    proxy.next(Answer("PUT", 408))
    put(store, "x")
    assert proxy.count("PUT") == 2


def test_a_lost_answer_to_a_conditional_delete_is_no_conflict(proxy, store):
    info = put(store, "x")
    proxy.next(Lost("DELETE"))
    assert store.delete("x", if_match=info.etag) is None
    assert peek(store, "x") is None
    put(store, "a")
    proxy.next(Lost("DELETE"))
    store.move("a", "b")
    assert (peek(store, "a"), peek(store, "b")) == (None, b"data")
    with pytest.raises((NotFound, PreconditionFailed)):
        store.delete("x", if_match=info.etag)


def test_a_conditional_delete_that_is_lost_and_refused_is_unknown(proxy, store):
    info = put(store, "x")
    proxy.next(Answer("DELETE", 500), Answer("DELETE", 412, error_body("PreconditionFailed")))
    with pytest.raises(OutcomeUnknown):
        store.delete("x", if_match=info.etag)


@pytest.mark.parametrize("value", [" x", "x ", "  ", ""])
def test_metadata_that_the_store_would_change_is_refused(store, value):
    put(store, "x")
    with pytest.raises(ConfigError):
        put(store, "y", user_metadata={"k": value})
    with pytest.raises(ConfigError):
        store.copy("x", "y", CopyOptions(user_metadata={"k": value}))


def test_a_body_too_long_for_its_condition_is_refused_before_it_is_written(store):
    with pytest.raises(CapabilityNotSupported):
        store.open_writer("x", WriteOptions(overwrite=False, size=store.part_size + 1))
    store.open_writer("x", WriteOptions(overwrite=False, size=store.part_size)).abort()
