"""The SQL blob backend over a table that somebody else made."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage.backends.sql_blob import SQLBlobBackend
from omnistorage.core import ReadOptions, SetMetadata, StaleUploads, WriteOptions, power
from omnistorage.errors import AlreadyExists, CapabilityNotSupported, ConfigError, NotFound, PreconditionFailed
from omnistorage.testing import BackendTests
from omnistorage.testing._kit import get, payload, put

from ..budget import pick
from .sql_places import Place, as_key, new_name, raw

MIB = 1 << 20
PLAIN = {"sqlite": "TEXT", "postgresql": "TEXT", "mysql": "VARBINARY(1024)"}
BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA", "mysql": "LONGBLOB"}
TIME = {"sqlite": "DATETIME", "postgresql": "TIMESTAMPTZ", "mysql": "DATETIME(6)"}
JSON = {"sqlite": "JSON", "postgresql": "JSONB", "mysql": "JSON"}
NOTHING = {"key": "name", "data": "body"}
EVERYTHING = {
    "key": "name", "data": "body", "size": "length_of", "modified_at": "changed", "content_type": "mime",
    "digest": "sha", "etag": "tag", "extra": "more",
}  # fmt: skip


class Existing(Place):
    """A table made by hand: two columns, or all of them under other names."""

    def __init__(self, name, columns):
        super().__init__(name)
        self.columns = columns

    def make(self, *, key=None, **options):
        base = super().make()
        url, table, family = base._db.source, new_name(), base._db.dialect.family
        kinds = {
            "key": key or f"{PLAIN[family]} NOT NULL PRIMARY KEY", "data": BYTES[family], "size": "BIGINT",
            "modified_at": TIME[family], "content_type": "VARCHAR(99)", "digest": "VARCHAR(64)", "etag": "VARCHAR(64)",
            "extra": JSON[family],
        }  # fmt: skip
        body = ", ".join(f"{theirs} {kinds[ours]}" for ours, theirs in self.columns.items())
        with raw(base) as connection:
            connection.execute(f"CREATE TABLE {table} ({body})")
        base.close()
        return SQLBlobBackend(url, **{"table_name": table, "create_table": False, "columns": self.columns, **options})


def peek(backend, path):
    with raw(backend) as connection:
        try:
            key = as_key(connection, path)
        except UnicodeEncodeError:
            return None
        if "\0" in path or not path.isprintable():
            return None
        rows = connection.execute(f"SELECT body FROM {backend.table_name} WHERE name = ?", (key,))
    return bytes(rows[0][0]) if rows else None


def plant(backend, path, data):
    with raw(backend) as connection:
        values = {"name": as_key(connection, path), "body": data}
        if "etag" in backend._columns:
            values |= {"tag": new_name(), "length_of": len(data), "changed": datetime(2024, 5, 1).isoformat(" ")}
        marks = ", ".join("?" * len(values))
        connection.execute(
            f"INSERT INTO {backend.table_name} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
        )


class ExistingTests(BackendTests):
    place = Existing("file", NOTHING)

    def make(self):
        return self.place.make()

    def peek(self, backend, path):
        return peek(backend, path)

    def plant(self, backend, path, data):
        plant(backend, path, data)

    def dispose(self, backend):
        self.place.dispose(backend)


@pytest.mark.ci_only
class TestTwoColumnsOnSQLite(ExistingTests):
    place = Existing("file", NOTHING)


@pytest.mark.ci_only
class TestAllColumnsOnSQLite(ExistingTests):
    place = Existing("file", EVERYTHING)


@pytest.mark.ci_only
class TestAllColumnsOnPostgres(ExistingTests):
    place = Existing("postgres", EVERYTHING)


@pytest.mark.ci_only
class TestAllColumnsOnMariaDB(ExistingTests):
    place = Existing("mariadb", EVERYTHING)


@pytest.fixture(params=["file", "postgres", "mariadb"])
def name(request):
    return request.param


def test_missing_columns_degrade_to_none(name):
    place = Existing(name, NOTHING)
    backend = place.make()
    put(backend, "x", b"12345", WriteOptions(content_type="text/plain"))
    for info in (backend.stat("x"), next(backend.list()), backend.open_reader("x").info):
        assert info == ("x", 5, None, "file", None, None, None, None, None)
    for options in (WriteOptions(if_match="x"), WriteOptions(user_metadata={"k": "v"})):
        with pytest.raises(CapabilityNotSupported):
            put(backend, "x", b"", options)
    assert power(backend, SetMetadata) is power(backend, StaleUploads) is None
    with pytest.raises(AlreadyExists):
        put(backend, "x", b"new", WriteOptions(overwrite=False))
    place.dispose(backend)


def test_mapped_columns_are_kept_in_the_types_of_the_table(name):
    place = Existing(name, EVERYTHING)
    backend = place.make()
    when = datetime(2021, 2, 3, 4, 5, 6, 123_000, tzinfo=UTC)
    closed = put(backend, "x", b"abc", WriteOptions(modified_at=when, user_metadata={"k": "v"}, content_type="a/b"))
    info = backend.stat("x")
    assert (info.size, info.modified_at, info.metadata, info.content_type) == (3, when, {"k": "v"}, "a/b")
    assert info.hash("sha256") == hashlib.sha256(b"abc").hexdigest()
    assert info.etag == closed.etag
    with pytest.raises(PreconditionFailed):
        put(backend, "x", b"no", WriteOptions(if_match="other"))
    put(backend, "x", b"yes", WriteOptions(if_match=info.etag))
    before = datetime.now(UTC)
    backend.copy("x", "y")
    assert abs(backend.stat("y").modified_at - before) < timedelta(minutes=5)
    backend.set_metadata("y", modified_at=when)
    assert backend.stat("y").modified_at == when
    place.dispose(backend)


def test_a_value_beyond_the_bound_is_refused_where_it_cannot_be_streamed():
    for server in ("postgres", "mariadb"):
        place = Existing(server, NOTHING)
        backend = place.make(max_blob_size=1000)
        put(backend, "x", bytes(1000))
        for size in (1001, 5000):
            with pytest.raises(CapabilityNotSupported) as caught:
                put(backend, "y", bytes(size))
            assert caught.value.capability == "max_blob_size"
        plant(backend, "big", bytes(1001))
        with pytest.raises(CapabilityNotSupported):
            get(backend, "big")
        assert backend.stat("big").size == 1001
        place.dispose(backend)


def test_sqlite_streams_a_large_value_and_a_reader_keeps_its_snapshot():
    place = Existing("file", EVERYTHING)
    backend = place.make()
    data = payload(5 * MIB + 3)
    put(backend, "x", data)
    assert peek(backend, "x") == data
    assert get(backend, "x", ReadOptions(MIB - 1, 2 * MIB)) == data[MIB - 1 : 3 * MIB - 1]
    reader = backend.open_reader("x")
    head = reader.read(10)
    put(backend, "x", payload(3 * MIB, "other"))
    backend.delete("x")
    assert head + reader.read() == data
    reader.close()
    with pytest.raises(NotFound):
        backend.open_reader("x")
    writer = backend.open_writer("y")
    writer.write(data)
    writer.abort()
    assert not backend.exists("y")
    place.dispose(backend)


CHILD = """
import re, sys
from pathlib import Path
from omnistorage.backends.sql_blob import SQLBlobBackend
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
columns = {"key": "name", "data": "body"}
backend = SQLBlobBackend(sys.argv[1], table_name=sys.argv[2], create_table=False, columns=columns)
backend.check_health()
before = peak()
with backend.open_writer("big") as writer:
    for n in range(int(sys.argv[3])):
        writer.write(bytes([n % 251]) * (1 << 20))
