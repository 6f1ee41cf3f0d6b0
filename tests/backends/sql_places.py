"""Fresh databases and tables for the tests of the SQL backends, and ways to look at them from behind."""

import itertools
import os
import shutil
import sqlite3
import tempfile
import threading
from functools import cache, partial
from pathlib import Path

import pytest

from omnistorage.backends.sql_blob import SQLBlobBackend

from ..servers import RUN, server

WHEN = {"sqlite": "2024-05-01T00:00:00.000000+00:00", "postgresql": 1714521600000000, "mysql": 1714521600000000}
_numbers = itertools.count(1)
IN_CI = partial(pytest.param, marks=pytest.mark.ci_only)
"""A kind of database that the default run leaves out."""
SHARED_MEMORY = Path("/dev/shm")
ENOUGH = 2 << 30
"""Bytes. A container often has 64 MB of shared memory, which a run would fill."""


@cache
def databases():
    """Return the folder for the SQLite files of this run, which the keeper removes at the end of the run.

    The folder is in shared memory if there is enough. No test here asks what a disk does, and SQLite would wait for the
    disk at each commit.
    """
    folder = Path(os.environ[RUN])
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ENOUGH:
        folder = SHARED_MEMORY / folder.name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def new_name():
    return f"t{os.getpid()}_{next(_numbers)}"


class Place:
    """One kind of database: ``make`` a backend on a table of its own, look behind it, and ``dispose`` of both."""

    def __init__(self, name):
        self.name = name

    def make(self, **options):
        options = {"table_name": new_name(), **options}
        if self.name == "file":
            folder = tempfile.mkdtemp(prefix="omnistorage-sql-", dir=databases())
            return SQLBlobBackend(f"sqlite:///{folder}/objects.db", **options)
        if self.name == "memory":
            return SQLBlobBackend("sqlite://", **options)
        return SQLBlobBackend(server(self.name)["url"], **options)

    def dispose(self, backend):
        if self.name == "file":
            backend.close()
            shutil.rmtree(os.path.dirname(backend._db.url.database), ignore_errors=True)
            return
        backend.close()
        if self.name != "memory":
            with raw(backend) as connection:
                name = backend.table_name
                connection.execute(f"DROP TABLE IF EXISTS {name}, {name}_chunks, {name}_blobs")


_open = {}


class raw:
    """A connection that shares nothing with the backend but the database. ``execute`` takes ``?`` everywhere."""

    def __init__(self, backend):
        url = backend._db.url
        self.family = backend._db.dialect.family
        self.keep = self.family != "sqlite" or url.database in (None, ":memory:")
        if self.family == "sqlite" and self.keep:  # nobody else can see it
            self.connection = backend._db.engine().raw_connection().driver_connection
        elif self.family == "sqlite":
            self.connection = sqlite3.connect(url.database, timeout=30, isolation_level=None)
        else:
            place = (self.family, url.port, os.getpid(), threading.get_ident())
            if place not in _open:
                _open[place] = connected(url)
            self.connection = _open[place]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if not self.keep:
            self.connection.close()

    def execute(self, statement, values=()):
        cursor = self.connection.cursor()
        cursor.execute(statement if self.family == "sqlite" else statement.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []


def connected(url):
    if url.drivername.startswith("postgresql"):
        import psycopg

        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True)
    import pymysql

    return pymysql.connect(
        host=url.host, port=url.port, user=url.username, database=url.database, autocommit=True, ssl_disabled=True
    )


def as_key(connection, path):
    return path.encode() if connection.family == "mysql" else path


def key_column(connection):
    return "`key`" if connection.family == "mysql" else "key"


def peek(backend, path):
    name = backend.table_name
    with raw(backend) as connection:
        column, key = key_column(connection), as_key(connection, path)
        try:
            rows = connection.execute(f"SELECT data, blob_id FROM {name} WHERE {column} = ?", (key,))
        except Exception as error:
            if "no such table" in str(error) or "does not exist" in str(error) or "doesn't exist" in str(error):
                return None
            raise
        if not rows:
            return None
        data, blob = rows[0]
        if blob is None:
            return bytes(data)
        chunks = connection.execute(f"SELECT data FROM {name}_chunks WHERE blob_id = ? ORDER BY seq", (blob,))
        return b"".join(bytes(row[0]) for row in chunks)


def plant(backend, path, data):
    backend.check_health()  # makes the tables
    with raw(backend) as connection:
        connection.execute(
            f"INSERT INTO {backend.table_name} ({key_column(connection)}, size, modified_at, etag, data)"
            " VALUES (?, ?, ?, ?, ?)",
            (as_key(connection, path), len(data), WHEN[connection.family], new_name(), data),
        )
