"""HTTP when the network and the server misbehave, through a proxy that does harm."""

import random
import threading
import tracemalloc

import pytest

from omnistorage import ops
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ReadOptions
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)

from ..budget import pick
from ..servers import server
from ..servers.proxy import Answer, Proxy, Reset, Stall, Truncate
from ..waiting import LIMIT
from .http_places import Ours, file_dispose, file_plant, on_disk, patient
from .sampling import asked_again, broken_bodies, silence

BIG = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def proxy():
    with Proxy(server("range_server")["port"]) as proxy:
        yield proxy


@pytest.fixture
def at(proxy):
    made = []

    def at(mode="plain", **options):
        made.append(Ours(mode, port=proxy.port, **{"read_timeout": 5, **options}))
        made[-1].proxy = proxy
        return made[-1]

    yield at
    for place in made:
        place.backend.close()


@pytest.mark.parametrize(("after", "fault"), broken_bodies(0, 1, 70_000, 2_999_999))
def test_go_p4_a_body_that_breaks_off_is_taken_up_where_it_broke(proxy, at, fault, after):
    place = at(read_timeout=silence(fault))
    place.put("x", BIG)
    proxy.next(fault("GET", after))
    assert ops.read_bytes(place.backend, "x") == BIG
    assert asked_again(proxy.count("GET"), fault)


def test_a_range_that_breaks_off_stays_a_range(proxy, at):
    place = at()
    place.put("x", BIG)
    proxy.next(Reset("GET", 1000), Reset("GET", 500))
    assert ops.read_bytes(place.backend, "x", ReadOptions(100, 5000)) == BIG[100:5100]


def test_nginx_takes_up_what_broke_off():
    with Proxy(server("nginx")["port"]) as proxy:
        backend = on_disk("nginx", "www/", port=proxy.port, policy=patient())
        file_plant(backend, "x", BIG)
        proxy.next(Truncate("GET", 2_000_000))
        assert ops.read_bytes(backend, "x") == BIG
        assert b"If-Range" in proxy.heads[-1]
        file_dispose(backend)


def begin(place, change=None):
    """A reader that has read a little and whose connection broke; ``change`` happens before it goes on."""
    place.proxy.next(Truncate("GET", 1000))
    reader = place.backend.open_reader("x")
    head = reader.read(1000)
    if change is not None:
        place.put("x", change)
    return reader, head


@pytest.mark.parametrize("mode", ["plain", "deaf"])
@pytest.mark.parametrize("new", [BIG[::-1], BIG[:5000], b""])
def test_goal_29_a_download_taken_up_again_never_splices_two_versions(at, mode, new):
    """``deaf`` gives the range of whatever is there now: only what its answer carries tells."""
    place = at(mode)
    place.put("x", BIG)
    reader, _ = begin(place, new)
    with reader:
        for _ in range(2):
            with pytest.raises(CorruptData, match="changed"):
                while reader.read(65536):
                    pass


@pytest.mark.parametrize("mode", ["weak", "bare"])
def test_goal_29_without_anything_that_tells_versions_apart_a_broken_body_is_an_error(at, mode):
    place = at(mode)
    place.put("x", BIG)
    reader, _ = begin(place)
    with reader, pytest.raises(CorruptData, match="strong etag"):
        while reader.read(65536):
            pass


def test_goal_29_a_time_long_past_tells_versions_apart_and_a_time_just_now_does_not(at):
    place = at("noetag")
    place.put("x", BIG, **{"X-Time": "1700000000"})
    reader, head = begin(place)
    with reader:
        assert head + reader.read() == BIG
    reader, head = begin(place, BIG[::-1])  # a new time
    with reader, pytest.raises(CorruptData, match="changed"):
        reader.read()
    reader, head = begin(place)
    with reader, pytest.raises(CorruptData, match="strong etag"):
        reader.read()


def test_goal_29_random_overwrites_between_ranges_never_mix(proxy, at):
    chance, place = random.Random(29), at("deaf")
    versions = [bytes([n]) * 200_000 for n in range(4)]
    ends = {"whole": 0, "refused": 0}
    for _ in range(pick(default=100, ci=400, soak=1000)):
        place.put("x", chance.choice(versions))
        if chance.random() < 0.7:
            proxy.next(Truncate("GET", chance.randrange(200_000)))
        with place.backend.open_reader("x") as reader:
            data = bytearray()
            try:
                while piece := reader.read(chance.randrange(1, 90_000)):
                    data += piece
                    if chance.random() < 0.2:
                        place.put("x", chance.choice(versions))
                assert bytes(data) in versions
                ends["whole"] += 1
            except CorruptData:
                assert len(set(data)) <= 1
                ends["refused"] += 1
    assert min(ends.values()) >= (pick(default=10, ci=100, soak=100)), ends


def test_a_server_that_is_gone_is_unavailable_and_never_a_clean_end(proxy, at):
    place = at()
    place.put("x", BIG)
    proxy.next(Reset("GET", after=1000))
    reader = place.backend.open_reader("x")
    proxy.__exit__()
    with reader, pytest.raises(BackendUnavailable):
        while reader.read(65536):
            pass


def test_a_reader_closed_by_another_thread_ends_its_blocked_read(proxy, at):
    place = at(read_timeout=60)
    place.put("x", BIG)
    proxy.next(Stall("GET", 1000))
    reader = place.backend.open_reader("x")
    assert reader.read(1000) == BIG[:1000]
    ended = []

    def run():
        try:
            reader.read(1000)
        except ReaderClosed as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not reader._lock.locked():
        pass
    reader.close()
    thread.join(LIMIT)
    assert len(ended) == 1


