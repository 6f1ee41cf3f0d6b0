"""A long upload of a killed run goes on where it was."""

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from omnistorage import LocalBackend, MemoryBackend, ops
from omnistorage.backends.object_store.client import Put
from omnistorage.core import ResumableWrite, WriteOptions, power
from omnistorage.errors import AlreadyExists, ConfigError, CorruptData, NotFound
from omnistorage.sync import Plan, run, sync
from omnistorage.sync.execution.journal import Journal
from omnistorage.sync.execution.partitions import execute, prepare
from omnistorage.wrappers import Observe, Prefix

from ..backends.test_s3 import fresh
from ..delivery.resumed import tiny_s3
from ..servers import server
from ..servers.proxy import Proxy
from ..waiting import LIMIT, until

PART = 5 << 20
LONG = 4 * PART + 12_345
CHILD = "import sys; from omnistorage.sync.execution.partitions import execute; execute(sys.argv[1])"


# A store whose parts may be short; and at length one whose parts may not.
on_both = pytest.mark.parametrize(
    "proxy", ["moto_tiny", pytest.param("seaweedfs", marks=pytest.mark.ci_only)], indirect=True
)


@pytest.fixture
def proxy(request):
    name = getattr(request, "param", "seaweedfs")
    with Proxy(server(name)["port"]) as proxy:
        proxy.server = name
        yield proxy


@pytest.fixture
def store(proxy):
    if proxy.server == "moto_tiny":
        store = tiny_s3(endpoint=proxy.url, part_size=1 << 14)
    else:
        store = fresh("seaweedfs", endpoint=proxy.url, part_size=PART)
    with store:
        yield store


def parts_sent(proxy):
    return [int(line.partition("partNumber=")[2].partition("&")[0]) for line in proxy.requests if "partNumber=" in line]


def left(store):
    """Uploads that nobody has ended."""
    return [upload for _, upload, _ in store.client.uploads(store._prefix, None)[0]]


# -- the power ---------------------------------------------------------------------------------------------------------


def begun(store, parts, path="x", **options):
    """What a process that died has left: ``parts`` parts of an upload, and its token."""
    data = os.urandom(parts * store.part_size + 100)
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
@on_both
def test_another_process_goes_on_behind_the_last_whole_part(store, proxy, wrap):
    view, part = wrap(store), store.part_size
    data = os.urandom(4 * part + 12_345)
    writer = view.open_writer("x", WriteOptions(user_metadata={"k": "v"}, content_type="text/x", size=len(data)))
    writer.write(data[: 3 * part + 5])
    getattr(writer, "inner", writer)._parts.join()
    able = power(view, ResumableWrite)
    token = able.token_of(writer)
    getattr(writer, "inner", writer)._state = "closed"
    proxy.forget()
    again, size = able.resume_writer("x", token)
    assert size == 3 * part
    with again:
        again.write(data[size:])
    assert ops.read_bytes(view, "x") == data
    info = view.stat("x")
    assert (info.metadata, info.content_type, info.size) == ({"k": "v"}, "text/x", len(data))
    assert sorted(parts_sent(proxy)) == [4, 5]
    assert again.result.size == len(data)
    assert left(store) == []


@on_both
def test_nothing_was_sent_so_there_is_no_token(store):
    able = power(store, ResumableWrite)
    with store.open_writer("x") as writer:
        assert able.token_of(writer) is None
        writer.write(b"short")
        assert able.token_of(writer) is None


@pytest.mark.ci_only
@on_both
def test_a_gap_is_where_it_goes_on(store):
    data, token = begun(store, 4)
    client, part = store.client, store.part_size
    other = client.start_upload(store._prefix + "x", Put(**token["put"]))
    for number in (1, 2, 4):
        client.put_part(other, number, data[(number - 1) * part : number * part])
    client.put_part(other, 3, b"the end of another writer, and so no whole part")
    writer, size = power(store, ResumableWrite).resume_writer("x", {**token, "upload": other.id})
    assert size == 2 * part
    with writer:
        writer.write(data[size:])
    assert ops.read_bytes(store, "x") == data


@on_both
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
    empty = store.client.start_upload(store._prefix + "x", Put(**token["put"]))
    with pytest.raises(NotFound):
        able.resume_writer("x", {**token, "upload": empty.id})
    assert not store.exists("x")


