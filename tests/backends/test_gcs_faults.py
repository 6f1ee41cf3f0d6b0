"""GCS: how many requests calls cost, what is in them, and what happens when the network and the store misbehave."""

import gc
import random
import threading
import traceback
import tracemalloc

import pytest

from omnistorage import open_records, ops
from omnistorage.backends.object_store.writer import new_put
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)

from ..budget import pick
from ..servers import server
from ..servers.gcs import Double
from ..servers.proxy import Answer, Fault, Flip, Lost, Proxy, Reset, Stall, Unsent
from ..waiting import LIMIT
from .gcs_places import fresh, peek, plant
from .sampling import asked_again, broken_bodies, one_of_each, silence
from .stalls import close_when_blocked

QUANTUM = 256 * 1024
FLIPS = pick(default=2, ci=30, soak=300)
BIG = random.Random(1).randbytes(3_000_000)


class NoWait(Clock):
    """Notes the waits and does not wait."""

    def __init__(self):
        self.waits = []

    def wait(self, seconds, wake):
        self.waits.append(seconds)


def policy(**options):
    return RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1000), **options)


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
        made.append(fresh(double, endpoint=proxy.url, **{"policy": policy(), "read_timeout": 5, **options}))
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


def cost(proxy, call):
    proxy.forget()
    call()
    return len(proxy.requests)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_rs_7_5_each_call_costs_what_the_protocol_allows(proxy, store):
    put(store, "a")
    assert cost(proxy, lambda: put(store, "new")) == 1
    assert cost(proxy, lambda: put(store, "new", b"again")) == 1
    assert cost(proxy, lambda: put(store, "created", overwrite=False)) == 1
    assert cost(proxy, lambda: ops.read_bytes(store, "a")) == 1
    assert cost(proxy, lambda: ops.read_bytes(store, "a", ReadOptions(1, 2))) == 1
    assert cost(proxy, lambda: store.stat("a")) == 1
    assert cost(proxy, lambda: store.exists("a")) == 1
    assert cost(proxy, lambda: store.exists("missing")) == 1
    assert cost(proxy, lambda: store.copy("a", "copied")) == 1
    assert cost(proxy, lambda: store.move("copied", "moved")) == 3, "the generation, the copy, the delete"
    assert cost(proxy, lambda: store.delete("moved")) == 1
    assert cost(proxy, lambda: store.check_health()) == 1


def test_on_a_server_without_conditions_a_move_is_two_requests():
    with Proxy(server("fake_gcs")["port"]) as proxy, fresh("fake", endpoint=proxy.url) as store:
        put(store, "a")
        assert cost(proxy, lambda: store.move("a", "moved")) == 2


def test_rs_7_5_go_p3_a_listing_costs_a_request_for_a_thousand_names_however_many_folders(proxy, double, store):
    for number in range(300):
        double.store(f"{store._prefix}d{number % 100}/{number}", b"x", {})
    proxy.forget()
    infos = list(store.list())
    assert len(infos) == 300
    assert all(info.size == 1 and info.etag and info.modified_at for info in infos)
    assert len(proxy.requests) == 1
    assert cost(proxy, lambda: list(store.list_dir())) == 1
    assert cost(proxy, lambda: list(store.delete_many(info.path for info in infos))) == 3, "a hundred in each"
    assert list(store.list()) == []


def test_one_connection_serves_one_call_after_another(proxy, store):
    put(store, "x", b"1" * 4096)
    for _ in range(5):
        assert len(ops.read_bytes(store, "x")) == 4096
        with store.open_reader("x") as reader:
            assert reader.read(10) == b"1" * 10
        store.stat("x")
        list(store.list())
        list(store.delete_many(["no", "such"]))
    assert proxy.connections == 1


def test_go_p4_a_long_body_is_one_upload_in_chunks(proxy, make):
    store = make(part_size=2 * QUANTUM)
    data = BIG[: 5 * QUANTUM + 7]
    assert cost(proxy, lambda: put(store, "long", data)) == 5
    assert [line.split(" ")[0] for line in proxy.requests] == ["POST", "PUT", "PUT", "PUT", "PUT"]
    assert peek(store, "long") == data
    whole = BIG[: 4 * QUANTUM]
    assert cost(proxy, lambda: put(store, "long", whole)) == 4
    assert peek(store, "long") == whole


