"""A long upload of a killed run goes on where it was."""

import os
import subprocess
import sys
import threading

import pytest

from omnistorage import ops
from omnistorage.backends._object_client import Put, Upload
from omnistorage.core import ResumableWrite, WriteOptions, power
from omnistorage.errors import AlreadyExists, ConfigError, NotFound
from omnistorage.sync import sync
from omnistorage.sync.partitions import execute, prepare
from omnistorage.wrappers import Observe, Prefix

from ..backends.test_s3 import fresh
from ..servers import server
from ..servers.proxy import Proxy

PART = 5 << 20
LONG = 6 * PART + 12_345
CHILD = "import sys; from omnistorage.sync.partitions import execute; execute(sys.argv[1])"


@pytest.fixture
def proxy():
    with Proxy(server("seaweedfs")["port"]) as proxy:
        yield proxy


@pytest.fixture
def store(proxy):
    with fresh("seaweedfs", endpoint=proxy.url, part_size=PART) as store:
        yield store


def parts_sent(proxy):
    return [int(line.partition("partNumber=")[2].partition("&")[0]) for line in proxy.requests if "partNumber=" in line]


def left(store):
    """Uploads that nobody has ended."""
    return [upload for _, upload, _ in store.client.uploads(store._prefix, None)[0]]


# -- the power ---------------------------------------------------------------------------------------------------------


def begun(store, parts, path="x", **options):
    """What a process that died has left: ``parts`` parts of an upload, and its token."""
    data = os.urandom(parts * PART + 100)
    writer = store.open_writer(path, WriteOptions(**options))
    writer.write(data)
    writer._parts.join()
    token = power(store, ResumableWrite).token_of(writer)
    writer._state = "closed"  # its process is gone
    return data, token


@pytest.mark.parametrize(
    "wrap",
    [lambda store: store, lambda store: Observe(store, lambda event: None), lambda store: Prefix(store, "deep/er")],
)
def test_another_process_goes_on_behind_the_last_whole_part(store, proxy, wrap):
    view = wrap(store)
    writer = view.open_writer("x", WriteOptions(user_metadata={"k": "v"}, content_type="text/x", size=LONG))
    data = os.urandom(LONG)
    writer.write(data[: 3 * PART + 5])
    getattr(writer, "inner", writer)._parts.join()
    able = power(view, ResumableWrite)
    token = able.token_of(writer)
    getattr(writer, "inner", writer)._state = "closed"
    proxy.forget()
    again, size = able.resume_writer("x", token)
    assert size == 3 * PART
    with again:
        again.write(data[size:])
    assert ops.read_bytes(view, "x") == data
    info = view.stat("x")
    assert (info.metadata, info.content_type, info.size) == ({"k": "v"}, "text/x", LONG)
    assert sorted(parts_sent(proxy)) == [4, 5, 6, 7]
    assert again.result.size == LONG
    assert left(store) == []


def test_nothing_was_sent_so_there_is_no_token(store):
    able = power(store, ResumableWrite)
    with store.open_writer("x") as writer:
        assert able.token_of(writer) is None
        writer.write(b"short")
        assert able.token_of(writer) is None


def test_a_gap_is_where_it_goes_on(store):
    data, token = begun(store, 4)
    client = store.client
    other = client.start_upload(store._prefix + "x", Put(**token["put"]))
    for number in (1, 2, 4):
        client.put_part(other, number, data[(number - 1) * PART : number * PART])
    writer, size = power(store, ResumableWrite).resume_writer("x", {**token, "upload": other.id})
    assert size == 2 * PART
    with writer:
        writer.write(data[size:])
    assert ops.read_bytes(store, "x") == data


def test_what_is_gone_or_wrong_is_said(store):
    _, token = begun(store, 2)
    able = power(store, ResumableWrite)
    for wrong in ({}, {**token, "key": "other"}, {**token, "part_size": "x"}, {**token, "put": {"no": 1}}):
        with pytest.raises(ConfigError):
            able.resume_writer("x", wrong)
    with pytest.raises(ConfigError, match="another object"):
        able.resume_writer("y", token)
    writer, _ = able.resume_writer("x", token)
    writer.abort()
    assert left(store) == []
    with pytest.raises(NotFound):
        able.resume_writer("x", token)
    assert not store.exists("x")