total = 0
with backend.open_reader("big") as reader:
    while part := reader.read(1 << 20):
        assert part[:1] in part
        total += len(part)
assert total == int(sys.argv[3]) << 20
print((peak() - before) / 1024)
"""


def test_sqlite_streams_a_large_value_in_little_memory():
    place = Existing("file", NOTHING)
    backend = place.make()
    size = pick(default="40", ci="256", soak="256")  # more than the 32 MiB that it may take
    command = [sys.executable, "-c", CHILD, backend._db.source, backend.table_name, size]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < float(done.stdout) <= 32
    place.dispose(backend)


@pytest.fixture
def bare():
    folder = tempfile.mkdtemp(prefix="omnistorage-sql-")
    url = f"sqlite:///{folder}/f.db"
    with SQLBlobBackend(url) as backend:
        yield backend
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("CREATE TABLE t (name TEXT PRIMARY KEY)", {"key": "name"}),
        ("CREATE TABLE t (body BLOB)", {"data": "body"}),
        ("CREATE TABLE t (name TEXT, body BLOB)", NOTHING),
        ("CREATE TABLE t (name TEXT, body BLOB, UNIQUE (name, body))", NOTHING),
        ("CREATE TABLE t (name TEXT COLLATE NOCASE PRIMARY KEY, body BLOB)", NOTHING),
        ("CREATE TABLE t (name TEXT PRIMARY KEY, body BLOB)", {**NOTHING, "etag": "no_such_column"}),
    ],
)
def test_a_table_that_cannot_hold_objects_is_refused_with_the_reason(bare, table, columns):
    with raw(bare) as connection:
        connection.execute(table)
    with SQLBlobBackend(bare._db.source, table_name="t", create_table=False, columns=columns) as backend:
        for call in (lambda: backend.exists("x"), lambda: put(backend, "x"), lambda: list(backend.list())):
            with pytest.raises(ConfigError):
                call()


@pytest.mark.parametrize("key", ["VARCHAR(100) PRIMARY KEY", "VARCHAR(100) COLLATE utf8mb4_bin PRIMARY KEY"])
def test_a_key_that_mariadb_compares_loosely_is_refused(key):
    place = Existing("mariadb", NOTHING)
    backend = place.make(key=key)
    with pytest.raises(ConfigError, match="by their bytes"):
        backend.exists("x")
    place.dispose(backend)


def test_text_keys_of_mariadb_with_exact_bytes_work():
    place = Existing("mariadb", NOTHING)
    backend = place.make(key="VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY")
    keys = ["a", "A", "a ", "é", "😀", "a/b"]
    for key in keys:
        put(backend, key, key.encode())
    assert [info.path for info in backend.list()] == sorted(keys, key=str.encode)
    assert [get(backend, key) for key in keys] == [key.encode() for key in keys]
    assert [info.path for info in backend.glob("a*")] == ["a", "a "]
    place.dispose(backend)


@pytest.mark.parametrize("columns", [{"key": "a"}, {"nonsense": "x"}, {"blob_id": "b"}, {"key": 'x"; --'}])
def test_a_wrong_mapping_is_refused_at_once(columns):
    with pytest.raises(ConfigError):
        SQLBlobBackend("sqlite://", columns=columns, create_table="key" in columns and len(columns["key"]) == 1)


def test_text_and_odd_values_of_others_are_read_as_they_are(bare):
    with raw(bare) as connection:
        connection.execute(
            "CREATE TABLE t (name TEXT PRIMARY KEY, body TEXT, etag INT, modified_at TEXT, extra TEXT, digest TEXT)"
        )
        connection.execute("INSERT INTO t VALUES ('x', 'é', 7, '2024-01-02 03:04:05', 'no json', 'abc')")
        connection.execute("INSERT INTO t VALUES ('y', NULL, NULL, 'never', '[1]', NULL)")
    with SQLBlobBackend(bare._db.source, table_name="t", create_table=False, columns=NOTHING) as backend:
        assert (get(backend, "x"), get(backend, "y")) == ("é".encode(), b"")
        info = backend.stat("x")
        assert (info.etag, info.metadata, info.hashes) == ("7", None, None)
        assert info.modified_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert backend.stat("y").modified_at is None


def test_our_own_table_found_again_without_the_right_to_make_one_does_all(bare):
    put(bare, "x", payload(2 * MIB))
    with SQLBlobBackend(bare._db.source, create_table=False) as backend:
        assert get(backend, "x") == payload(2 * MIB)
        put(backend, "y", payload(3 * MIB))
        backend.delete("x")
    assert get(bare, "y") == payload(3 * MIB)
    with raw(bare) as connection:
        assert connection.execute("SELECT count(*) FROM omnistorage_chunks") in ([(3,)], [(5,)])
