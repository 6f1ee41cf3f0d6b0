"""Tables that others write to: what a row may hold, and keys that no path can have."""

import sqlite3

import pytest

from omnistorage import CorruptData, InvalidPath, SQLBlobBackend
from omnistorage.backends._sql_blob_list import INFOS, as_bytes, loose_infos
from omnistorage.core import ListOptions, ObjectInfo

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
    "odd", [{"extra": DEEP}, {"extra": "x"}, {"extra": '{"a": {"b": 1}}'}, {"at": "no time"}, {"at": 10**30}]
)
def test_odd_values_of_our_own_table_are_damage(family, odd):
    row = {"key": b"a" if family == "mysql" else "a", "size": 1, "at": 0, "kind": None, "digest": None, "etag": "e"}
    row = {**row, "extra": None, "blob": None, **odd}
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
