"""The reader of all object stores, over a client that is a script: ranges side by side, and whatever can go wrong."""

import contextlib
import gc
import hashlib
import os
import random
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage.backends.object_store.backend import ObjectBackend
from omnistorage.backends.object_store.client import Get
from omnistorage.concurrency.cancellation import CancelScope, Clock, check, deadline
from omnistorage.concurrency.pools import IO
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import Features, ObjectInfo, ReadOptions
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    CorruptData,
    DeadlineExceeded,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)

from ..budget import pick
from ..servers import server
from ..servers.proxy import Proxy, Reset
from ..waiting import LIMIT
from . import azure_places, gcs_places, test_s3


class NoWait(Clock):
    def wait(self, seconds, wake):
        pass


class Body:
    """Bytes on their way, which break off after ``good`` of them."""

    def __init__(self, client, info, data, digest, good):
        self.client, self.info, self.length, self.digest = client, info, len(data), digest
        self.data, self.good, self.closed = data, good, False
        client.bodies.append(self)

    def read(self, size, /):
        self.client.at_read(self)
        if self.closed:
            raise ConnectionAbortedError("closed")
        size = size if self.good is None else min(size, self.good)
        if self.good is not None:
            self.good -= size
            if not size:
                raise ConnectionResetError("it broke")
        piece, self.data = self.data[:size], self.data[size:]
        with self.client.lock:
            self.client.given += len(piece)
        return piece

    def close(self):
        self.closed = True

    interrupt = close


class Client:
    """A store of one object. ``breaks``: after how many bytes each body breaks off; ``at_get`` and ``at_read`` are what
    happens meanwhile; ``careless``: looks at no condition; ``most``: gives no more than that for a range."""

    skip = 0

    def __init__(self, data, *, digest=False, breaks=(), careless=False, etags=True, most=None):
        self.lock = threading.Lock()
        self.gets, self.bodies, self.given = [], [], 0
        self.breaks, self.careless, self.etags, self.most = list(breaks), careless, etags, most
        self.wants_digest = digest
        self.at_get = self.at_read = lambda _: None
        self.store(data)

    def store(self, data):
        self.data, self.etag = data, hashlib.md5(data).hexdigest()

    def get(self, key, get):
        self.at_get(get)
        with self.lock:
            self.gets.append(get)
            data, etag = self.data, self.etag
            good = self.breaks.pop() if self.breaks else None
        if get.if_match not in (None, etag) and not self.careless:
            raise PreconditionFailed("412")
        info = ObjectInfo(key, len(data), etag=etag if self.etags else None)
        end = len(data) if get.end is None else min(get.end, len(data))
        if self.most is not None and get.end is not None:
            end = min(end, get.start + self.most)
        digest = ("sha256", hashlib.sha256(data).hexdigest()) if self.wants_digest else None
        return Body(self, info, data[get.start : end], digest, good)

    def translate(self, error):
        if isinstance(error, StorageError):
            return error
        return BackendUnavailable(str(error)) if isinstance(error, OSError) else None

    def cutter(self):
        return lambda: None

    def close(self):
        pass


class Place(ObjectBackend):
    name, url, features = "place", "place:///", Features(read=True, range_read=True, lazy_read=True)

    def __init__(self, client, part=8, concurrency=3, ranged=False):
        policy = RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=10_000))
        super().__init__("", policy, part_size=part, concurrency=concurrency, least_part=1)
        self.ranged = ranged
        self.scripted = client

    def _make_client(self):
        return self.scripted


TEXT = bytes(range(251)) * 2
places = st.fixed_dictionaries({"part": st.integers(1, 40), "concurrency": st.integers(1, 5), "ranged": st.booleans()})


def drain(reader, sizes=(3,)):
    out, turn = [], 0
    while data := reader.read(sizes[turn % len(sizes)]):
        out.append(data)
        turn += 1
    return b"".join(out)


@given(
    data=st.binary(max_size=300), place=places, offset=st.integers(0, 310), length=st.none() | st.integers(0, 310),
    sizes=st.lists(st.integers(1, 50) | st.just(-1), min_size=1, max_size=3), digest=st.booleans(),
    breaks=st.lists(st.none() | st.integers(0, 20), max_size=6), most=st.none() | st.integers(1, 30),
)  # fmt: skip
def test_whatever_is_asked_for_arrives_however_connections_break(
    data, place, offset, length, sizes, digest, breaks, most
):
    client = Client(data, breaks=breaks, digest=digest, most=None if length is not None else most)
    client.head = lambda key, version: ObjectInfo(key, len(client.data), etag=client.etag)
    with Place(client, **place) as store, store.open_reader("x", ReadOptions(offset, length)) as reader:
        wanted = data[offset:] if length is None else data[offset : offset + length]
        assert drain(reader, sizes) == wanted
        assert reader.read(5) == b""