def test_a_small_object_of_records_is_one_request_through_all_layers(proxy, store):
    def write():
        with open_records(store, "logs/a.ndjson.zst", "w") as records:
            records.write_many({"n": n} for n in range(1000))

    def read():
        with open_records(store, "logs/a.ndjson.zst") as records:
            assert sum(record["n"] for record in records) == 499_500

    assert cost(proxy, write) == 1
    assert cost(proxy, read) == 1


def test_the_conditions_are_in_the_requests(proxy, store):
    """Google's store keeps them all; the emulators do not, so what is sent is looked at."""
    etag = put(store, "x").etag
    other = put(store, "y").etag
    source = f"ifSourceGenerationMatch={etag}"
    for call, wanted in (
        (lambda: put(store, "new", overwrite=False), ["ifGenerationMatch=0"]),
        (lambda: put(store, "y", if_match=other), [f"ifGenerationMatch={other}"]),
        (lambda: store.copy("x", "c", CopyOptions(overwrite=False)), ["ifGenerationMatch=0", source]),
        (lambda: store.copy("x", "d", CopyOptions(source_if_match=etag)), [source]),
        (lambda: store.move("x", "m"), [source, f"?ifGenerationMatch={etag}"]),
        (lambda: store.delete("m", if_match=store.stat("m").etag), ["ifGenerationMatch="]),
    ):  # fmt: skip
        proxy.forget()
        call()
        for text in wanted:
            assert proxy.count(text) == 1, (text, proxy.requests)


