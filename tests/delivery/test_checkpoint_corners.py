"""``ResumableWriter`` where two processes, several stores, or bad luck have a part in it."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest

from omnistorage import LocalBackend, MemoryBackend, MultiBackend, open_records, ops
from omnistorage.backends.object_store.client import Put
from omnistorage.backends.s3.resumable import _digest
from omnistorage.core import WRITE, ResumableWrite, WriteOptions, power
from omnistorage.delivery import ResumableWriter
from omnistorage.delivery.resumable.part_objects import beside
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    StorageError,
    WriterClosed,
)
from omnistorage.formats.csv import Csv
from omnistorage.wrappers.base import Wrapper

from ..waiting import LIMIT
from .resumed import TEXT, again, ended, kept, left, raw, tiny_s3

OLD = timedelta(days=-1)


def test_a_forked_child_takes_nothing_away(tmp_path):
    store = LocalBackend(tmp_path)
    writer = raw(store)
    writer.write(TEXT)
    writer.flush()
    before = left(store)
    child = os.fork()
    if not child:
        try:
            writer.abort()
        except WriterClosed:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert left(store) == before != []
    writer.close()
    assert ops.read_bytes(store, "d/x.raw") == TEXT


def test_bad_records_are_counted_over_all_lives():
    store, source, bad = MemoryBackend(), [{"n": 0}, {1}, {"n": 2}, {3}, {"n": 4}, {5}], []
    writer = ResumableWriter(store, "x.ndjson", on_error=bad.append, max_bad=2)
    for end in (2, 3, 5):
        for record in source[writer.records + writer.bad.count : end]:
            writer.write(record)
        assert (writer.records, writer.bad.count) == {2: (1, 1), 3: (2, 1), 5: (3, 2)}[end]
        writer = ResumableWriter.resume(store, ended(writer), on_error=bad.append, max_bad=2)
    assert [error.number for error in bad] == [2, 4]
    with pytest.raises(CorruptData, match="max_bad"):
        writer.write(source[5])
    writer.close()
    assert list(open_records(store, "x.ndjson")) == [{"n": 0}, {"n": 2}, {"n": 4}]


def test_what_is_resumed_is_kept_from_the_first_moment_on():
    with tiny_s3() as store:
        token = kept(store)
        able = power(store, ResumableWrite)
        able.resume_writer("d/x.raw", token["upload"])[0].abort()
        with pytest.raises(BackendUnavailable):
            again(Deaf(store), token)
        with again(store, token) as writer:
            writer.write(TEXT[19:])
        assert ops.read_bytes(store, "d/x.raw") == TEXT


class Deaf(Wrapper):
    """Cannot be asked for tails."""

    def open_reader(self, path, options=None):
        raise BackendUnavailable("not now", path=path)


class OneIsAway(Wrapper):
    """Loses what is about to be published."""

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        if ".resume" not in path:
            writer.close = lambda: (_ for _ in ()).throw(BackendUnavailable("away", path=path))
        return writer


def test_over_a_mirror_published_means_at_as_many_targets_as_are_needed():
    one, two = MemoryBackend(), MemoryBackend()
    writer = raw(MultiBackend([one, OneIsAway(two)]))
    writer.write(TEXT)
    token = writer.checkpoint()
    with pytest.raises(StorageError):
        writer.close()
    assert (one.exists("d/x.raw"), two.exists("d/x.raw")) == (True, False)
    with pytest.raises(AlreadyExists, match="was published"):
        again(MultiBackend([one, two]), token)
    assert ops.read_bytes(two, "d/x.raw") == TEXT
    assert left(one) == left(two) == []


@pytest.mark.parametrize("count", [2, 3])
def test_over_a_mirror_what_was_there_before_is_not_taken_for_what_was_to_come(count):
    stores = [MemoryBackend() for _ in range(count)]
    for store in stores:
        ops.write_bytes(store, "d/x.raw", b"of yesterday")
    writer = raw(MultiBackend([stores[0], *map(OneIsAway, stores[1:])]))
    writer.write(TEXT[:20])
    token = writer.checkpoint()
    with pytest.raises(StorageError):
        writer.close()
    assert ops.read_bytes(stores[0], "d/x.raw") == TEXT[:20]
    with again(MultiBackend(stores), token) as writer:
        writer.write(TEXT[20:])
    assert [ops.read_bytes(store, "d/x.raw") for store in stores] == [TEXT] * count


def test_a_format_of_other_settings_is_refused():
    store, form = MemoryBackend(), Csv(delimiter=";", types={"a": lambda text: int(text)})
    writer = ResumableWriter(store, "x.csv", format=form)
    writer.write({"a": 1, "b": 2})
    token = ended(writer)
    for other in (None, "csv", Csv(delimiter=";", lineterminator="\r\n"), Csv(delimiter="|")):
        with pytest.raises(ConfigError, match="give the same format"):
            ResumableWriter.resume(store, token, format=other)
    form = Csv(delimiter=";", types={"a": lambda text: float(text)})
    with ResumableWriter.resume(store, token, format=form) as writer:
        writer.write({"a": 3, "b": 4})
    assert ops.read_bytes(store, "x.csv") == b"a;b\n1;2\n3;4\n"


@pytest.mark.parametrize("begun", [5, [], "x", {"names": 5}, {"names": [5]}], ids=str)
def test_what_cannot_have_been_begun_is_refused(begun):
    store = MemoryBackend()
    writer = ResumableWriter(store, "x.csv")
    writer.write({"a": 1})
    with pytest.raises(ConfigError, match="no token"):
        ResumableWriter.resume(store, {**ended(writer), "begun": begun})


def test_an_upload_of_somebody_whose_names_are_not_ours_is_found_stale_all_the_same():
    with tiny_s3() as store:
        foreign = store.client.start_upload(store._prefix + "a/../b", Put("text/plain"))
        dead = store.client.start_upload(store._prefix + "c", Put("text/plain"))
        assert {info.path for info in store.stale_uploads(older_than=OLD)} == {"a/../b", "c"}
        assert store.remove_stale_uploads(older_than=OLD) == 2
        assert foreign.id != dead.id


class Slow(Wrapper):
    """Stores nothing before it may."""

    def __init__(self, inner):
        super().__init__(inner)
        self.asked, self.may = threading.Event(), threading.Event()

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        close = writer.close

        def late():
            self.asked.set()
            self.may.wait(LIMIT)
            return close()

        writer.close = late
        return writer


def test_a_part_that_is_stored_after_an_abort_is_taken_back(tmp_path):
    store = LocalBackend(tmp_path)
    slow = Slow(store)
    writer = raw(slow)

    def work():
        with pytest.raises(StorageError):
            writer.write(TEXT)
            writer.flush()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert slow.asked.wait(LIMIT)
    writer.abort()
    slow.may.set()
    thread.join(LIMIT)
    assert list(tmp_path.rglob("*part*")) == []


def test_an_upload_that_is_gone_takes_its_tail_with_it():
    with tiny_s3() as store:
        token = kept(store)
        power(store, ResumableWrite).discard_write("d/x.raw", token["upload"])
        with pytest.raises(NotFound):
            again(store, token)
        assert left(store) == []
        dead = store.client.start_upload(store._prefix + "d/x.raw", Put("text/plain"))
        assert [info.path for info in store.stale_uploads(older_than=OLD)] == ["d/x.raw"]
        store.client.abort_upload(dead)


def test_discard_needs_nothing_to_be_as_it_was():
    with tiny_s3() as store:
        for wrong in ({"parts": 9}, {"tags": "0" * 64}):
            token = kept(store)
            ResumableWriter.discard(store, {**token, "upload": {**token["upload"], **wrong}})
            assert left(store) == []
        early = raw(store)
        early.write(TEXT[:3])
        token = early.checkpoint()
        early.write(TEXT[3:])
        early.checkpoint()
        early.abort()
        ResumableWriter.discard(store, token)
        assert store.remove_stale_uploads(older_than=OLD) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"part_size": 1e999}, {"part_size": "8"}, {"size": "abc"}, {"parts": -1}, {"upload": 5}, {"put": {"key": 5}}],
    ids=str,
)
def test_a_token_of_an_upload_that_cannot_be_is_refused(wrong):
    with tiny_s3() as store:
        token = kept(store)
        for put in ({}, {"put": {**token["upload"]["put"], "metadata": 5}}):
            with pytest.raises(ConfigError, match="no token"):
                again(store, {**token, "upload": {**token["upload"], **wrong, **put}})
        ResumableWriter.discard(store, token)


def test_what_stands_beside_an_object_is_encrypted_like_it_and_never_archived():
    extra = {"s3.server_side_encryption": "aws:kms", "s3.storage_class": "GLACIER", "azure.access_tier": "Archive"}
    assert beside(WriteOptions(durable=True, overwrite=False, extra=extra)) == WriteOptions(
        durable=True, extra={"s3.server_side_encryption": "aws:kms"}
    )
    assert beside(WriteOptions(content_type="x")) == WRITE


def test_a_client_without_checksums_finds_the_parts_of_one_with_them():
    assert _digest({1: '"a" crc', 2: '"b"'}, 2) == _digest({1: '"a"', 2: '"b" crc'}, 2) != _digest({1: '"b"'}, 1)


def test_a_name_that_leaves_no_room_for_those_of_the_parts_is_refused_at_once():
    store = MemoryBackend()
    with pytest.raises(InvalidPath):
        raw(store, "/".join(["x" * 100] * 10) + ".raw")
    assert list(store.list()) == []


@pytest.mark.parametrize("target", [None, 5, object()], ids=["None", "a number", "an object"])
def test_what_is_no_place_is_refused(target):
    with pytest.raises(ConfigError, match="a target is"):
        ResumableWriter(target, "x.ndjson")
    with pytest.raises(ConfigError, match="WriteOptions"):
        ResumableWriter(MemoryBackend(), "x.ndjson", options=target)


def test_clean_leaves_what_only_looks_like_ours():
    store = MemoryBackend()
    mine = f"x.resume/{'0' * 32}/part-of.ndjson"
    ops.write_bytes(store, mine, b"mine")
    assert ResumableWriter.clean(store, older_than=OLD, checkpoints=True) == 0
    assert store.exists(mine)