CASES = [
    (400, StorageError, False), (401, PermissionDenied, False), (403, PermissionDenied, False), (404, NotFound, False),
    (405, CapabilityNotSupported, False), (407, PermissionDenied, False), (408, BackendUnavailable, True),
    (409, StorageError, False), (410, NotFound, False), (412, PreconditionFailed, False), (414, InvalidPath, False),
    (418, StorageError, False), (425, BackendUnavailable, True), (429, BackendUnavailable, True),
    (451, PermissionDenied, False), (500, BackendUnavailable, True), (501, CapabilityNotSupported, False),
    (502, BackendUnavailable, True), (503, BackendUnavailable, True), (504, BackendUnavailable, True),
    (507, StorageError, False), (520, BackendUnavailable, True), (204, StorageError, False),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "again"), CASES)
def test_goal_24_goal_27_each_answer_has_its_error_and_is_tried_again_or_not(proxy, at, status, kind, again):
    place = at(listing="manifest", listing_path="manifest.auto")
    place.put("x", b"1")
    calls = {"read": lambda: ops.read_bytes(place.backend, "x"), "list": lambda: list(place.backend.list())}
    for name, call in calls.items():
        proxy.forget()
        proxy.next(Answer("GET", status))
        if again:
            call()
            assert proxy.count("GET") == 2, name
        else:
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert caught.value.status == status
            assert proxy.count("GET") == 1, name


@pytest.mark.parametrize("asked", ["7", "Sat, 21 Nov 2026 10:00:07 GMT"])
def test_goal_24_retry_after_is_heeded_in_seconds_and_as_a_date(proxy, at, asked):
    place = at()
    place.put("x", b"1")
    proxy.next(Answer("GET", 503, b"", {"Retry-After": asked, "Date": "Sat, 21 Nov 2026 10:00:00 GMT"}))
    assert ops.read_bytes(place.backend, "x") == b"1"
    assert place.backend.policy.clock.waits[-1] >= 7


def test_goal_24_a_server_that_wants_to_be_left_alone_for_an_hour_is_not_waited_for(proxy, at):
    place = at()
    proxy.next(Answer("GET", 429, b"", {"Retry-After": "3600"}))
    with pytest.raises(BackendUnavailable, match="3600 s") as caught:
        place.backend.open_reader("x")
    assert (caught.value.transient, caught.value.retry_after) == (False, 3600)
    with on_disk("nginx", "503/", policy=patient(retries=2)) as nginx:
        with pytest.raises(BackendUnavailable):
            nginx.stat("x")
        assert nginx.policy.clock.waits == pytest.approx([1, 1], abs=1)
        file_dispose(nginx)


def test_goal_24_an_outage_ends_in_our_error_after_the_tries_there_are(proxy, at):
    place = at(policy=patient(retries=2))
    proxy.next(*[Reset("GET")] * 3)
    with pytest.raises(BackendUnavailable):
        place.backend.open_reader("x")
    assert proxy.count("GET") == 3
    with Ours(port=1, policy=patient(retries=1)).backend as nobody, pytest.raises(BackendUnavailable):
        nobody.stat("x")


@pytest.mark.parametrize("length", [2, 100])
def test_goal_27_an_answer_of_the_wrong_length_is_no_answer(proxy, at, length):
    place = at(policy=RequestPolicy(retries=0))
    proxy.next(Answer("GET", 200, b"short", {"ETag": '"e"'}, length=length))
    if length < 5:
        assert ops.read_bytes(place.backend, "x") == b"sh", "what is behind the body is not of it"
        return
    with pytest.raises((BackendUnavailable, CorruptData)):
        ops.read_bytes(place.backend, "x")


def test_goal_30_a_folder_page_that_breaks_off_is_asked_for_again_never_half_believed():
    with Proxy(server("nginx")["port"]) as proxy:
        backend = on_disk("nginx", "put/", port=proxy.port, listing="index", policy=patient())
        for number in range(50):
            file_plant(backend, f"{number:03d}", b"1")
        page = b'<a href="000">000</a> 21-Nov-2026 10:00 1\n'
        proxy.next(Answer("GET", 200, page, {"Content-Type": "text/html"}, length=5000))
        assert len(list(backend.list())) == 50
        assert proxy.count("GET") == 2
        file_dispose(backend)


def test_goal_13_pain_7_memory_does_not_grow_with_the_object(at):
    place = at()
    place.put("x", bytes(40 << 20))
    tracemalloc.start()
    try:
        with place.backend.open_reader("x") as reader:
            count = 0
            while piece := reader.read(1 << 20):
                count += len(piece)
        assert count == 40 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_proxy_of_the_users_choice_is_asked_with_whole_urls_and_its_own_password(proxy):
    place = Ours("echo", proxy=f"http://me:pw@127.0.0.1:{proxy.port}")
    assert b"User-Agent" in ops.read_bytes(place.backend, "x")
    assert proxy.requests[0].startswith(f"GET {place.info['url']}/echo/")
    assert b"proxy-authorization: basic bwu6chc=" in proxy.heads[0].lower()
    place.backend.close()


def test_the_environment_is_not_asked_for_a_proxy(at, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    place = at()
    assert not place.backend.exists("x")


def test_a_wait_for_bandwidth_that_is_cut_short_loses_no_byte(at):
    class Dear(RequestPolicy):
        raises = False

        def throttle(self, size):
            if size and self.raises:
                self.raises = False
                raise Cancelled("enough")

    place = at(policy=Dear())
    place.put("x", BIG)
    with place.backend.open_reader("x") as reader:
        got = reader.read(100_000)
        place.backend.policy.raises = True
        with pytest.raises(Cancelled):
            reader.read(100_000)
        while data := reader.read(100_000):
            got += data
    assert got == BIG