@given(place=places, when=st.integers(1, 12), careless=st.booleans(), breaks=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=300)
def test_goal_29_no_two_versions_are_ever_spliced(place, when, careless, breaks):
    client = Client(TEXT, careless=careless, breaks=breaks)

    def overwrite(get):
        if len(client.gets) == when:
            client.store(b"new" + TEXT)

    client.at_get = overwrite
    with Place(client, **place) as store, store.open_reader("x") as reader:
        try:
            outcome = drain(reader, (7,))
        except CorruptData as error:
            outcome = str(error).encode()
    assert outcome in (TEXT, b"new" + TEXT) or b"changed while it was read" in outcome


@pytest.mark.parametrize("ranged", [False, True])
def test_the_memory_of_a_stream_is_its_parts(ranged):
    client, taken, most = Client(os.urandom(4096)), 0, 0
    with Place(client, part=64, concurrency=4, ranged=ranged) as store, store.open_reader("x") as reader:
        while data := reader.read(16):
            taken += len(data)
            most = max(most, client.given - taken)
    assert taken == 4096
    assert 64 < most <= 64 * 5


@pytest.mark.parametrize(("ranged", "size", "gets"), [(False, 31, 1), (False, 32, 3), (True, 16, 1), (True, 17, 2)])
def test_a_short_body_is_one_request(ranged, size, gets):
    client = Client(bytes(size))
    with Place(client, part=8, ranged=ranged) as store, store.open_reader("x") as reader:
        assert drain(reader, (8,)) == bytes(size)
    assert len(client.gets) == gets


@pytest.mark.parametrize("most", [1, 3, 7])
def test_a_server_may_give_less_than_the_range_it_was_asked_for(most):
    with Place(Client(TEXT, most=most), ranged=True) as store, store.open_reader("x") as reader:
        assert drain(reader) == TEXT


def test_what_has_no_etag_is_read_in_one_piece():
    client = Client(TEXT, etags=False)
    with Place(client, ranged=True) as store, store.open_reader("x") as reader:
        assert drain(reader) == TEXT
    assert client.gets == [Get(0, 16), Get()]
    assert client.bodies[0].closed


def test_goal_28_a_flipped_bit_is_noticed_at_the_end_of_many_ranges():
    client = Client(TEXT, digest=True)

    def flip(body):
        if body is client.bodies[-1] and len(client.bodies) == 4:
            body.data = bytes(len(body.data))

    client.at_read = flip
    with Place(client) as store, store.open_reader("x") as reader:
        for _ in range(2):
            with pytest.raises(CorruptData, match="checksum"):
                drain(reader)


def test_an_error_of_a_range_comes_in_its_place():
    client = Client(TEXT)

    def fail(get):
        if get.start >= 64:
            raise PermissionError("no more")

    client.at_get, client.translate = fail, lambda error: None
    with Place(client) as store, store.open_reader("x") as reader:
        got = b""
        with pytest.raises(PermissionError, match="no more"):
            while data := reader.read(8):
                got += data
        assert got == TEXT[:64]
        with pytest.raises(PermissionError, match="no more"):
            reader.read(5)


def test_a_close_from_another_thread_ends_all_ranges():
    client, waits, stuck = Client(TEXT), threading.Event(), threading.Event()

    def hang(body):
        if body.info is not client.bodies[0].info and not body.closed:
            stuck.set()
            waits.wait(LIMIT)

    client.at_read = hang
    store = Place(client)
    reader = store.open_reader("x")
    threading.Thread(target=lambda: (stuck.wait(LIMIT), reader.close(), waits.set())).start()
    with pytest.raises(ReaderClosed):
        drain(reader)
    asked = len(client.gets)
    assert all(body.closed for body in client.bodies[1:])
    with pytest.raises(ReaderClosed):
        reader.read(1)
    assert len(client.gets) == asked


def test_a_dropped_reader_ends_the_ranges_on_their_way():
    client, stuck = Client(TEXT), threading.Event()

    def hang(body):
        if body is not client.bodies[0]:
            stuck.set()
            for _ in range(1000):
                if body.closed:
                    return
                threading.Event().wait(0.01)

    client.at_read = hang
    reader = Place(client).open_reader("x")
    assert reader.read(8) + reader.read(3) == TEXT[:11]
    assert stuck.wait(LIMIT)
    del reader
    gc.collect()
    assert all(body.closed for body in client.bodies)


