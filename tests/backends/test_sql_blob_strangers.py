"""Tables that others write to: what a row may hold, and keys that no path can have."""

import sqlite3
from datetime import UTC, datetime

import pytest

from omnistorage import CorruptData, InvalidPath, LocalBackend, SQLBlobBackend
from omnistorage.backends.sql_blob.listing import INFOS, as_bytes, loose_infos
from omnistorage.core import ListOptions, ObjectInfo
from omnistorage.errors import SyncError
from omnistorage.sync import sync

DEEP = "[" * 100_000


@pytest.fixture
def table(tmp_path):
    """A table whose columns take anything, and the backend over it."""
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as database:
        database.execute("create table t (key text primary key, data, extra, modified_at)")
    backend = SQLBlobBackend(
        f"sqlite:///{path}", table_name="t", create_table=False,
        columns={"key": "key", "data": "data", "extra": "extra", "modified_at": "modified_at"},
    )  # fmt: skip
    yield database, backend
    backend.close()
    database.close()


def insert(database, *rows):
    database.executemany("insert into t values (?, ?, ?, ?)", rows)
    database.commit()


def test_a_number_is_read_as_its_text_and_not_as_so_many_zeros(table):
    database, backend = table
    insert(database, ("a", 9 * 10**18, None, None))
    assert backend.open_reader("a").read(-1) == b"9000000000000000000"
    assert as_bytes(1.5) == b"1.5"


@pytest.mark.parametrize(
    ("row", "info"),
    [
        ((5, 1, None, None, None, None, None), ObjectInfo("5", 1)),
        (("a", "x", None, None, None, None, None), ObjectInfo("a")),
        (("a", float("nan"), None, None, None, None, None), ObjectInfo("a")),
        (("a", 10**400, None, None, None, None, None), ObjectInfo("a")),
        (("a", 1, 10**30, None, None, None, None), ObjectInfo("a", 1)),
        (("a", 1, "0001-01-01T00:00:00+14:00", None, None, None, None), ObjectInfo("a", 1)),
        (("a", 1, None, None, None, None, DEEP), ObjectInfo("a", 1)),
        (("a", 1, None, None, None, None, '{"a": {"b": 1}}'), ObjectInfo("a", 1)),
        (("a", 1, None, None, None, None, {"a": 1}), ObjectInfo("a", 1)),
    ],
)
def test_odd_values_of_an_existing_table_are_not_known(row, info):
    assert loose_infos([row]) == [info]


@pytest.mark.parametrize("family", INFOS)
@pytest.mark.parametrize(
    "odd",
    [
        {"extra": DEEP}, {"extra": "x"}, {"extra": '{"a": {"b": 1}}'}, {"at": "no time"}, {"at": 10**30},
        {"size": -1}, {"size": 1.5}, {"etag": b"e"}, {"kind": b"text"}, {"digest": b"d"},
    ],
)  # fmt: skip
def test_odd_values_of_our_own_table_are_damage(family, odd):
    at = "2020-01-01T00:00:00+00:00" if family == "sqlite" else 0
    row = {"key": b"a" if family == "mysql" else "a", "size": 1, "at": at, "kind": None, "digest": None, "etag": "e"}
    row = {**row, "extra": None, "blob": None}
    assert [info.path for info in INFOS[family]([tuple(row.values())])] == ["a"]
    row = {**row, **odd}
    with pytest.raises(CorruptData):
        INFOS[family]([tuple(row.values())])


def test_a_key_that_no_path_can_have_is_reported_and_the_rest_is_listed(table):
    database, backend = table
    insert(database, *((key, b"1", None, None) for key in ("../x", "..", "a", "b/../c", "c\0d", "z")))
    told = []
    assert [info.path for info in backend.list("", ListOptions(on_error=told.append))] == ["a", "z"]
    assert [(type(error), error.path) for error in told] == [
        (InvalidPath, key) for key in ("..", "../x", "b/../c", "c\0d")
    ]
    with pytest.raises(InvalidPath):
        list(backend.list())
    with pytest.raises(InvalidPath):
        list(backend.glob("**"))
    listed = backend.list_dir()
    assert [next(listed).path for _ in "abz"] == ["a", "b", "z"]
    with pytest.raises(InvalidPath):
        next(listed)


