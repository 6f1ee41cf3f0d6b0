"""How many requests the calls of S3 cost, and what is in them, seen by a proxy between us and SeaweedFS."""

import threading

import pytest

from omnistorage import RollingRecordWriter, open_records, ops
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, NotFound

from ..servers import server
from ..servers.proxy import Proxy
from .test_s3 import fresh, sdk


@pytest.fixture
def proxy():
    with Proxy(server("seaweedfs")["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(proxy):
    with fresh("seaweedfs", endpoint=proxy.url) as store:
        yield store


def put(store, path, data=b"data", **options):
    with store.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def cost(proxy, call):
    proxy.forget()
    call()
    return len(proxy.requests)


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
    assert cost(proxy, lambda: store.move("copied", "moved")) == 2
    assert cost(proxy, lambda: store.delete("moved")) == 1

    def missing():
        with pytest.raises(NotFound):
            store.open_reader("missing")

    assert cost(proxy, missing) == 1


def test_rs_7_5_go_p3_a_listing_costs_a_request_for_a_thousand_keys_however_many_folders(proxy, store):
    client = sdk("seaweedfs")
    for number in range(300):
        client.put_object(Bucket=store.bucket, Key=f"{store._prefix}d{number % 100}/{number}", Body=b"x")
    proxy.forget()
    infos = list(store.list())
    assert len(infos) == 300
    assert all(info.size == 1 and info.etag and info.modified_at for info in infos)
    assert len(proxy.requests) == 1, "no HEAD for any of them"
    assert cost(proxy, lambda: list(store.list_dir())) == 1
    proxy.forget()
    assert [error for _, error in store.delete_many(info.path for info in infos)] == [None] * 300
    assert len(proxy.requests) == 1
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


def test_a_long_body_is_an_upload_in_parts_side_by_side(proxy, store):
    part = store.part_size
    data = bytes(range(256)) * (part // 256) * 3 + b"tail"
    put(store, "long", data)
    assert [line.split(" ")[0] for line in proxy.requests].count("PUT") == 4
    assert len(proxy.requests) == 6
    assert store.stat("long").size == len(data)
    assert ops.read_bytes(store, "long", ReadOptions(part - 2, 4)) == data[part - 2 : part + 2]
    assert ops.read_bytes(store, "long") == data


def test_a_body_of_exactly_one_part_is_one_request(proxy, store):
    assert cost(proxy, lambda: put(store, "x", b"1" * store.part_size)) == 1
    assert cost(proxy, lambda: put(store, "x", b"1" * (store.part_size + 1))) == 4


def test_a_small_object_of_records_is_one_request_through_all_layers(proxy, store):
    def write():
        with open_records(store, "logs/a.ndjson.zst", "w") as records:
            records.write_many({"n": n} for n in range(1000))

    def read():
        with open_records(store, "logs/a.ndjson.zst") as records:
            assert sum(record["n"] for record in records) == 499_500

    assert cost(proxy, write) == 1
    assert cost(proxy, read) == 1
    with RollingRecordWriter(store, "{k}/{seq}.ndjson.gz") as writer:
        writer.write_many({"k": n % 3, "n": n} for n in range(30))
    proxy.forget()
    assert len(list(store.list())) == 4


def test_prepare_makes_a_small_body_an_upload_of_one_part(proxy, store):
    for data in (b"small", b""):
        writer = store.open_writer("x")
        writer.write(data)
        writer.prepare()
        assert not store.exists("x")
        assert [line.split(" ")[0] for line in proxy.requests[-3:]] == ["POST", "PUT", "HEAD"]
        assert cost(proxy, writer.close) == 1
        assert ops.read_bytes(store, "x") == data
        store.delete("x")


def test_rs_7_2_pain_14_sixteen_writers_of_one_new_key_have_one_winner(store):
    won, lost, start = [], [], threading.Barrier(16)

    def run(number):
        writer = store.open_writer("key", WriteOptions(overwrite=False))
        writer.write(b"%d" % number)
        start.wait(60)
        try:
            writer.close()
            won.append(number)
        except AlreadyExists:
            lost.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(won), len(lost)) == (1, 15)
    assert ops.read_bytes(store, "key") == b"%d" % won[0]


def test_conditions_go_with_the_end_of_an_upload_where_the_server_keeps_them():
    """SeaweedFS lets more than one of sixteen such uploads win, now and then: there the condition is refused."""
    with Proxy(server("moto")["port"]) as proxy, fresh("moto", endpoint=proxy.url, conditional_writes=True) as store:
        put(store, "key", b"old")
        proxy.forget()
        with pytest.raises(AlreadyExists):
            put(store, "key", b"1" * (store.part_size + 1), overwrite=False)
        posts = [head for line, head in zip(proxy.requests, proxy.heads, strict=True) if line.startswith("POST")]
        assert b"If-None-Match: *" in posts[1]
        assert proxy.requests[-1].startswith("DELETE"), "the upload is aborted"
        assert ops.read_bytes(store, "key") == b"old"
    with fresh("seaweedfs") as store, pytest.raises(CapabilityNotSupported, match="part_size"):
        put(store, "key", b"1" * (store.part_size + 1), overwrite=False)


def test_conditions_of_a_copy_go_with_the_request(proxy, store):
    put(store, "src", b"new", user_metadata={"k": "v"})
    put(store, "dst", b"old")
    with pytest.raises(AlreadyExists):
        store.copy("src", "dst", CopyOptions(overwrite=False))
    store.copy("src", "dst2", CopyOptions(overwrite=False))
    assert store.stat("dst2").metadata == {"k": "v"}, "the write id is hidden"
    assert ops.read_bytes(store, "dst") == b"old"