def test_rs_7_2_pain_14_sixteen_writers_of_one_new_name_have_one_winner(double):
    for place, sizes in (("fake", (4,)), (double, (4, 300_000))):
        for size in sizes:
            stores = [fresh(place, part_size=QUANTUM) for _ in range(16)]
            for store in stores:
                store._prefix = stores[0]._prefix
            won, lost, barrier = [], [], threading.Barrier(16)

            def run(at, stores=stores, size=size, won=won, lost=lost, barrier=barrier):
                writer = stores[at].open_writer("x", WriteOptions(overwrite=False))
                writer.write(b"%02d" % at * (size // 2))
                if size > QUANTUM:
                    writer._parts.settle()
                barrier.wait(LIMIT)
                try:
                    writer.close()
                    won.append(at)
                except AlreadyExists:
                    lost.append(at)

            threads = [threading.Thread(target=run, args=(at,)) for at in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
            assert (len(won), len(lost)) == (1, 15)
            assert peek(stores[0], "x") == b"%02d" % won[0] * (size // 2)
            for store in stores:
                store.close()


@pytest.mark.ci_only
def test_goal_13_pain_7_memory_does_not_grow_with_the_stream():
    block, part = b"0123456789abcdef" * 16 * 1024, 4 * QUANTUM
    with fresh("fake", part_size=part) as store:
        put(store, "warm", block)
        tracemalloc.start()
        with store.open_writer("x") as writer:
            for _ in range(160):
                writer.write(block)
        up = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with store.open_reader("x") as reader:
            while reader.read(65536):
                pass
        down = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert store.stat("x").size == 160 * len(block) == 40 * part
        assert up < 5 * part
        assert down < 6 * part  # four ranges on their way, and what is handed out


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 70_000, 2_999_999))
def test_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, make, fault, after):
    store = make(read_timeout=silence(fault))
    plant(store, "x", BIG)
    proxy.forget()
    proxy.next(fault("GET", after))
    assert ops.read_bytes(store, "x") == BIG
    assert asked_again(proxy.count("GET"), fault)
    assert b"x-goog-if-generation-match" in proxy.heads[1].lower()


def test_goal_29_a_download_taken_up_again_never_splices_two_versions(proxy, store):
    put(store, "x", BIG)
    with store.open_reader("x") as reader:
        assert reader.read(1000) == BIG[:1000]
        put(store, "x", BIG[::-1])
        reader._first._body.interrupt()  # the connection breaks
        with pytest.raises(CorruptData, match="changed"):
            while reader.read(65536):
                pass


def test_goal_28_one_flipped_bit_of_a_download_is_noticed(proxy, store):
    put(store, "x", BIG)
    chance = random.Random(28)
    for at in (0, len(BIG) - 1, *(chance.randrange(len(BIG)) for _ in range(FLIPS))):
        proxy.next(Flip("GET", at))
        with store.open_reader("x") as reader:
            for _ in range(2):
                with pytest.raises(CorruptData):
                    reader.read(-1)
    proxy.next(Reset("GET", after=5000))
    assert ops.read_bytes(store, "x") == BIG


def test_goal_28_one_flipped_bit_of_a_small_upload_is_noticed_and_sent_again(proxy, store):
    chance = random.Random(28)
    for at in (2000, *(chance.randrange(2000, len(BIG)) for _ in range(FLIPS))):
        proxy.forget()
        proxy.next(Flip("POST", at, up=True))
        put(store, "x", BIG)
        assert proxy.count("POST") == 2
        assert peek(store, "x") == BIG


def test_goal_28_one_flipped_bit_of_a_long_upload_fails_it(proxy, double, make):
    """The chunks before cannot be sent again."""
    store = make(part_size=4 * QUANTUM)
    for at in (0, 4 * QUANTUM - 1):
        proxy.next(Flip("PUT", at, up=True))
        with pytest.raises(CorruptData):
            put(store, "x", BIG)
        assert store._prefix + "x" not in double.objects, "it was never there"


def test_a_server_that_does_not_check_is_checked(proxy, double, make, monkeypatch):
    store = make(part_size=4 * QUANTUM)
    monkeypatch.setattr("omnistorage.backends.gcs.client.of_crc", lambda crc: "")
    proxy.next(Flip("PUT", 5, up=True))
    with pytest.raises(CorruptData, match="deleted"):
        put(store, "x", BIG)
    assert peek(store, "x") is None


def test_a_reader_closed_by_another_thread_asks_for_nothing_more(proxy, store):
    put(store, "x", BIG)
    proxy.forget()
    proxy.next(Stall("GET", after=1000))
    reader = store.open_reader("x")
    assert reader.read(1000)
    close_when_blocked(proxy, reader)
    with pytest.raises(ReaderClosed):
        while reader.read(65536):
            pass
    assert proxy.count("GET") == 1


# -- answers -----------------------------------------------------------------------------------------------------------

CASES = [
    (503, "backendError", BackendUnavailable, True),
    (429, "rateLimitExceeded", BackendUnavailable, True),
    (403, "userRateLimitExceeded", BackendUnavailable, True),
    (500, "backendError", BackendUnavailable, True),
    (502, "", BackendUnavailable, True),
    (504, "", BackendUnavailable, True),
    (408, "", BackendUnavailable, True),
    (409, "conflict", BackendUnavailable, True),
    (403, "forbidden", PermissionDenied, False),
    (401, "required", PermissionDenied, False),
    (404, "notFound", NotFound, False),
    (412, "conditionNotMet", PreconditionFailed, False),
    (501, "notImplemented", CapabilityNotSupported, False),
    (307, "", ConfigError, False),
    (400, "invalid", StorageError, False),
]


@pytest.mark.parametrize(("status", "reason", "kind", "again"), one_of_each(CASES, lambda case: case[2:]))
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, store, status, reason, kind, again):
    told = f'{{"error": {{"code": {status}, "message": "no", "errors": [{{"reason": "{reason}"}}]}}}}'.encode()
    calls = {
        "POST": lambda: put(store, "x"),
        "GET /bucket": lambda: ops.read_bytes(store, "x"),
        "GET /storage": lambda: store.stat("x"),
        "DELETE": lambda: store.delete("x"),
        "GET /storage/v1/b/bucket/o?": lambda: list(store.list()),
        "POST ": lambda: store.copy("x", "y"),
    }
    for method, call in calls.items():
        put(store, "x")
        proxy.forget()
        proxy.next(Answer(method, status, told))
        if again:
            call()
            assert proxy.count(method) == 2, method
        elif (status, method) == (404, "DELETE"):
            assert call() is False
        else:
            with pytest.raises(kind) as caught:
                call()
            assert caught.value.path in ("x", ""), method
            assert proxy.count(method) == 1, method


def test_goal_24_retry_after_is_heeded(proxy, store):
    proxy.next(Answer("POST", 429, b"", {"Retry-After": "7"}))
    put(store, "x")
    assert store._policy.clock.waits[-1] >= 7


def test_goal_30_a_page_that_repeats_itself_is_no_listing(proxy, store):
    page = b'{"kind": "storage#objects", "items": [], "nextPageToken": "1"}'
    proxy.next(Answer("GET", 200, page), Answer("GET", 200, page))
    with pytest.raises(StorageError, match="repeats"):
        list(store.list())