# -- our own table, into which somebody else has put a row -------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    """The backend over a table of ours, and a way to write into it behind its back."""
    path = tmp_path / "ours.db"
    backend = SQLBlobBackend(f"sqlite:///{path}")
    for key in ("a", "b", "c", "d/x", "e", "f/y"):
        with backend.open_writer(key) as writer:
            writer.write(b"data")
    database = sqlite3.connect(path)

    def change(statement, *values):
        database.execute(statement, values)
        database.commit()

    yield backend, change
    backend.close()
    database.close()


ODD = {
    "a key of bytes": ("key = x'65'", "e"),
    "no time": ("modified_at = 'abc'", "e"),
    "a time beyond time": ("modified_at = '9999-12-31T23:59:59-23:59'", "e"),
    "half a byte": ("size = 1.5", "e"),
    "less than nothing": ("size = -5", "e"),
    "an etag of bytes": ("etag = x'00ff'", "e"),
    "a type of bytes": ("content_type = x'00ff'", "e"),
    "a digest of bytes": ("digest = x'00ff'", "e"),
    "metadata that is none": ("extra = '[1]'", "e"),
}
REST = ["a", "b", "c", "d/x", "f/y"]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_row_is_named_and_the_rest_is_listed(ours, odd):
    backend, change = ours
    change(f"update omnistorage_objects set {ODD[odd][0]} where key = 'e'")
    told = []
    assert [info.path for info in backend.list("", ListOptions(on_error=told.append))] == REST
    assert [(type(error), error.path, error.op) for error in told] == [(CorruptData, "e", "list")]
    with pytest.raises(CorruptData) as caught:
        list(backend.list())
    assert caught.value.path == "e"
    listed, found = backend.list_dir(), backend.glob("[a-e]*")
    assert [next(listed).path for _ in "abcdf"] == ["a", "b", "c", "d", "f"]
    assert [next(found).path for _ in "abc"] == ["a", "b", "c"]
    with pytest.raises(CorruptData) as caught:
        next(listed)
    assert caught.value.path == "e"
    assert [info.path for info in backend.glob("[a-c]")] == ["a", "b", "c"]


def test_a_time_without_a_zone_is_taken_for_utc(ours):
    backend, change = ours
    change("update omnistorage_objects set modified_at = '2020-01-02 03:04:05' where key = 'e'")
    assert backend.stat("e").modified_at == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "e" in [info.path for info in backend.list() if info.modified_at.tzinfo is UTC]


def test_an_odd_row_can_be_overwritten_and_deleted(ours):
    backend, change = ours
    change("update omnistorage_objects set modified_at = 'abc' where key in ('a', 'b')")
    with pytest.raises(CorruptData):
        backend.stat("a")
    with backend.open_writer("a") as writer:
        writer.write(b"new")
    assert backend.delete("b") is True
    assert [info.path for info in backend.list()] == ["a", "c", "d/x", "e", "f/y"]


def test_a_folder_of_odd_rows_ends_and_is_there(ours):
    backend, change = ours
    for number in range(300):
        change(
            "insert into omnistorage_objects (key, size, modified_at, etag, data) values (?, 0, 'abc', 'e', x'')",
            f"e/{number:04}",
        )
    listed = backend.list_dir()
    assert [next(listed).path for _ in "abcdef"] == ["a", "b", "c", "d", "e", "f"]
    with pytest.raises(CorruptData):
        next(listed)
    with pytest.raises(CorruptData):
        list(backend.list_dir("e"))


def test_a_sync_copies_the_rest_and_fails(ours, tmp_path):
    backend, change = ours
    change("update omnistorage_objects set key = x'65' where key = 'e'")
    with pytest.raises(SyncError):
        sync(backend, LocalBackend(tmp_path / "out"))
    copied = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(copied) == REST
