"""The edges of the compute backend: streams that lie about their end, values that are looked at again and again, what
freezing needs to know a function by."""

import functools
import io

import pyarrow as pa
import pytest

from omnistorage import ops
from omnistorage.backends.computed import ComputeBackend, Computed
from omnistorage.backends.computed import backend as computed
from omnistorage.errors import ConfigError, StorageError


def report(year=2024, region="eu"):
    return f"{region} {year}"


def test_none_in_a_stream_is_no_end():
    class Stalled(io.RawIOBase):
        def __init__(self):
            self.parts = [b"x", None]

        def read(self, size=-1):
            return self.parts.pop(0)

    backend = ComputeBackend({"part": lambda: [b"x", None, b"y"], "stream": Stalled}, version=1, frozen=True)
    for key in ("part", "stream"):
        reader = backend.open_reader(key)
        for _ in range(2):
            with pytest.raises(StorageError, match="is NoneType, not bytes"):
                reader.read()
        assert (reader.info.size, backend.stat(key).size) == (None, None)


def test_text_that_is_no_unicode_and_values_that_fail_are_errors_of_ours():
    backend = ComputeBackend({"x": lambda: "\ud800", "{n:int}": Computed(str, values=lambda: 1 / 0)})
    with pytest.raises(StorageError, match="UnicodeEncodeError") as caught:
        backend.open_reader("x")
    assert caught.value.path == "x"
    with pytest.raises(StorageError, match="ZeroDivisionError") as caught:
        list(backend.list())
    assert (caught.value.op, caught.value.path) == ("list", "{n:int}")


def test_a_column_with_dictionaries_is_written_as_its_values():
    parts = [pa.record_batch([pa.array(part).dictionary_encode()], names=["t"]) for part in (["a", "b"], ["c", None])]
    backend = ComputeBackend({"x.arrow": lambda: pa.RecordBatchReader.from_batches(parts[0].schema, parts)})
    table = pa.ipc.open_file(ops.read_bytes(backend, "x.arrow")).read_all()
    assert (table.schema.field("t").type, table.column("t").to_pylist()) == (pa.string(), ["a", "b", "c", None])


def test_values_that_are_used_up_by_one_look_are_kept():
    for values in (iter([1, 2]), (n for n in (1, 2)), {"n": iter([1, 2])}):
        backend = ComputeBackend({"{n:int}": Computed(str, values=values)})
        for one in (backend, backend, backend.with_options(version=2)):
            assert [info.path for info in one.list()] == ["1", "2"]
            assert [one.exists(key) for key in "123"] == [True, True, False]


def test_opening_looks_through_values_once():
    made = []

    class Rows(dict):
        def __getitem__(self, name):
            made.append(name)
            return super().__getitem__(name)

    backend = ComputeBackend({"{n:int}": Computed(str, values=[Rows(n=n) for n in range(100)])})
    assert all(backend.exists(str(n)) for n in range(100))
    assert not backend.exists("100")
    assert len(made) < 1000


def test_a_folder_with_a_brace_holds_its_keys():
    backend = ComputeBackend({"a}}b/{n:int}": Computed(str, values=[1, 2])})
    assert [info.path for info in backend.list("a}b")] == ["a}b/1", "a}b/2"]
    assert [info.path for info in backend.list_dir("a}b")] == ["a}b/1", "a}b/2"]


def test_frozen_needs_a_name_or_a_version_to_know_a_function_by():
    def local():
        return b""

    for function in (lambda: b"", local, functools.partial(report, 1), io.BytesIO(b"x").read):
        with pytest.raises(ConfigError, match="no name of its own"):
            ComputeBackend({"x": function}, frozen=True)
        assert ComputeBackend({"x": Computed(function, version=1)}, frozen=True).stat("x").etag
        assert ComputeBackend({"x": function}).stat("x").etag is None
    assert ComputeBackend({"x": report, "y": bytes}, frozen=True).stat("x").etag


def test_only_so_many_sizes_are_remembered(monkeypatch):
    monkeypatch.setattr(computed, "KNOWN_SIZES", 5)
    backend = ComputeBackend({"{n:int}": lambda n: b"x" * n}, version=1, frozen=True)
    for n in range(9):
        assert len(ops.read_bytes(backend, str(n))) == n
    assert [backend.stat(str(n)).size for n in range(9)] == [None] * 4 + [4, 5, 6, 7, 8]