def test_conditions_of_the_first_writer_hold_for_the_second():
    with (
        Proxy(server("moto")["port"]) as proxy,
        fresh("moto", endpoint=proxy.url, part_size=PART, conditional_writes=True) as store,
    ):
        data, token = begun(store, 2, overwrite=False)
        ops.write_bytes(store, "x", b"somebody was faster")
        writer, size = power(store, ResumableWrite).resume_writer("x", token)
        writer.write(data[size:])
        with pytest.raises(AlreadyExists):
            writer.close()
        assert ops.read_bytes(store, "x") == b"somebody was faster"
        _, token = begun(store, 2, if_match="seen-before")
        writer, _ = power(store, ResumableWrite).resume_writer("x", token)
        writer.close()  # this server looks at If-None-Match alone
        ends = [head for line, head in zip(proxy.requests, proxy.heads, strict=True) if "uploadId=" in line]
        assert b'If-Match: "seen-before"' in [head for head in ends if head.startswith(b"POST")][-1]


@on_both
def test_what_was_announced_of_the_size_holds_for_the_second_writer(store):
    data, token = begun(store, 2, size=2 * store.part_size + 100)
    writer, size = power(store, ResumableWrite).resume_writer("x", token)
    writer.write(data[size:-1])
    with pytest.raises(CorruptData):
        writer.close()
    assert not store.exists("x")


@on_both
def test_parts_are_asked_for_page_by_page(store, monkeypatch):
    data, token = begun(store, 4)
    real = type(store.client).tagged

    def paged(client, upload, after):
        """A page of two parts, in an order of the server's own."""
        found, _ = real(client, upload, None)
        after = after or 0
        return found[::-1][after : after + 2], after + 2 if after + 2 < len(found) else None

    monkeypatch.setattr(type(store.client), "tagged", paged)
    writer, size = power(store, ResumableWrite).resume_writer("x", token)
    assert size == 4 * store.part_size
    with writer:
        writer.write(data[size:])
    assert ops.read_bytes(store, "x") == data


@on_both
def test_no_other_writer_has_a_token(store, tmp_path):
    able = power(store, ResumableWrite)
    with LocalBackend(tmp_path).open_writer("x") as writer:
        writer.write(b"data")
        assert able.token_of(writer) is None


# -- the plan ----------------------------------------------------------------------------------------------------------


class Noted(Plan):
    """Of a run that died it knows the token."""

    left = None
    keeps_tokens = True

    def take_token(self, action):
        taken, self.left = self.left, None
        return taken

    def keep_token(self, action, token):
        self.left = token


