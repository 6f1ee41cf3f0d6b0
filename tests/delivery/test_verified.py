"""A store that keeps something else than it was given, and says so truthfully, is not believed: nothing is acknowledged
for it, and what it keeps is not taken for published later."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import pytest

from omnistorage import (
    CapabilityNotSupported,
    CorruptData,
    MemoryBackend,
    OutcomeUnknown,
    PermissionDenied,
    open_records,
    ops,
)
from omnistorage.core import WRITE
from omnistorage.delivery import DatasetWriter, ResumableWriter, RollingRecordWriter
from omnistorage.testing import BasicBackend
from omnistorage.wrappers import Encrypt
from omnistorage.wrappers.base import Wrapper

from ..waiting import until
from .conftest import numbers, paths
from .dataset_world import Inline, expected, is_clean, read, share
from .spooling import spooled


class Short(Wrapper):
    """Keeps ``less`` bytes less of the first ``times`` objects whose path holds ``word``. ``says`` makes what ``close``
    returns of what is true."""

    def __init__(self, inner, word="", times=1000, says=lambda info: info, less=1):
        super().__init__(inner)
        self.word, self.times, self.says, self.less, self.wrong = word, times, says, less, []
        self.refuses = None

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        if self.word not in path or len(self.wrong) == self.times:
            return writer
        self.wrong.append(path)
        held, write, prepare, close = bytearray(), writer.write, writer.prepare, writer.close

        def keep(data):
            held.extend(data)
            return len(data)

        def cut():
            writer.prepare = prepare
            write(bytes(held[: -self.less]))
            held.clear()
            prepare()

        def publish():
            if held:
                cut()
            return self.says(close())

        writer.write, writer.prepare, writer.close = keep, cut, publish
        return writer

    def delete(self, path, *, if_match=None):
        if self.refuses is not None:
            self.refuses(path, if_match)
        return self.inner.delete(path, if_match=if_match)


def written(store, folder, **settings):
    """A writer of three records, which are one object."""
    writer = spooled(store, folder, spool={"close_timeout": 0.2}, roll_records=3, **settings)
    for n in range(3):
        writer.write({"n": n})
    writer.flush()
    return writer


def tried(store, folder, **settings):
    """Such a writer, when it has tried at least twice."""
    writer = written(store, folder, **settings)
    until(lambda: len(store.wrong) > 2)
    return writer


NAMES = {"unique": "{seq:04d}.ndjson", "deterministic": "{start:04d}.ndjson"}


@pytest.mark.parametrize("names", NAMES)
def test_no_record_is_acknowledged_for_an_object_that_the_store_has_cut_short(tmp_path, names):
    store = Short(MemoryBackend())
    writer = tried(store, tmp_path, template=NAMES[names], names=names)
    with pytest.raises(CorruptData, match="23 bytes of 24") as caught:
        writer.close()
    assert caught.value.path == "0000.ndjson"
    assert (writer.progress.spooled, writer.progress.records) == (3, 0)
    assert paths(store) == [], "what is wrong is taken back"


@pytest.mark.parametrize("names", NAMES)
def test_once_the_store_keeps_what_it_is_given_every_record_is_there_once(tmp_path, names):
    store = Short(MemoryBackend(), times=2)
    with written(store, tmp_path, template=NAMES[names], names=names) as writer:
        until(lambda: writer.progress.records == 3)
    assert numbers(store) == [0, 1, 2]
    assert len(store.wrong) == 2


def may_not(path, condition):
    raise PermissionDenied("this key may not delete", path=path)


def no_conditions(path, condition):
    if condition is not None:
        raise CapabilityNotSupported("no conditions on deletes", capability="if_match")


def test_a_store_without_conditional_deletes_gets_a_plain_one():
    store = Short(MemoryBackend())
    store.refuses = no_conditions
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    writer.write({"n": 0})
    with pytest.raises(CorruptData, match="it was removed"):
        writer.close()
    assert paths(store) == []


def test_what_somebody_has_removed_is_gone_and_what_somebody_has_replaced_is_left_alone():
    for act, left, told in (
        (lambda store: store.inner.delete("0.ndjson"), [], "it was removed"),
        (lambda store: ops.write_bytes(store.inner, "0.ndjson", b"theirs"), ["0.ndjson"], "could not be removed"),
    ):
        store = Short(MemoryBackend())
        store.refuses = lambda path, condition, act=act, store=store: act(store)
        writer = RollingRecordWriter(store, "{seq}.ndjson")
        writer.write({"n": 0})
        with pytest.raises(CorruptData, match=told):
            writer.close()
        assert paths(store) == left


def test_a_store_that_cannot_delete_keeps_it_and_that_is_told():
    store = Short(MemoryBackend())
    store.features = replace(store.features, delete=False)

    def cannot(path, condition):
        raise CapabilityNotSupported("nothing is ever deleted here", capability="delete")

    store.refuses = cannot
    writer = RollingRecordWriter(store, "{seq}.ndjson")
    writer.write({"n": 0})
    with pytest.raises(CorruptData, match="could not be removed"):
        writer.close()
    assert paths(store) == ["0.ndjson"]


@pytest.mark.parametrize("names", NAMES)
def test_what_cannot_be_taken_back_ends_the_delivery(tmp_path, names):
    """Else it would be met again: taken for published, or beside a new one each time."""
    store, asked = Short(MemoryBackend()), []
    store.refuses = may_not
    writer = written(store, tmp_path, template=NAMES[names], names=names, on_commit=asked.append)
    until(lambda: writer._front._folder.broken is not None)
    for call in (lambda: writer.write({"n": 3}), writer.flush, writer.close):
        with pytest.raises(CorruptData, match="could not be removed"):
            call()
    assert (writer.progress.spooled, asked, len(store.wrong)) == (3, [], 1)


def test_a_digest_that_the_store_states_is_compared_and_a_size_that_it_does_not_state_is_not(tmp_path):
    other = hashlib.sha256(b"other").hexdigest()
    store = Short(MemoryBackend(), says=lambda info: info._replace(size=24, hashes={"sha256": other}))
    with pytest.raises(CorruptData, match="sha256"):
        tried(store, tmp_path / "a").close()
    store = Short(MemoryBackend(), says=lambda info: info._replace(size=None, hashes=None))
    with written(store, tmp_path / "b") as writer:
        until(lambda: writer.progress.records == 3)
    assert len(store.wrong) == 1


def test_without_a_spool_it_poisons_the_writer_and_is_not_durable():
    store, told = Short(MemoryBackend()), []
    writer = RollingRecordWriter(store, "{seq}.ndjson.zst", manifest="all.ndjson", on_commit=told.append)
    writer.write({"n": 0})
    with pytest.raises(CorruptData, match=r"bytes of \d+"):
        writer.close()
    assert (writer.durable, told, paths(store)) == (-1, [], [])


@pytest.mark.parametrize("name", ["{seq}.ndjson", "{seq}.ndjson.zst", "{seq}.ndjson.gz"])
def test_sizes_are_those_of_what_the_writer_was_given_whatever_lies_between(name):
    store = Encrypt(MemoryBackend(), os.urandom(32))
    with RollingRecordWriter(store, name) as writer:
        writer.write({"n": 0})
    assert writer.progress.objects == 1
    with ResumableWriter(store, name.replace("{seq}", "one")) as one:
        one.write({"n": 0})
        one.checkpoint()
        one.write({"n": 1})
    assert ops.read_bytes(store, one.result.path)


# -- other ways to publish ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumed", [False, True])
def test_a_resumable_writer_publishes_nothing_that_was_cut_short_and_keeps_its_checkpoint(resumed):
    store = Short(MemoryBackend(), times=0)
    writer = ResumableWriter(store, "a.ndjson", part_size=10)
    for n in range(5):
        writer.write({"n": n})
    token = json.dumps(writer.checkpoint())
    if resumed:
        writer.abort()
        writer = ResumableWriter.resume(store, token)
    store.times, store.word, store.wrong = 1, "a.ndjson", []
    with pytest.raises(CorruptData, match="39 bytes of 40") as caught:
        writer.close()
    assert caught.value.path == "a.ndjson"
    assert not store.exists("a.ndjson")
    with ResumableWriter.resume(store, token) as again:
        pass
    assert again.result.size == 40
    with open_records(store, "a.ndjson", "r") as reader:
        assert [row["n"] for row in reader] == list(range(5))


@pytest.mark.parametrize("word", ["tail-", "part-"])
def test_no_token_is_given_for_what_the_store_has_cut_short(word):
    store = Short(MemoryBackend(), word)
    writer = ResumableWriter(store, "a.ndjson", part_size=10)
    with pytest.raises(CorruptData, match="bytes of") as caught:
        writer.write({"n": 123456789})
        writer.checkpoint()
    assert word in caught.value.path
    writer.abort()


@pytest.mark.parametrize("word", ["part-", "_manifest-"])
def test_a_data_set_of_which_the_store_has_cut_something_short_leaves_the_old_one(word):
    store = Short(MemoryBackend(), word, times=0)
    DatasetWriter(store, "set", compression="none").run(Inline(), share, range(3))
    store.times = 1
    with pytest.raises(CorruptData, match="bytes of"):
        DatasetWriter(store, "set", compression="none", if_exists="replace").run(Inline(), share, range(5))
    assert len(store.wrong) == 1
    assert read(store) == expected(range(3))
    assert is_clean(store)


def test_a_success_that_the_store_has_cut_short_removes_nothing():
    store = Short(MemoryBackend(), "_SUCCESS", times=0, less=9)
    old = DatasetWriter(store, "set", compression="none").run(Inline(), share, range(3))
    store.times = 1
    with pytest.raises(OutcomeUnknown, match="nothing was removed"):
        DatasetWriter(store, "set", compression="none", if_exists="replace").run(Inline(), share, range(5))
    assert {f"set/{part.path}" for part in old.parts} < {*paths(store)}


def test_a_manifest_that_the_store_has_cut_short_is_told():
    store = Short(BasicBackend(), "all")
    writer = RollingRecordWriter(store, "{seq}.ndjson", manifest="all.ndjson")
    writer.write({"n": 0})
    with pytest.raises(CorruptData, match="bytes of") as caught:
        writer.close()
    assert caught.value.path == "all.ndjson"