def test_conditions_of_the_first_writer_hold_for_the_second():
    with fresh("seaweedfs", part_size=PART, conditional_uploads=True) as store:
        data, token = begun(store, 2, overwrite=False)
        ops.write_bytes(store, "x", b"somebody was faster")
        writer, size = power(store, ResumableWrite).resume_writer("x", token)
        writer.write(data[size:])
        try:
            writer.close()
        except AlreadyExists:
            assert ops.read_bytes(store, "x") == b"somebody was faster"


# -- the plan ----------------------------------------------------------------------------------------------------------


def place(store):
    info = server("seaweedfs")
    os.environ |= {"OMNISTORAGE_TEST_KEY": info["access_key"], "OMNISTORAGE_TEST_SECRET": info["secret_key"]}
    options = {
        "bucket": store.bucket, "endpoint_url": store.endpoint_url, "access_key": "${OMNISTORAGE_TEST_KEY}",
        "secret_key": "${OMNISTORAGE_TEST_SECRET}", "vendor": "seaweedfs", "part_size": PART, "concurrency": 2,
    }  # fmt: skip
    return {"type": "s3", "options": options, "prefix": store._prefix.strip("/")}


def killed_after(proxy, plan, parts):
    """Carry the plan out in a process that dies when it has sent so many parts."""
    proxy.forget()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(plan)], stderr=subprocess.PIPE)
    pause = threading.Event()
    while child.poll() is None and len(parts_sent(proxy)) < parts:
        pause.wait(0.002)
    child.kill()
    code = child.wait()
    child.stderr.close()
    assert code != 0, "it was not killed in time"


def test_a_killed_upload_goes_on_and_sends_no_part_that_was_there(tmp_path, store, proxy):
    source, plan = tmp_path / "source", tmp_path / "plan"
    source.mkdir()
    data = os.urandom(LONG)
    (source / "long").write_bytes(data)
    prepare(source, place(store), plan)
    killed_after(proxy, plan, 4)
    assert not store.exists("long")
    (upload,) = left(store)
    there = {
        number
        for number, size, _ in store.client.tagged(Upload(store._prefix + "long", upload, Put("x")), None)[0]
        if size == PART
    }
    whole = next(number for number in range(10) if number + 1 not in there)
    assert whole >= 1
    proxy.forget()
    report = execute(plan)
    assert report.ok
    assert ops.read_bytes(store, "long") == data
    assert sorted(parts_sent(proxy)) == list(range(whole + 1, 8))
    assert report.bytes == LONG - whole * PART
    assert left(store) == []
    proxy.forget()
    assert execute(plan).ok
    assert parts_sent(proxy) == []


def test_a_source_that_changed_meanwhile_is_not_put_behind_the_old_parts(tmp_path, store, proxy):
    source, plan = tmp_path / "source", tmp_path / "plan"
    source.mkdir()
    (source / "long").write_bytes(os.urandom(LONG))
    prepare(source, place(store), plan)
    killed_after(proxy, plan, 3)
    (source / "long").write_bytes(os.urandom(LONG))
    report = execute(plan, raise_errors=False)
    assert report.failed == 1
    assert not store.exists("long")
    assert left(store) == []
    assert sync(source, store).ok
    assert ops.read_bytes(store, "long") == (source / "long").read_bytes()


def test_an_upload_that_is_gone_begins_anew(tmp_path, store, proxy):
    source, plan = tmp_path / "source", tmp_path / "plan"
    source.mkdir()
    data = os.urandom(LONG)
    (source / "long").write_bytes(data)
    prepare(source, place(store), plan)
    killed_after(proxy, plan, 3)
    for upload in left(store):
        store._abort(store._prefix + "long", upload)
    assert execute(plan).ok
    assert ops.read_bytes(store, "long") == data