@on_both
def test_what_comes_in_ranges_goes_on_behind_the_parts_that_are_there(store, proxy, monkeypatch):
    monkeypatch.setattr("omnistorage.sync.execution.parallel_reader.LANE", store.part_size // 4)
    data, token = begun(store, 2, "long")
    source = MemoryBackend(dirs=False)
    ops.write_bytes(source, "long", data)
    with Noted(source, store, multi_thread_cutoff=0, multi_thread_streams=4) as plan:
        plan.left = {"upload": token}
        proxy.forget()
        report = run(plan)
    assert report.bytes == len(data) - 2 * store.part_size
    assert parts_sent(proxy) == [3]
    assert ops.read_bytes(store, "long") == data


@on_both
def test_a_move_that_must_know_every_byte_begins_anew(store, proxy):
    data, token = begun(store, 2, "long")
    source = MemoryBackend()
    ops.write_bytes(source, "long", data)
    with Noted(source, store, move=True) as plan:
        plan.left = {"upload": token}
        proxy.forget()
        assert run(plan).ok
    assert sorted(parts_sent(proxy)) == [1, 2, 3]
    assert ops.read_bytes(store, "long") == data
    assert list(source.list()) == []


def test_a_token_is_noted_as_soon_as_there_is_an_upload_and_never_of_a_short_one(store):
    source = MemoryBackend()
    ops.write_bytes(source, "short", b"x" * 100)
    with Noted(source, store) as plan:
        run(plan)
        assert plan.left is None
    ops.write_bytes(source, "long", os.urandom(3 * PART))
    known = []

    def listen(event):
        if event.kind == "bytes":
            known.append(plan.left is not None)

    with Noted(source, store) as plan:
        run(plan, listeners=[listen])
    assert not known[0]
    assert known[-(2 * PART >> 20) :] == [True] * 10, "noted with the first of three parts"


def journals(folder, *notes):
    """What of ``notes`` an execution that died has left; the journal of the next one."""
    with closing(Journal(folder, 1)) as first:
        for note in notes:
            first.keep_token(7, note)
    return closing(Journal(folder, 2))


def test_a_note_of_the_dead_is_taken_by_one_and_of_the_living_by_nobody(tmp_path):
    with journals(tmp_path, {"upload": "old"}, {"upload": "u"}) as second, closing(Journal(tmp_path, 3)) as third:
        second.keep_token(8, {"upload": "under way"})
        assert third.take_token(8) is None
        assert third.take_token(9) is None
        assert third.take_token(7) == {"upload": "u"}
        assert second.take_token(7) is None
        assert third.take_token(7) is None
        second.keep_token(7, {"upload": "v"})
        assert third.take_token(7) is None
    with closing(Journal(tmp_path, 4)) as fourth:
        assert fourth.take_token(7) == {"upload": "v"}


@pytest.mark.parametrize("wrong", ['{"upload": "u', "[1]", "\xff", ""])
def test_a_note_that_is_no_token_is_none(tmp_path, wrong):
    with journals(tmp_path, {"upload": "u"}) as journal:
        (note,) = (tmp_path / "uploads").iterdir()
        note.write_text(wrong, encoding="latin-1")
        assert journal.take_token(7) is None


def test_a_note_that_cannot_be_written_stops_nothing_and_is_never_half_there(tmp_path, monkeypatch):
    real = Path.write_bytes

    def half(path, data):
        real(path, data[: len(data) // 2])
        raise OSError("no space is left")

    with closing(Journal(tmp_path, 1)) as first:
        first.keep_token(7, {"upload": "first"})
        monkeypatch.setattr(Path, "write_bytes", half)
        first.keep_token(7, {"upload": "second"})
    with closing(Journal(tmp_path, 2)) as second:
        assert second.take_token(7) == {"upload": "first"}


def place(store):
    info = server("seaweedfs")
    os.environ |= {"OMNISTORAGE_TEST_KEY": info["access_key"], "OMNISTORAGE_TEST_SECRET": info["secret_key"]}
    options = {
        "bucket": store.bucket, "endpoint_url": store.endpoint_url, "access_key": "${OMNISTORAGE_TEST_KEY}",
        "secret_key": "${OMNISTORAGE_TEST_SECRET}", "vendor": "seaweedfs", "part_size": PART, "concurrency": 1,
    }  # fmt: skip
    return {"type": "s3", "options": options, "prefix": store._prefix.strip("/")}


class Gate(list):
    """The requests of a proxy. The one that brings part ``number`` waits, and so does the proxy."""

    def __init__(self, number):
        self.number, self.reached, self.freed = number, threading.Event(), threading.Event()

    def append(self, line):
        super().append(line)
        if f"partNumber={self.number}&" in line + "&" and not self.freed.is_set():
            self.reached.set()
            assert self.freed.wait(LIMIT)


def killed_after(proxy, plan, parts):
    """Carry the plan out in a process that dies as it sends so many parts; the last of them does not arrive."""
    proxy.forget()
    proxy.requests = gate = Gate(parts)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(plan)], stderr=subprocess.PIPE)
    until(lambda: gate.reached.is_set() or child.poll() is not None)
    child.kill()
    gate.freed.set()
    code = child.wait(LIMIT)
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
    assert len(left(store)) == 1
    proxy.forget()
    report = execute(plan)
    assert report.ok
    assert ops.read_bytes(store, "long") == data
    # One part after the other: when the fourth began, three had arrived.
    assert sorted(parts_sent(proxy)) == [4, 5]
    assert report.bytes == LONG - 3 * PART
    assert left(store) == []
    proxy.forget()
    assert execute(plan).ok
    assert parts_sent(proxy) == []


@pytest.mark.ci_only
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


@pytest.mark.ci_only
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