def test_without_a_free_thread_whoever_reads_does_the_work(monkeypatch):
    monkeypatch.setattr(IO, "spawn", lambda task: False)
    client = Client(TEXT, breaks=[None, 3, None, 5])
    with Place(client) as store, store.open_reader("x") as reader:
        assert drain(reader, (5, 100)) == TEXT


def test_a_forked_child_cannot_go_on_with_its_parents_ranges():
    reader = Place(Client(TEXT)).open_reader("x")
    head = b"".join(reader.read(5) for _ in range(6))
    pid = os.fork()
    if not pid:
        signal.alarm(10)  # rather than wait for threads that are not there
        try:
            reader.read(5)
        except ReaderClosed:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert head + drain(reader) == TEXT
    reader.close()


# -- what a first reading found ----------------------------------------------------------------------------------------


class Dear(RequestPolicy):
    """A bandwidth that is charged for, and that raises once."""

    raises = None

    def throttle(self, size):
        if size and self.raises is not None:
            error, self.raises = self.raises, None
            raise error


@pytest.mark.parametrize("part", [8, 10_000])
def test_a_wait_for_bandwidth_that_is_cut_short_loses_no_byte(part):
    store = Place(Client(TEXT), part=part)
    store._policy = Dear(clock=NoWait())
    with store.open_reader("x") as reader:
        got = [reader.read(5)]
        for at in range(200):
            if at in (1, 3, 9):
                store._policy.raises = Cancelled("enough")
            try:
                got.append(reader.read(5))
            except Cancelled:
                pass
        assert b"".join(got) == TEXT


def test_weak_etags_are_no_conditions():
    client = Client(TEXT)
    client.store = lambda data: None
    client.etag = 'W/"x"'
    with Place(client) as store, store.open_reader("x") as reader:
        assert drain(reader) == TEXT
    assert len(client.gets) == 1


@pytest.mark.parametrize("ranged", [False, True])
def test_an_outage_that_passes_is_passed(ranged):
    client, down = Client(TEXT), threading.Event()

    def outage(get):
        if down.is_set():
            raise ConnectionError("down")

    client.at_get = outage
    with Place(client, ranged=ranged) as store, store.open_reader("x") as reader:
        got = reader.read(8)
        down.set()
        with pytest.raises(BackendUnavailable):
            while data := reader.read(8):
                got += data
        down.clear()
        assert got + drain(reader) == TEXT


def test_ranges_know_no_deadline_but_that_of_whoever_reads():
    clock, ahead, later, ended = FakeClock(), threading.Event(), threading.Event(), []

    def behind(get):
        if (get.start or 0) >= 16 and not later.is_set():  # it is read ahead: until long after that deadline
            ahead.set()
            later.wait(LIMIT)
            try:
                check()
            except DeadlineExceeded:
                ended.append(get.start)
                raise

    client = Client(TEXT)
    client.at_get = behind
    with Place(client) as store:
        with deadline(5, clock):
            reader = store.open_reader("x")
            got = reader.read(8) + reader.read(1)
            assert ahead.wait(LIMIT)
        clock.now_is += 100
        later.set()
        with reader:
            assert got + drain(reader) == TEXT
    assert ended == []
    client, waits = Client(TEXT), threading.Event()
    client.at_get = lambda get: get.start and waits.wait(LIMIT)
    with Place(client) as store, store.open_reader("x") as reader:
        got = reader.read(8) + reader.read(8)
        with CancelScope() as scope:
            threading.Timer(0.1, scope.cancel).start()
            with pytest.raises(Cancelled):
                reader.read(8)
        waits.set()
        assert got + drain(reader) == TEXT


class FakeClock(NoWait):
    now_is = 0.0

    def now(self):
        return self.now_is


def test_a_close_frees_who_waits_for_an_answer_that_does_not_come():
    client, waits, asked = Client(TEXT), threading.Event(), threading.Event()

    def hang(get):
        if get.start:
            asked.set()
            waits.wait(LIMIT)

    client.at_get = hang
    reader = Place(client).open_reader("x")
    reader.read(8)
    reader.read(8)
    freed = []

    def read():
        with pytest.raises(ReaderClosed):
            reader.read(8)
        freed.append(True)

    thread = threading.Thread(target=read)
    thread.start()
    assert asked.wait(LIMIT)
    reader.close()
    thread.join(LIMIT)
    assert freed == [True]
    waits.set()


