"""Azure when the network and the server misbehave: goals 24 to 29, through a proxy in front of Azurite."""

import gc
import random
import threading
import tracemalloc

import pytest

from omnistorage import ops
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    CorruptData,
    InvalidPath,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
    WriterClosed,
)

from ..budget import pick
from ..servers import server
from ..servers.proxy import Answer, Fault, Flip, Lost, Proxy, Reset, Stall, Unsent
from ..waiting import LIMIT
from .azure_places import fresh, marked, peek, plant, via
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked


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
    with Proxy(server("azurite")["port"]) as proxy:
        yield proxy


@pytest.fixture
def make(proxy):
    made = []

    def make(**options):
        made.append(fresh(endpoint=via(proxy), **{"policy": policy(), "read_timeout": 5, **options}))
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


def answer(method, status, code="", **headers):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    return Answer(method, status, body, {**({"x-ms-error-code": code} if code else {}), **headers})


BIG = random.Random(1).randbytes(3_000_000)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 1, 70_000, 2_999_999))
def test_rs_7_1_5_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, make, fault, after):
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
    store = make(checksums=True, part_size=1 << 20)
    for data in (BIG[:1_000_000], BIG):  # one body, and blocks
        put(store, "x", data)
        for at in (0, len(data) // 2, len(data) - 1):
            proxy.next(Flip("GET", at))
            with store.open_reader("x") as reader:
                for _ in range(2):
                    with pytest.raises(CorruptData):
                        reader.read(-1)
        proxy.next(Reset("GET", after=5000))
        assert ops.read_bytes(store, "x") == data
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
        assert proxy.count("PUT") == (2 if size < store.part_size else 4)
        assert peek(store, "x") == data


# -- answers -----------------------------------------------------------------------------------------------------------

CASES = [
    (503, "ServerBusy", BackendUnavailable, True),
    (503, "", BackendUnavailable, True),
    (429, "TooManyRequests", BackendUnavailable, True),
    (500, "InternalError", BackendUnavailable, True),
    (500, "OperationTimedOut", BackendUnavailable, True),
    (502, "", BackendUnavailable, True),
    (504, "GatewayTimeout", BackendUnavailable, True),
    (408, "RequestTimeout", BackendUnavailable, True),
    (409, "PendingCopyOperation", BackendUnavailable, True),
    (409, "ContainerBeingDeleted", BackendUnavailable, True),
    (400, "Md5Mismatch", CorruptData, True),
    (403, "AuthenticationFailed", PermissionDenied, False),
    (403, "AuthorizationPermissionMismatch", PermissionDenied, False),
    (403, "", PermissionDenied, False),
    (401, "NoAuthenticationInformation", PermissionDenied, False),
    (400, "InvalidAuthenticationInfo", PermissionDenied, False),
    (409, "BlobImmutableDueToPolicy", PermissionDenied, False),
    (404, "ContainerNotFound", BucketNotFound, False),
    (412, "ConditionNotMet", PreconditionFailed, False),
    (412, "LeaseIdMissing", PreconditionFailed, False),
    (409, "ResourceTypeMismatch", InvalidPath, False),
    (400, "InvalidUri", InvalidPath, False),
    (501, "", CapabilityNotSupported, False),
    (400, "InvalidInput", StorageError, False),
    (409, "SnapshotOperationRateExceeded", StorageError, False),
]


@pytest.mark.parametrize(("status", "code", "kind", "again"), one_of_each(CASES, lambda case: case[2:]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, code, kind, again):
    calls = {
        "PUT": lambda: put(store, "x"),
        "GET": lambda: ops.read_bytes(store, "x"),
        "HEAD": lambda: store.stat("x"),
        "DELETE": lambda: store.delete("x"),
        "GET ": lambda: list(store.list()),
        "POST": lambda: list(store.delete_many(["x"])),
        "PUT ": lambda: store.copy("x", "y"),
    }
    for method, call in calls.items():
        put(store, "x")
        proxy.forget()
        proxy.next(answer(method, status, code))
        if again:
            call()
            assert proxy.count(method) == 2, method
        else:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind, method
            assert caught.value.path in ("x", ""), method
            assert proxy.count(method) == 1, method


def test_goal_24_retry_after_is_heeded(proxy, store):
    proxy.next(answer("PUT", 429, "TooManyRequests", **{"Retry-After": "7"}))
    put(store, "x")
    assert store._policy.clock.waits[-1] >= 7
    proxy.next(answer("POST", 503, "ServerBusy", **{"Retry-After": "9"}))
    list(store.delete_many(["x"]))
    assert store._policy.clock.waits[-1] >= 9


def test_goal_24_an_outage_ends_in_our_error_after_the_tries_there_are(proxy, make):
    store = make(policy=policy(retries=2))
    proxy.next(*[answer("PUT", 503, "ServerBusy")] * 3)
    with pytest.raises(BackendUnavailable, match="ServerBusy"):
        put(store, "x")
    assert proxy.count("PUT") == 3
    assert peek(store, "x") is None


def test_goal_27_a_write_whose_answer_says_nothing_is_not_taken_for_success(proxy, store):
    proxy.next(marked("PUT", 201))
    put(store, "x")
    assert peek(store, "x") == b"data"
    writer = store.open_writer("long")
    writer.write(BIG)
    writer.prepare()
    proxy.next(marked("comp=blocklist", 201))
    writer.close()
    assert peek(store, "long") == BIG


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_goal_27_an_answer_of_the_wrong_length_is_no_answer(proxy, store, method):
    put(store, "x", BIG)
    if method == "GET":
        proxy.next(marked("GET", 200, b"short", {"ETag": '"another"'}, length=3_000_000))
        with pytest.raises(CorruptData, match="changed"):
            ops.read_bytes(store, "x")
    else:
        proxy.next(Reset("HEAD"))
        assert store.stat("x").size == len(BIG)


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    proxy.next(marked("GET", 200, b"0123456789", {"ETag": '"e"'}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))


@pytest.mark.parametrize("body", [b"", b"<html>", b"<a/>", b"<EnumerationResults><Blobs/></EnumerationResults>"])
def test_goal_30_a_page_that_says_nothing_is_no_end_of_a_listing(proxy, store, body):
    put(store, "x")
    proxy.forget()
    proxy.next(marked("comp=list", 200, body))
    assert [info.path for info in store.list()] == ["x"]
    assert proxy.count("comp=list") == 2


def test_goal_30_a_page_that_comes_again_is_no_endless_listing(proxy, store):
    page = b"<EnumerationResults><Blobs/><NextMarker>m</NextMarker></EnumerationResults>"
    proxy.next(marked("comp=list", 200, page), marked("comp=list", 200, page))
    with pytest.raises(StorageError, match="repeats"):
        list(store.list())


def test_a_batch_that_answers_for_too_few_is_not_taken_for_done(proxy, make):
    store = make(policy=policy(retries=0))
    part = b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n\r\n--b--\r\n"
    proxy.next(marked("POST", 202, part, {"Content-Type": "multipart/mixed; boundary=b"}))
    with pytest.raises(BackendUnavailable, match="1 answers came for 2"):
        list(store.delete_many(["x", "y"]))


def test_one_that_cannot_be_deleted_is_told_by_name(proxy, store):
    from .azure_places import sdk

    put(store, "x")
    put(store, "y")
    lease = sdk().get_blob_client(store._prefix + "x").acquire_lease()
    found = dict(store.delete_many(["x", "y", "z"]))
    lease.release()
    assert isinstance(found["x"], PreconditionFailed)
    assert (found["x"].path, found["y"], found["z"]) == ("x", None, None)
    assert [info.path for info in store.list()] == ["x"]


# -- lost answers ------------------------------------------------------------------------------------------------------


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
    proxy.next(Lost("PUT"), answer("PUT", 503, "ServerBusy"))
    with pytest.raises(OutcomeUnknown):
        put(store, "x", overwrite=False)
    assert peek(store, "x") == b"data"


@pytest.mark.parametrize("options", [{}, {"overwrite": False}])
def test_goal_26_a_block_list_whose_answer_was_lost_is_found(proxy, store, options):
    data = random.Random(5).randbytes(store.part_size + 1)
    writer = store.open_writer("x", WriteOptions(**options))
    writer.write(data)
    writer.prepare()
    proxy.next(Lost("comp=blocklist"))
    info = writer.close()
    assert (info.size, info.etag) == (len(data), store.stat("x").etag)
    assert peek(store, "x") == data


def test_goal_26_a_block_list_whose_answer_was_lost_and_that_was_overwritten_is_unknown(proxy, store):
    writer = store.open_writer("x")
    writer.write(BIG)
    writer.prepare()
    store._policy.clock.wait = lambda seconds, wake: put(store, "x", b"theirs")
    proxy.next(Lost("comp=blocklist"))
    with pytest.raises(OutcomeUnknown):
        writer.close()
    assert peek(store, "x") == b"theirs"


def test_goal_26_a_deletion_whose_answer_was_lost_is_no_conflict(proxy, store):
    etag = put(store, "x").etag
    proxy.next(Lost("DELETE"))
    assert store.delete("x", if_match=etag) is None
    assert not store.exists("x")
    with pytest.raises(PreconditionFailed):
        store.delete("x", if_match=etag)
    etag = put(store, "x").etag
    store._policy.clock.wait = lambda seconds, wake: put(store, "x", b"theirs")
    proxy.next(Lost("DELETE"))
    with pytest.raises(OutcomeUnknown):
        store.delete("x", if_match=etag)
    assert peek(store, "x") == b"theirs"


def test_goal_26_a_copy_and_a_move_whose_answers_were_lost_are_found(proxy, store):
    put(store, "src", user_metadata={"k": "v"})
    proxy.next(Lost("PUT"))
    store.copy("src", "dst", CopyOptions(overwrite=False))
    assert store.stat("dst").metadata == {"k": "v"}
    proxy.next(Lost("PUT"), Lost("DELETE"))
    store.move("src", "moved", CopyOptions(overwrite=False))
    assert [info.path for info in store.list()] == ["dst", "moved"]


def test_goal_26_random_faults_on_racing_creators_leave_one_winner_and_no_false_conflict(proxy, make):
    endless = RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1 << 30))
    chance, stores = random.Random(26), [make(policy=endless) for _ in range(3)]
    for store in stores:
        store._prefix = stores[0]._prefix
    for number in range(pick(default=10, ci=100, soak=3000)):
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


