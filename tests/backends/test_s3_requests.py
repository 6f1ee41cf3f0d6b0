"""How many requests the calls of S3 cost, and what is in them, seen by a proxy between us and SeaweedFS."""

import io
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from omnistorage import RollingRecordWriter, S3Backend, open_records, ops
from omnistorage.backends.object_store.client import Put
from omnistorage.backends.s3 import response_marks
from omnistorage.backends.s3.botocore_tuning import parse_time, send_at_once
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    CapabilityNotSupported,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
)

from ..budget import pick
from ..servers import server
from ..servers.proxy import Lost, Proxy
from ..waiting import LIMIT
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
    count = pick(default=100, ci=300, soak=300)
    for number in range(count):
        client.put_object(Bucket=store.bucket, Key=f"{store._prefix}d{number % (count // 3)}/{number}", Body=b"x")
    proxy.forget()
    infos = list(store.list())
    assert len(infos) == count
    assert all(info.size == 1 and info.etag and info.modified_at for info in infos)
    assert len(proxy.requests) == 1, "no HEAD for any of them"
    assert cost(proxy, lambda: list(store.list_dir())) == 1
    proxy.forget()
    assert [error for _, error in store.delete_many(info.path for info in infos)] == [None] * count
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


def test_a_copy_that_may_replace_nothing_is_one_request(proxy, store):
    info = put(store, "a", user_metadata={"k": "v"}, content_type="text/x")
    create = CopyOptions(overwrite=False, source_if_match=info.etag)
    assert cost(proxy, lambda: store.copy("a", "new", create)) == 1
    there = store.stat("new")
    assert (there.etag, there.metadata, there.content_type) == (info.etag, {"k": "v"}, "text/x")
    replace = CopyOptions(if_match=there.etag, source_if_match=put(store, "a", b"other").etag)
    assert cost(proxy, lambda: store.copy("a", "new", replace)) == 1
    assert ops.read_bytes(store, "new") == b"other"


def test_which_condition_of_a_copy_failed_is_told(store):
    info = put(store, "a")
    there = put(store, "there", b"mine")
    for options, error in (
        (CopyOptions(overwrite=False, source_if_match=info.etag), AlreadyExists),
        (CopyOptions(overwrite=False, source_if_match="0" * 32), PreconditionFailed),
        (CopyOptions(if_match="0" * 32, source_if_match=info.etag), PreconditionFailed),
        (CopyOptions(if_match=there.etag, source_if_match="0" * 32), PreconditionFailed),
    ):
        with pytest.raises(error) as caught:
            store.copy("a", "there", options)
        assert ("source" in str(caught.value)) == (options.source_if_match == "0" * 32)
        assert ops.read_bytes(store, "there") == b"mine"
    with pytest.raises(PreconditionFailed, match="source"):
        store.copy("a", "new", CopyOptions(overwrite=False, source_if_match="0" * 32))
    assert not store.exists("new")


@pytest.mark.parametrize("conditions", [{"overwrite": False}, {"if_match": "there"}])
def test_goal_26_a_copy_whose_answer_was_lost_is_found(proxy, store, conditions):
    info, old = put(store, "a", b"new"), put(store, "dst", b"old")
    if "if_match" in conditions:
        conditions = {"if_match": old.etag}
    else:
        store.delete("dst")
    proxy.next(Lost("PUT"))
    made = store.copy("a", "dst", CopyOptions(source_if_match=info.etag, **conditions))
    assert made.etag == info.etag
    assert ops.read_bytes(store, "dst") == b"new"


def test_goal_26_somebody_elses_object_behind_a_lost_answer_is_no_success(proxy, store):
    info = put(store, "a", b"new")
    put(store, "dst", b"somebody else's")
    proxy.next(Lost("PUT"))
    with pytest.raises((AlreadyExists, OutcomeUnknown)):
        store.copy("a", "dst", CopyOptions(overwrite=False, source_if_match=info.etag))
    assert ops.read_bytes(store, "dst") == b"somebody else's"


def test_a_short_body_goes_with_its_headers_and_a_long_one_waits_for_a_word():
    for size, waits in ((0, False), (1 << 20, False), ((1 << 20) + 1, True)):
        body = io.BytesIO(b"x" * size)
        params = {"body": body, "headers": {"Expect": "100-continue"}}
        send_at_once(params=params)
        assert ("Expect" in params["headers"]) is waits
        assert body.tell() == 0
    for params in ({"headers": {}}, {"body": b"", "headers": {"Expect": "100-continue"}}):
        send_at_once(params=params)


def test_the_sdk_asks_for_a_word_before_a_long_body_alone(proxy, store):
    for size, waits in ((10, False), ((1 << 20) + 1, True)):
        proxy.forget()
        put(store, "x", b"x" * size)
        assert (b"100-continue" in proxy.heads[0]) is waits
        assert ops.read_bytes(store, "x") == b"x" * size


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T08:09:10.000Z", datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
        ("2026-11-22T08:09:10Z", datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
        ("2026-11-22T10:09:10.5+02:00", datetime(2026, 11, 22, 8, 9, 10, 500_000, tzinfo=UTC)),
        ("2026-11-22T08:09:10", datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
        ("Sun, 22 Nov 2026 08:09:10 GMT", datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
        ("1795334950.0", datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
        (1795334950, datetime(2026, 11, 22, 8, 9, 10, tzinfo=UTC)),
    ],
)
def test_times_of_answers_are_read_in_every_form_that_servers_use(text, moment):
    assert parse_time(text) == moment
    with pytest.raises(ValueError, match="soon"):
        parse_time("soon")


def test_parts_are_listed_of_a_server_that_names_the_document_otherwise():
    with fresh("moto") as moto, S3Backend(**{**moto._options, "vendor": "other"}) as store:
        upload = store.client.start_upload(store._prefix + "x", Put("text/plain"))
        store.client.put_part(upload, 1, b"part")
        old = timedelta(seconds=-5)
        assert [(info.path, info.size) for info in store.stale_uploads(older_than=old)] == [("x", 4)]
        assert store.remove_stale_uploads(older_than=old) == 1


@pytest.mark.parametrize(
    ("root", "transient"), [("ListPartsAnswer", False), ("html", True), ("Error", True), ("", True)]
)
def test_a_list_in_another_dialect_is_not_asked_for_again(root, transient):
    check = response_marks.checker(request_ids=False, loose=frozenset())
    answer = SimpleNamespace(status_code=200, headers={}, content=f"<?xml version='1.0'?><{root}></{root}>".encode())
    with pytest.raises(BackendUnavailable) as caught:
        check(http_response=answer, parsed={"IsTruncated": False}, model=SimpleNamespace(name="ListParts"))
    assert caught.value.transient is transient


@pytest.mark.parametrize("text", ["1e300", "-1e18", "nan", "9" * 5000, "0001-01-01T00:00:00+14:00", "99999-01-01"])
def test_a_time_beyond_the_calendar_is_none(text):
    with pytest.raises(ValueError):
        parse_time(text)