def test_whatever_was_open_is_closed_after_close():
    client, waits, asked = Client(TEXT), threading.Event(), threading.Event()

    def hang(get):
        asked.set()
        waits.wait(LIMIT)

    body = Client(TEXT, breaks=[4])
    reader = Place(body).open_reader("x")
    reader.read(4)
    body.at_get = hang
    outcome = []

    def read():
        with pytest.raises(ReaderClosed):
            reader.read(4)
        outcome.append(True)

    thread = threading.Thread(target=read)
    thread.start()
    assert asked.wait(LIMIT)
    reader.close()
    waits.set()
    thread.join(LIMIT)
    assert len(outcome) == 1
    assert all(each.closed for each in body.bodies)
    reader = Place(client).open_reader("x")
    reader.read(8)
    reader.read(8)
    reader.close()
    assert reader._lanes._lanes[0]._stopped
    assert sum(len(lane._blocks) for lane in reader._lanes._lanes) == 0


def test_a_forked_child_ends_nothing_of_its_parents():
    client = Client(TEXT)
    reader = Place(client).open_reader("x")
    head = reader.read(8) + reader.read(5)
    reader._first._lock.acquire()  # as a thread would that reads just now
    pid = os.fork()
    if not pid:
        reader.close()
        os._exit(any(body.closed for body in client.bodies))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    reader._first._lock.release()
    assert head + drain(reader) == TEXT


def test_a_finaliser_reads_nothing():
    client = Client(TEXT)
    reader = Place(client, part=10_000).open_reader("x")
    reader.read(len(TEXT) - 5)
    reads = []
    client.at_read = reads.append
    del reader
    gc.collect()
    assert reads == []
    reader = Place(client, part=10_000).open_reader("x")
    reader.read(len(TEXT) - 5)
    reads.clear()
    reader.close()
    assert len(reads) == 2  # the rest, and its end: the connection serves the next request


def test_an_empty_object_that_is_filled_meanwhile_is_read():
    client = Client(b"")

    def refuse(get):
        if get.end is not None and not client.data:
            client.store(b"filled")
            raise StorageError("416 InvalidRange")

    client.at_get = refuse
    with Place(client, ranged=True) as store, store.open_reader("x") as reader:
        assert drain(reader) == b"filled"


# -- on servers --------------------------------------------------------------------------------------------------------

MIB = 1 << 20
PARTS = pick(default=4, ci=8, soak=8)
RANGES = PARTS - 1
LONG = random.Random(4).randbytes(PARTS * 5 * MIB)


def s3(proxied, name, **options):
    return test_s3.fresh(name, endpoint=proxied(server(name)["port"]).url, part_size=5 * MIB, **options)


def gcs(proxied, place):
    port = server("fake_gcs")["port"] if place == "fake" else gcs_places.double().port
    return gcs_places.fresh(place, endpoint=proxied(port).url, part_size=5 * MIB)


def azure(proxied):
    return azure_places.fresh(endpoint=azure_places.via(proxied(server("azurite")["port"])), part_size=5 * MIB)


@pytest.mark.parametrize(
    ("make", "ranges"),
    [
        pytest.param(lambda proxied: s3(proxied, "seaweedfs"), RANGES, id="s3"),
        pytest.param(
            lambda proxied: s3(proxied, "seaweedfs", client="obstore"),
            RANGES,
            id="s3-obstore",
            marks=pytest.mark.ci_only,
        ),
        pytest.param(
            lambda proxied: s3(proxied, "moto", checksums=True), RANGES, id="s3-checksums", marks=pytest.mark.ci_only
        ),
        pytest.param(lambda proxied: gcs(proxied, "fake"), RANGES, id="gcs", marks=pytest.mark.ci_only),
        pytest.param(azure, RANGES, id="azure", marks=pytest.mark.ci_only),
    ],
)
def test_a_long_object_is_read_in_ranges_and_a_broken_one_is_asked_for_again(make, ranges):
    with contextlib.ExitStack() as stack:
        proxies = []

        def proxied(port):
            proxies.append(stack.enter_context(Proxy(port)))
            return proxies[0]

        store = stack.enter_context(make(proxied))
        with store.open_writer("long") as writer:
            writer.write(LONG)
        asked = proxies[0].count("GET")
        with store.open_reader("long") as reader:
            got = [reader.read(MIB)]
            proxies[0].next(Reset("GET", after=MIB))
            while data := reader.read(MIB):
                got.append(data)
        assert hashlib.sha256(b"".join(got)).digest() == hashlib.sha256(LONG).digest()
        assert proxies[0].count("GET") - asked == ranges + 1