def test_goal_27_an_answer_with_another_range_is_refused(proxy, store):
    put(store, "x", b"0123456789")
    proxy.next(Answer("GET", 200, b"0123456789", {"x-goog-generation": "7"}))
    with pytest.raises(CapabilityNotSupported, match="range"):
        ops.read_bytes(store, "x", ReadOptions(4, 3))


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Lost("POST"), Reset("POST"), Unsent("POST", after=1000), Unsent("POST")])
def test_a_body_whose_answer_is_lost_is_sent_again(proxy, store, fault):
    proxy.next(fault)
    put(store, "x", BIG)
    assert peek(store, "x") == BIG
    assert proxy.count("POST") == 2


def test_goal_26_a_created_object_whose_answer_was_lost_is_no_conflict(proxy, store):
    proxy.next(Lost("POST"))
    info = put(store, "x", overwrite=False)
    assert info.etag == store.stat("x").etag
    assert store.stat("x").metadata == {}
    with pytest.raises(AlreadyExists):
        put(store, "x", b"other", overwrite=False)
    proxy.next(Lost("POST"))
    put(store, "x", b"replaced", if_match=info.etag)
    assert peek(store, "x") == b"replaced"
    proxy.next(Lost("POST"))
    store.copy("x", "y", CopyOptions(overwrite=False))
    assert peek(store, "y") == b"replaced"


def test_goal_26_a_conflict_behind_a_lost_answer_is_unknown_or_a_conflict_never_a_success(proxy, store):
    put(store, "x", b"theirs")
    proxy.next(Unsent("POST"))
    with pytest.raises((OutcomeUnknown, AlreadyExists)):
        put(store, "x", b"ours", overwrite=False)
    assert peek(store, "x") == b"theirs"


def test_goal_26_a_delete_whose_answer_was_lost_does_not_say_that_there_was_nothing(proxy, store):
    put(store, "x")
    proxy.next(Lost("DELETE"))
    assert store.delete("x") is None
    assert store.delete("x") is False


FAULTS = [
    lambda: Lost("PUT"), lambda: Reset("PUT"), lambda: Unsent("PUT"), lambda: Unsent("PUT", after=300_000),
    lambda: Answer("PUT", 503), lambda: Answer("PUT", 500),
]  # fmt: skip


