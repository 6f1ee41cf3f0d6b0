"""How many requests the calls of Azure cost, and what is in them, seen by a proxy between us and Azurite."""

import threading
from datetime import timedelta

import pytest

from omnistorage import open_records, ops
from omnistorage.concurrency.cancellation import CancelScope, Clock
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import AlreadyExists, NotFound, StorageError

from ..servers import server
from ..servers.proxy import Proxy
from ..waiting import LIMIT
from .azure_places import fresh, marked, peek, plant, via


@pytest.fixture
def proxy():
    with Proxy(server("azurite")["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(proxy):
    with fresh(endpoint=via(proxy)) as store:
        yield store


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def cost(proxy, call):
    proxy.forget()
    call()
    return len(proxy.requests)


def grown_old(store, path):
    """Write other objects until the store's clock is two seconds past ``path``."""
    old = store.stat(path).modified_at
    while put(store, "clock").modified_at < old + timedelta(seconds=2):
        pass


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
    assert cost(proxy, lambda: store.copy("a", "copied")) == 1
    assert cost(proxy, lambda: store.delete("new")) == 1
    etag = store.stat("copied").etag
    assert cost(proxy, lambda: store.move("copied", "moved", CopyOptions(source_if_match=etag))) == 2
    grown_old(store, "moved")
    assert cost(proxy, lambda: store.move("moved", "again")) == 2

    def missing():
        with pytest.raises(NotFound):
            store.open_reader("missing")

    assert cost(proxy, missing) == 1


@pytest.mark.ci_only
def test_rs_7_5_go_p3_a_listing_costs_a_request_for_a_page_however_many_folders(proxy, store):
    for number in range(300):
        plant(store, f"d{number % 100}/{number}", b"x")
    proxy.forget()
    infos = list(store.list())
    assert len(infos) == 300
    assert all(info.size == 1 and info.etag and info.modified_at for info in infos)
    assert len(proxy.requests) == 1, "no HEAD for any of them"
    assert b"maxresults" not in proxy.heads[0], "pages of 5,000"
    assert cost(proxy, lambda: list(store.list_dir())) == 1
    proxy.forget()
    assert [error for _, error in store.delete_many(info.path for info in infos)] == [None] * 300
    assert len(proxy.requests) == 2, "256 with each"
    assert list(store.list()) == []


@pytest.mark.ci_only
def test_a_folder_is_purged_256_objects_at_once(proxy, store):
    for number in range(260):
        plant(store, f"d/{number}", b"")
    assert cost(proxy, lambda: store.purge("d")) == 3
    assert list(store.list()) == []


def test_one_connection_serves_one_call_after_another(proxy, store):
    put(store, "x", b"1" * 4096)
    for _ in range(5):
        assert len(ops.read_bytes(store, "x")) == 4096
        with store.open_reader("x") as reader:
            assert reader.read(10) == b"1" * 10
        store.stat("x")
        list(store.list())
    assert proxy.connections == 1


def test_go_p4_a_long_body_is_blocks_side_by_side(proxy, store):
    part = store.part_size
    data = bytes(range(256)) * (part // 256) * 3 + b"tail"
    put(store, "long", data)
    assert [line.split(" ")[0] for line in proxy.requests] == ["PUT"] * 5
    assert proxy.count("comp=block&") == 4
    assert store.stat("long").size == len(data)
    assert ops.read_bytes(store, "long", ReadOptions(part - 2, 4)) == data[part - 2 : part + 2]
    assert ops.read_bytes(store, "long") == data


def test_blocks_travel_at_the_same_time():
    with fresh(part_size=1 << 20, concurrency=3) as store:
        at_once, send = threading.Barrier(3, timeout=LIMIT), store.client.put_part

        def put_part(*args):
            at_once.wait()
            return send(*args)

        store.client.put_part = put_part
        put(store, "x", b"1" * (3 << 20))
        assert store.stat("x").size == 3 << 20


def test_a_body_of_exactly_one_part_is_one_request(proxy, store):
    assert cost(proxy, lambda: put(store, "x", b"1" * store.part_size)) == 1
    assert cost(proxy, lambda: put(store, "x", b"1" * (store.part_size + 1))) == 3


def test_pain_8_a_small_object_of_records_is_one_request_through_all_layers(proxy, store):
    def write():
        with open_records(store, "logs/a.ndjson.zst", "w") as records:
            records.write_many({"n": n} for n in range(1000))

    def read():
        with open_records(store, "logs/a.ndjson.zst") as records:
            assert sum(record["n"] for record in records) == 499_500

    assert cost(proxy, write) == 1
    assert cost(proxy, read) == 1


def test_prepare_makes_a_small_body_one_block(proxy, store):
    for data, blocks in ((b"small", 1), (b"", 0)):
        proxy.forget()
        writer = store.open_writer("x")
        writer.write(data)
        writer.prepare()
        assert len(proxy.requests) == blocks
        assert not store.exists("x")
        assert cost(proxy, writer.close) == 1
        assert ops.read_bytes(store, "x") == data
        store.delete("x")


@pytest.mark.parametrize("size", [3, 1 << 20])
def test_rs_7_2_pain_14_sixteen_writers_of_one_new_key_have_one_winner(proxy, size):
    won, lost, start = [], [], threading.Barrier(16)
    with fresh(endpoint=via(proxy), part_size=300_000) as store:

        def run(number):
            writer = store.open_writer("key", WriteOptions(overwrite=False))
            writer.write(b"%03d" % number * (size // 3))
            start.wait(LIMIT)
            try:
                writer.close()
                won.append(number)
            except AlreadyExists:
                lost.append(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert (len(won), len(lost)) == (1, 15)
        assert ops.read_bytes(store, "key") == b"%03d" % won[0] * (size // 3), "no block of another one in it"


def test_conditions_go_with_the_request(proxy, store):
    old = put(store, "key", b"old")
    for options, header in (({"overwrite": False}, b"If-None-Match: *"), ({"if_match": "x"}, b'If-Match: "x"')):
        for size in (1, store.part_size + 1):
            with pytest.raises(StorageError):
                put(store, "key", b"1" * size, **options)
            last = [head for head in proxy.heads if head.startswith(b"PUT")][-1]
            assert header in last
            assert (b"comp=blocklist" in last) is (size > 1)
    with pytest.raises(StorageError):
        store.delete("key", if_match="x")
    assert b'If-Match: "x"' in proxy.heads[-1]
    with pytest.raises(StorageError):
        store.copy("key", "dst", CopyOptions(source_if_match="x"))
    assert b'x-ms-source-if-match: "x"' in proxy.heads[-1]
    put(store, "dst", b"other")
    with pytest.raises(AlreadyExists):
        store.copy("key", "dst", CopyOptions(overwrite=False))
    assert b"If-None-Match: *" in proxy.heads[-1]
    assert (peek(store, "key"), peek(store, "dst"), store.stat("key").etag) == (b"old", b"other", old.etag)


# -- copies that the store makes by and by: Azurite makes all at once, so these answers are ours -----------------------


class Ticks(Clock):
    def __init__(self):
        self.waits = []

    def wait(self, seconds, wake):
        self.waits.append(seconds)


def pending(status="pending", copy_id="c1"):
    return {
        "x-ms-copy-id": copy_id,
        "x-ms-copy-status": status,
        "ETag": '"0x1"',
        "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
    }


@pytest.fixture
def copier(proxy):
    with fresh(endpoint=via(proxy), policy=RequestPolicy(clock=Ticks())) as store:
        put(store, "src")
        proxy.forget()
        yield store


def test_a_copy_that_takes_the_store_long_is_waited_for(proxy, copier):
    proxy.next(
        marked("PUT", 202, b"", pending()),
        marked("HEAD", 200, b"", pending()),
        marked("HEAD", 200, b"", pending("success")),
    )
    assert copier.copy("src", "dst").etag == "0x1"
    assert [line.split(" ")[0] for line in proxy.requests] == ["PUT", "HEAD", "HEAD"]
    assert len(copier._policy.clock.waits) == 1


@pytest.mark.parametrize("status", ["failed", "aborted"])
def test_a_copy_that_fails_is_an_error_and_taken_back(proxy, copier, status):
    states = [marked("HEAD", 200, b"", pending(status))] * 3
    proxy.next(marked("PUT", 202, b"", pending()), *states)
    with pytest.raises(StorageError, match=status):
        copier.copy("src", "dst")
    assert proxy.requests[-1].startswith("DELETE")
    assert b'If-Match: "0x1"' in proxy.heads[-1], "only what the copy left"


def test_a_copy_that_is_cancelled_is_aborted_at_the_store(proxy, copier):
    with CancelScope() as scope:
        copier._policy.clock.wait = lambda seconds, wake: scope.cancel()
        states = [marked("HEAD", 200, b"", pending())] * 2 + [marked("HEAD", 200, b"", pending("aborted"))]
        proxy.next(marked("PUT", 202, b"", pending()), *states, marked("comp=copy", 204))
        with pytest.raises(StorageError, match="cancelled"):
            copier.copy("src", "dst")
    assert proxy.count("comp=copy&copyid=c1") == 1
    assert proxy.requests[-1].startswith("DELETE")


def test_another_write_in_the_place_of_a_copy_is_noticed_and_left_alone(proxy, copier):
    proxy.next(marked("PUT", 202, b"", pending()), *[marked("HEAD", 200, b"", pending("success", "c2"))] * 3)
    with pytest.raises(StorageError, match="another write"):
        copier.copy("src", "dst")
    assert proxy.count("DELETE") == 0