# -- the life of writers -----------------------------------------------------------------------------------------------


def test_a_block_that_fails_for_good_fails_the_write_and_publishes_nothing(proxy, store):
    put(store, "x", b"old")
    proxy.forget()
    proxy.next(answer("comp=block&", 403, "AuthorizationFailure"))
    with pytest.raises(PermissionDenied), store.open_writer("x") as writer:
        for _ in range(40):
            writer.write(b"1" * (store.part_size // 2))
    assert peek(store, "x") == b"old"
    assert proxy.count("comp=blocklist") == 0


@pytest.mark.parametrize("end", ["request", "close"])
def test_goal_8_pain_2_a_dropped_writer_publishes_nothing(proxy, make, end):
    store = make()
    writer = store.open_writer("x")
    writer.write(b"1" * (store.part_size + 1))
    writer._parts.settle()
    with pytest.warns(ResourceWarning, match="dropped"):
        writer = None
    gc.collect()
    store.close() if end == "close" else store.exists("x")
    assert proxy.count("comp=blocklist") == 0
    assert peek(store, "x") is None


def test_an_abort_ends_the_attempts_of_blocks_and_of_the_publication(proxy, make):
    store = make()
    writer = store.open_writer("x")
    writer.write(b"1" * (store.part_size + 1))
    writer._parts.settle()
    store._policy.clock.wait = lambda seconds, wake: writer.abort()
    proxy.forget()
    proxy.next(*[answer("PUT", 500, "InternalError")] * 5)
    with pytest.raises(StorageError):
        writer.close()
    assert proxy.count("PUT") == 1
    small = store.open_writer("y")
    small.write(b"data")
    store._policy.clock.wait = lambda seconds, wake: small.abort()
    proxy.forget()
    proxy.next(answer("PUT", 503, "ServerBusy"))
    with pytest.raises(WriterClosed):
        small.close()
    assert proxy.count("PUT") == 1
    assert peek(store, "x") is peek(store, "y") is None


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


def test_go_p4_pain_7_a_stream_takes_its_parts_in_flight_and_no_more(make):
    store = make(part_size=1 << 20, concurrency=2)
    store.check_health()
    block, blocks = b"1" * 100_000, pick(default=120, ci=300, soak=300)  # more than the 8 MB that it may take
    tracemalloc.start()
    with store.open_writer("x") as writer:
        for _ in range(blocks):
            writer.write(block)
    up = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    with store.open_reader("x") as reader:
        assert sum(len(data) for data in iter(lambda: reader.read(100_000), b"")) == blocks * len(block)
    down = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert up < 8_000_000
    assert down < 8_000_000


def test_goal_24_a_timeout_ends_a_request_that_nobody_answers(proxy, make):
    store = make(policy=policy(retries=0), read_timeout=0.3)
    put(store, "x")
    proxy.next(Stall("GET"))
    with pytest.raises(BackendUnavailable):
        ops.read_bytes(store, "x")


@pytest.mark.parametrize("status", [303, *(pytest.param(s, marks=pytest.mark.ci_only) for s in (301, 302, 307, 308))])
def test_a_redirect_takes_no_body_elsewhere(proxy, store, status):
    with Proxy(server("azurite")["port"]) as other:
        proxy.next(*[Answer("PUT", status, b"", {"Location": other.url + "/stolen"})] * 9)
        with pytest.raises(StorageError):
            put(store, "x")
        assert other.requests == []
    assert not store.exists("x")


def test_a_star_is_an_etag_that_no_blob_has(store):
    put(store, "x", b"old")
    with pytest.raises(PreconditionFailed):
        put(store, "x", b"new", if_match="*")
    with pytest.raises(PreconditionFailed):
        store.delete("x", if_match="*")
    assert ops.read_bytes(store, "x", ReadOptions(if_none_match="*")) == b"old"