@pytest.mark.parametrize("at", [0, *(pytest.param(at, marks=pytest.mark.ci_only) for at in (1, 2)), 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_goes_on_where_the_store_has_got_to(proxy, make, fault, at):
    """A fault in any of its requests, the last included, whose answer may be lost after the object is there."""
    store = make(part_size=4 * QUANTUM)
    data = BIG[: 11 * QUANTUM + 99]
    writer = store.open_writer("x", WriteOptions(overwrite=False))
    for number in range(3):
        writer.write(data[number * 4 * QUANTUM : (number + 1) * 4 * QUANTUM])
        if writer._parts:
            writer._parts.settle()
        if number == at:
            proxy.next(fault())
    if at == 3:
        writer.prepare()
        proxy.next(fault())
    info = writer.close()
    assert peek(store, "x") == data
    assert (info.size, info.etag) == (len(data), store.stat("x").etag)
    assert any("bytes */" in head.decode("latin-1") for head in proxy.heads)


@pytest.mark.parametrize("takes", [QUANTUM, 2 * QUANTUM, 3 * QUANTUM])
def test_what_the_store_did_not_take_of_a_chunk_is_sent_again(double, make, takes):
    double.takes = takes
    store = make(part_size=4 * QUANTUM)
    put(store, "x", BIG)
    assert peek(store, "x") == BIG


def test_a_store_that_takes_nothing_is_unavailable(double, make):
    double.takes = 0
    store = make(part_size=4 * QUANTUM, policy=policy(retries=2))
    with pytest.raises(BackendUnavailable, match="none of a chunk"):
        put(store, "x", BIG)


def test_a_store_that_loses_what_it_had_is_no_place_to_go_on(proxy, double, make):
    store = make(part_size=4 * QUANTUM)
    with pytest.raises(StorageError, match="had"), store.open_writer("x") as writer:
        writer.write(BIG[: 4 * QUANTUM + 1])
        writer._parts.settle()
        next(iter(double.sessions.values()))["data"].clear()
        proxy.next(Reset("PUT"))
        writer.write(BIG[: 8 * QUANTUM])
    assert peek(store, "x") is None


def test_a_session_that_is_gone_is_no_success(proxy, double, make):
    store = make(part_size=4 * QUANTUM)
    with pytest.raises(NotFound, match="NoSuchUpload"), store.open_writer("x") as writer:
        writer.write(BIG)
        writer._parts.settle()
        double.sessions.clear()
    assert peek(store, "x") is None


def test_a_server_that_cannot_say_what_it_has_is_not_asked():
    """fake-gcs-server would publish what it has so far, for the answer."""
    with Proxy(server("fake_gcs")["port"]) as proxy, fresh("fake", endpoint=proxy.url, part_size=QUANTUM) as store:
        proxy.next(Lost("PUT"))
        with pytest.raises(StorageError, match="does not tell"):
            put(store, "x", BIG)
        assert peek(store, "x") is None
        assert not any(b"bytes */*" in head for head in proxy.heads)


def test_a_chunk_that_fails_for_good_fails_the_write_and_cancels_the_upload(proxy, double, make):
    store = make(part_size=QUANTUM)
    proxy.next(Answer("PUT", 403))
    with pytest.raises(PermissionDenied):
        put(store, "x", BIG)
    assert peek(store, "x") is None
    assert double.sessions == {}


def test_goal_8_what_is_aborted_or_dropped_leaves_no_session(double, make):
    store = make(part_size=QUANTUM)
    writer = store.open_writer("x")
    writer.write(BIG)
    writer.abort()
    assert double.sessions == {}
    writer = store.open_writer("x")
    writer.write(BIG)
    writer._parts.settle()
    with pytest.warns(ResourceWarning, match="dropped"):
        writer = None
    gc.collect()
    assert not store.exists("x")
    assert double.sessions == {}
    assert peek(store, "x") is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"name": 3}'])
def test_goal_27_an_end_of_an_upload_that_says_nothing_is_not_taken_for_success(proxy, make, body):
    store = make(part_size=4 * QUANTUM)
    writer = store.open_writer("x")
    writer.write(BIG)
    writer.prepare()
    proxy.forget()
    proxy.next(Answer("PUT", 200, body))
    writer.close()
    assert proxy.count("PUT") == 3, "the first end, the question how far it got, the end"
    assert peek(store, "x") == BIG


def test_goal_26_random_faults_on_racing_creators_leave_one_winner_and_no_false_conflict(proxy, make):
    endless = RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1 << 30))
    chance, stores = random.Random(26), [make(policy=endless) for _ in range(3)]
    for store in stores:
        store._prefix = stores[0]._prefix
    for number in range(pick(default=20, ci=300, soak=3000)):
        outcomes = {}
        proxy.next(*[chance.choice([Lost, Unsent, Reset, Fault])("POST") for _ in range(4)])

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


# -- what a reading of it found ----------------------------------------------------------------------------------------


def test_go_p4_a_size_told_beforehand_changes_no_part(double, make, monkeypatch):
    """There is no limit to their number that parts would have to grow for, and no part may lose its end."""
    monkeypatch.setattr("omnistorage.backends.object_store.writer.MAX_PARTS", 4)
    store = make(part_size=QUANTUM)
    put(store, "x", BIG, size=len(BIG))
    assert peek(store, "x") == BIG
    client = store._gcs
    upload = client.start_upload(store._prefix + "odd", new_put(WriteOptions(), "x/y"))
    for number, part in enumerate((BIG[:300_000], BIG[300_000:300_001], BIG[300_001:900_000]), 1):
        client.put_part(upload, number, part)
    assert client.finish_upload(upload, {}).size == 900_000
    assert peek(store, "odd") == BIG[:900_000]


@pytest.mark.parametrize("size", [9 << 20, 12 << 20])
def test_a_body_of_one_part_is_one_request_however_long(proxy, make, size):
    store = make(part_size=16 << 20)
    data = BIG * 4
    assert cost(proxy, lambda: put(store, "x", data[:size], overwrite=False)) == 1
    assert peek(store, "x") == data[:size]


def test_goal_26_a_lost_answer_never_appends_twice(proxy, store):
    put(store, "log", b"AAA")
    put(store, "new", b"BBB")
    proxy.next(Lost("POST"))
    store.compose(["log", "new"], "log")
    assert peek(store, "log") == b"AAABBB"


