"""What ``DatasetReader`` reads, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import pickle
from datetime import timedelta

import pytest

from omnistorage import (
    ConfigError,
    CorruptData,
    LocalBackend,
    MemoryBackend,
    NotFound,
    RecordError,
    StorageError,
    Store,
    ops,
)
from omnistorage.delivery import DatasetReader, DatasetWriter, read_manifest
from omnistorage.delivery.dataset import layout
from omnistorage.delivery.dataset import writer as dataset
from omnistorage.delivery.rolling import manifest
from omnistorage.delivery.rolling.manifest import Manifest
from omnistorage.delivery.rolling.open_object import Committed
from omnistorage.ops import read_bytes, write_bytes
from omnistorage.testing import BasicBackend

from .dataset_world import Inline, expected, names, read, share, write, writer


def test_a_set_without_success_is_refused_with_what_to_do():
    store = MemoryBackend()
    write(store, [1])
    store.delete("set/_SUCCESS")
    with pytest.raises(NotFound, match=r"no _SUCCESS.*run again"):
        read(store)


def test_a_success_that_does_not_belong_to_the_manifest_is_refused():
    store = MemoryBackend()
    write(store, [1])
    (name,) = [name for name in names(store) if name.startswith("_manifest")]
    data = store.peek(f"set/{name}")
    store.put_raw(f"set/{name}", data.replace(b'"records": 10', b'"records": 11'))
    with pytest.raises(CorruptData, match="not the manifest that _SUCCESS names: write the data set again"):
        read(store)
    store.delete(f"set/{name}")
    with pytest.raises(CorruptData, match="not there: write the data set again"):
        read(store)
    for foreign in (b"", b"[]", b"{}", b'{"version":1}', b'{"version":1,"manifest":1,"sha256":""}'):
        store.put_raw("set/_SUCCESS", foreign)
        with pytest.raises(CorruptData, match=r"DatasetWriter did not write this|names no manifest"):
            read(store)
    store.put_raw("set/_SUCCESS", b'{"version":2}')
    with pytest.raises(CorruptData, match="version 2"):
        read(store)


def test_what_has_more_bytes_than_ever_written_is_not_read(monkeypatch):
    store = MemoryBackend()
    write(store, [1])
    monkeypatch.setattr(layout, "LINES", 100)
    with pytest.raises(CorruptData):
        read(store)
    monkeypatch.undo()
    store.put_raw("set/_SUCCESS", store.peek("set/_SUCCESS") + b" " * (1 << 16))
    with pytest.raises(CorruptData):
        read(store)


def test_a_set_whose_manifest_would_not_be_read_back_is_not_published(monkeypatch):
    store = MemoryBackend()
    monkeypatch.setattr(dataset, "LINES", 100)
    with pytest.raises(StorageError):
        write(store, [1])
    assert "_SUCCESS" not in names(store)


ENTRY = Committed("a", 1, 2, 3, "4", 5, 6)


def test_a_manifest_that_is_appended_to_has_no_bound(monkeypatch):
    monkeypatch.setattr(manifest, "LINES", 10)
    store = MemoryBackend()
    for _ in range(3):
        Manifest(store, "m").add(ENTRY)  # each a writer of its own
    assert list(read_manifest(store, "m")) == [ENTRY] * 3


def test_a_manifest_that_is_written_anew_is_never_too_long_to_be_read(monkeypatch):
    store = BasicBackend()
    Manifest(store, "m").add(ENTRY)
    monkeypatch.setattr(manifest, "LINES", len(ops.read_bytes(store, "m")) + 10)
    with pytest.raises(StorageError):
        Manifest(store, "m").add(ENTRY)
    assert list(read_manifest(store, "m")) == [ENTRY]


def test_a_manifest_without_line_breaks_is_not_read_to_its_end():
    store = MemoryBackend()
    store.put_raw("m", b"x" * (4 << 20))
    with pytest.raises(CorruptData):
        list(read_manifest(store, "m"))


@pytest.mark.parametrize(
    "damage", [lambda row: row.pop("parts"), lambda row: row["parts"][0].pop("sha256"), lambda row: row.update(parts=3),
               lambda row: row["parts"][0].update(records="10"), lambda row: row.update(replaced=[1])],
)  # fmt: skip
def test_a_manifest_that_is_none_is_corrupt_data(damage):
    store = MemoryBackend()
    write(store, [1])
    success = json.loads(store.peek("set/_SUCCESS"))
    row = json.loads(store.peek(f"set/{success['manifest']}"))
    damage(row)
    data = json.dumps(row).encode()
    store.put_raw(f"set/{success['manifest']}", data)
    store.put_raw("set/_SUCCESS", json.dumps({**success, "sha256": hashlib.sha256(data).hexdigest()}).encode())
    with pytest.raises(CorruptData, match="no manifest of a data set"):
        read(store)


def test_every_flipped_byte_of_a_part_is_noticed():
    store = MemoryBackend()
    (part,) = write(store, [1], compression="none").parts
    path = f"set/{part.path}"
    data = store.peek(path)
    for at in range(len(data)):
        store.put_raw(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((CorruptData, RecordError)) as caught:
            read(store)
        assert caught.value.path == path
    assert at > 100
    store.put_raw(path, data.replace(b'"n":1', b'"n":2'))
    with pytest.raises(CorruptData, match="SHA-256"):
        read(store)
    assert len(read(store, verify=False)) == 10


def test_a_part_of_another_size_is_refused_before_a_record_of_it_is_given_out():
    store = MemoryBackend()
    (part,) = write(store, [1]).parts
    data = store.peek(f"set/{part.path}")
    for other in (data[:-1], data + b"{}\n", data[: data.index(b"\n") + 1]):
        store.put_raw(f"set/{part.path}", other)
        with pytest.raises(CorruptData, match=f"has {len(other)} bytes, the manifest says {len(data)}") as caught:
            next(iter(DatasetReader(store, "set")))
        assert caught.value.path == f"set/{part.path}"


def test_a_part_that_is_missing_is_an_error():
    store = MemoryBackend()
    part = write(store, range(3)).parts[1]
    store.delete(f"set/{part.path}")
    with pytest.raises(NotFound, match="open it again") as caught:
        read(store)
    assert caught.value.path == f"set/{part.path}"


def test_who_reads_while_the_set_is_replaced_gets_an_error_and_never_a_mixture():
    store = MemoryBackend()
    write(store, range(3))
    records = iter(DatasetReader(store, "set"))
    assert [next(records) for _ in range(10)] == expected([0])
    write(store, range(5, 7), if_exists="replace")
    with pytest.raises(NotFound):
        next(records)


def test_a_set_that_is_replaced_while_it_is_opened_is_opened_anew():
    class Replacing(MemoryBackend):
        again = False

        def open_reader(self, path, *more):
            if "_manifest" in path and self.again:
                self.again = False
                write(self, range(5, 7), if_exists="replace")
            return super().open_reader(path, *more)

    store = Replacing()
    write(store, range(3))
    store.again = True
    assert read(store) == expected([5, 6])
    assert not store.again


def test_reading_is_lazy_and_counts_are_there_before(tmp_path):
    store = MemoryBackend()
    write(store, range(4))
    reader = DatasetReader(store, "set")
    assert (reader.records, reader.bytes) == (40, sum(part.bytes for part in reader.parts))
    store.delete(f"set/{reader.parts[3].path}")
    records = iter(reader)
    assert [next(records) for _ in range(30)] == expected(range(3))


def test_stores_and_urls_are_targets(tmp_path):
    with DatasetWriter(f"file://{tmp_path}/a", "b{c}") as urls:
        urls.run(Inline(), share, [1])
    assert read(f"file://{tmp_path}", "a/b{c}") == expected([1])
    store = Store(MemoryBackend())
    write(store, [2], "")
    assert read(store, "") == expected([2])
    write(store, [3], "", if_exists="replace")
    assert read(store, "") == expected([3])
    with pytest.raises(NotFound):
        DatasetReader(tmp_path, "nothing")


def test_settings_are_checked():
    for settings in ({"roll_bytes": 0}, {"clean_after": 3}, {"clean_after": timedelta(-1)}, {"format": "nosuch"}):
        with pytest.raises(ConfigError):
            write(MemoryBackend(), [1], **settings)
    for in_flight in (-1, 0, True, "2"):
        with pytest.raises(ConfigError, match="in_flight is a number from 1 up"):
            writer(MemoryBackend()).run(Inline(), share, [1], in_flight=in_flight)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"roll_bytes": "x"}, "roll_bytes is a number from 1 up"),
        ({"roll_records": 0}, "roll_records is a number from 1 up"),
        ({"max_open": 0}, "max_open is a number of objects from 1 up"),
        ({"max_open": True}, "max_open is a number of objects from 1 up"),
        ({"partition_by": ("a", "b", "a")}, "names the field 'a' twice: name it once"),
        ({"partition_by": ("a", 1)}, "a field called 1 cannot partition"),
        ({"partition_by": None}, "the name of a field, or several of them"),
    ],
)
def test_settings_are_checked_before_anything_is_written(settings, told):
    with pytest.raises(ConfigError, match=told):
        writer(MemoryBackend(), **settings)


@pytest.mark.parametrize("where", [{"kind": 1}, {"kind": ["a", 1]}, {"kind": b"a"}, {"kind": None}, 5, "kind"])
def test_where_takes_text_only(where):
    store = MemoryBackend()
    write(store, [1], partition_by="kind")
    with pytest.raises(ConfigError, match=r"values of partitions are text: give '1'|where is a table"):
        DatasetReader(store, "set", where=where)


@pytest.mark.parametrize("where", [None, {"kind": "b"}, lambda values: values["kind"] == "b"])
def test_a_reader_that_was_pickled_reads_what_it_read_before(tmp_path, where):
    store = LocalBackend(tmp_path)
    write(store, range(3), partition_by="kind")
    reader = DatasetReader(store, "set", where=where)
    copy = pickle.loads(pickle.dumps(reader))
    late = pickle.loads(pickle.dumps(copy))
    assert len(list(copy)) == (30 if where is None else 15)
    assert list(copy) == list(reader)
    assert (copy.parts, copy.records, copy.bytes) == (reader.parts, reader.records, reader.bytes)
    write(store, [7], if_exists="replace")
    with pytest.raises(NotFound, match="replaced meanwhile: open it again"):
        list(late)
    for each in (copy, late):
        each.close()


def test_what_is_published_is_what_success_names():
    store = MemoryBackend()
    done = write(store, range(2))
    success = json.loads(read_bytes(store, "set/_SUCCESS"))
    data = read_bytes(store, f"set/{done.manifest}")
    assert success == {"version": 1, "manifest": done.manifest, "sha256": hashlib.sha256(data).hexdigest()}
    row = json.loads(data)
    assert (row["version"], row["records"], row["attempt"]) == (1, 20, done.attempt)
    assert [part["path"] for part in row["parts"]] == [part.path for part in done.parts]
    write_bytes(store, "set/x", b"")
    assert "x" in names(store)