def test_goal_26_a_conditional_delete_whose_answer_was_lost_is_no_failure(proxy, store):
    etag = put(store, "x").etag
    proxy.next(Lost("DELETE"))
    assert store.delete("x", if_match=etag) is None
    put(store, "src")
    proxy.next(Lost("DELETE"))
    store.move("src", "dst")
    assert [info.path for info in store.list()] == ["dst"]
    with pytest.raises(PreconditionFailed):
        store.delete("src", if_match="1")


def test_ranges_of_an_empty_object_are_empty(store):
    put(store, "empty", b"")
    assert ops.read_bytes(store, "empty", ReadOptions(0, 5)) == b""
    assert store.read_ranges("empty", [(0, 5), (7, 1)]) == [b"", b""]


def test_goal_27_more_than_was_asked_for_is_not_read(proxy, store):
    etag = put(store, "x", b"0123456789").etag
    head = {"Content-Range": "bytes 4-9/10", "x-goog-generation": etag}
    proxy.next(Answer("GET", 206, b"456789", head))
    assert ops.read_bytes(store, "x", ReadOptions(4, 3)) == b"456"


def test_goal_28_a_body_that_is_refused_for_its_checksum_again_and_again_was_not_stored(proxy, make):
    store = make(policy=policy(retries=1))
    proxy.next(*[Flip("POST", 2000, up=True)] * 2)
    with pytest.raises(CorruptData):
        put(store, "x", BIG)
    assert peek(store, "x") is None


def test_goal_27_answers_that_mean_nothing_are_errors_of_ours(proxy, double, make):
    store = make(part_size=QUANTUM, policy=policy(retries=0))
    for answer in (Answer("PUT", 308, b"", {"Range": "bytes=0-x"}), Answer("PUT", 200, b'{"name":"x"}')):
        proxy.next(answer)
        with pytest.raises(StorageError):
            put(store, "x", BIG)
        assert peek(store, "x") is None
    proxy.next(Answer("POST", 200, b"no parts"))
    with pytest.raises(BackendUnavailable, match="batch"):
        list(store.delete_many(["a", "b"]))


def test_a_name_that_is_not_utf_8_is_no_name_here(store):
    odd = "a\udcff"
    for call in (
        lambda: store.stat(odd), lambda: store.open_reader(odd), lambda: store.delete(odd), lambda: store.exists(odd),
        lambda: list(store.list(odd)), lambda: list(store.delete_many([odd, "b"])), lambda: store.copy(odd, "b"),
    ):  # fmt: skip
        with pytest.raises(InvalidPath):
            call()


def test_names_decide_nothing(store):
    """404s are told apart by what the store says, not by the words in a name."""
    assert store.delete("NoSuchBucket/bucket does not exist") is False
    with pytest.raises(NotFound) as caught:
        store.stat("uploads/NoSuchUpload")
    assert "session" not in str(caught.value)
    put(store, "there")
    with pytest.raises(NotFound):
        store.compose(["missing"], "there", WriteOptions(if_match=store.stat("there").etag))


def test_what_compose_cannot_keep_is_refused(store):
    put(store, "a")
    with pytest.raises(CapabilityNotSupported):
        store.compose(["a"], "b", WriteOptions(extra={"gcs.predefined_acl": "publicRead"}))


def test_goal_41_no_chain_of_errors_holds_the_url_of_an_upload(proxy, make):
    store = make(part_size=QUANTUM, policy=policy(retries=0))
    writer = store.open_writer("x")
    writer.write(BIG)
    writer._parts.settle()
    proxy.__exit__()
    with pytest.raises(StorageError) as caught:
        writer.close()
    assert "/session/" not in "".join(traceback.format_exception(caught.value))


def test_a_write_into_a_bucket_that_is_not_there_says_so(make):
    store = make(part_size=QUANTUM)
    with store.with_options(bucket="no-such-bucket") as gone:
        for body in (b"small", BIG):
            with pytest.raises(BucketNotFound):
                put(gone, "x", body)


def test_goal_27_an_upload_that_ended_unasked_is_no_success(proxy, make):
    """As fake-gcs-server ends one when it is asked how much it has."""
    store = make(part_size=QUANTUM)
    proxy.next(
        Reset("PUT"), Answer("PUT", 200, b'{"kind": "storage#object", "name": "x", "size": "5", "generation": "7"}')
    )
    with pytest.raises(StorageError, match="before it was whole"):
        put(store, "x", BIG)
    assert peek(store, "x") is None
