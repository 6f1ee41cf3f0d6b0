"""The query backend under early ends, errors in mid-stream, threads, forks and lost connections: connections come back,
no transaction stays, memory is bounded."""

import os
import pathlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool, StaticPool

from omnistorage.backends.sql_query import SQLQueryBackend
from omnistorage.backends.sql_query.backend import Query
from omnistorage.concurrency.cancellation import CancelScope
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    NotFound,
    PermissionDenied,
    ReaderClosed,
    RecordError,
    StorageError,
)

from ..budget import pick
from ..waiting import LIMIT, until
from .sql_places import IN_CI
from .sql_query_places import QueryPlace, table_of

ROWS = pick(default=100_000, ci=1_000_000, soak=10_000_000)
CHILD = pathlib.Path(__file__).parent / "query_child.py"
MANY = 20_000


def pool_of(place, **options):
    """An engine with a small pool, and how many of its connections are out."""
    engine = place.engine(poolclass=QueuePool, pool_size=2, max_overflow=0, pool_timeout=5, **options)
    return engine, engine.pool.checkedout


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_borrowed_engine_gets_its_connections_back_as_they_were(place):
    engine, out = pool_of(place)
    with place.backend({"many.csv": place.many(MANY), "bad.csv": "SELECT nothing FROM SALES"}, url=engine) as backend:
        for _ in range(5):
            reader = backend.open_reader("many.csv")
            assert out() == 1
            reader.read(10)
            reader.close()
            assert out() == 0
            assert len(table_of(backend, "many.csv").splitlines()) == MANY + 1
            assert out() == 0
            with pytest.raises(StorageError):
                backend.open_reader("bad.csv")
            assert out() == 0
            backend.check_health()
            list(backend.list())
            assert out() == 0
    with engine.connect() as connection:  # in a transaction, as it came
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        place_table = sa.table(place.table, sa.column("id", sa.Integer))
        connection.execute(place_table.insert().values(id=777))
        connection.rollback()
    assert (777,) not in [tuple(row) for row in place.run(f"SELECT id FROM {place.table}")]
    engine.dispose()


def test_readers_side_by_side_have_a_connection_each_and_a_pool_that_is_empty_says_so(place):
    engine, out = pool_of(place)
    policy = RequestPolicy(retries=0)
    engine.pool._timeout = 0.1
    with place.backend({"many.csv": place.many(MANY)}, url=engine, policy=policy) as backend:
        one, two = backend.open_reader("many.csv"), backend.open_reader("many.csv")
        assert one.read(50) == two.read(50)
        with pytest.raises(BackendUnavailable, match="pool"):
            backend.open_reader("many.csv")
        one.close()
        two.close()
        assert out() == 0
    engine.dispose()


def test_no_transaction_outlives_a_stream(tmp_path):
    place = QueryPlace("postgres", tmp_path)
    url = f"{place.url}?application_name={place.table}"
    with place.backend(
        {"many.csv": place.many(MANY), "bad.csv": "SELECT 1 / (id - 3) AS x FROM SALES"}, url=url
    ) as backend:
        backend.check_health()
        assert place.sessions() == (1, 0)
        reader = backend.open_reader("many.csv")
        reader.read(10)
        assert place.sessions() == (1, 1)
        reader.close()
        assert place.sessions() == (1, 0), "closed early, it goes back to those that wait"
        table_of(backend, "many.csv")
        assert place.sessions() == (1, 0)
        with pytest.raises(StorageError, match="division by zero") as caught:
            table_of(backend, "bad.csv")
        assert (caught.value.path, caught.value.transient) == ("bad.csv", False)
        until(lambda: place.sessions()[1] == 0)
    place.dispose()


def test_a_stream_can_change_nothing(place):
    """What a query might do is the affair of whoever wrote it, but the transaction only reads."""
    query = {
        "sqlite": f"WITH x AS (SELECT 1) INSERT INTO {place.table} (id) VALUES (500) RETURNING id",
        "postgres": f"WITH x AS (INSERT INTO {place.table} (id) VALUES (500) RETURNING id) SELECT id FROM x",
        "mariadb": f"INSERT INTO {place.table} (id) VALUES (500) RETURNING id",
    }[place.name]
    typed = sa.text(query).columns(sa.column("id", sa.Integer))  # which spares SQLite asking for types
    for one in (query, typed):
        with place.backend({"x.csv": one}) as backend, pytest.raises(StorageError):
            backend.open_reader("x.csv").read()
    assert (500,) not in [tuple(row) for row in place.run(f"SELECT id FROM {place.table}")]


def test_a_sqlite_file_stays_as_it_is(lite):
    assert lite.run("PRAGMA journal_mode")[0][0] == "delete"
    before = lite.file.read_bytes()
    with lite.backend({"all.csv": "SELECT id FROM SALES"}) as backend:
        table_of(backend, "all.csv")
        backend.check_health()
    assert lite.file.read_bytes() == before
    assert sorted(path.name for path in lite.file.parent.iterdir()) == [lite.file.name]


def test_a_reader_that_is_closed_early_leaves_no_lock(lite):
    with lite.backend({"many.csv": "SELECT a.id FROM SALES AS a, SALES AS b, SALES AS c"}) as backend:
        reader = backend.open_reader("many.csv")
        reader.read(10)
        reader.close()
        lite.run(f"INSERT INTO {lite.table} (id) VALUES (900)")
        with pytest.raises(RecordError):
            lite.run("CREATE TABLE wrong (n INTEGER)")
            lite.run("INSERT INTO wrong VALUES ('x')")
            with lite.backend({"x.csv": "SELECT n FROM wrong"}) as other:
                other.open_reader("x.csv").read()
        lite.run("DROP TABLE wrong")


# --- threads and processes --------------------------------------------------------------------------------------------


def test_threads_read_at_the_same_time(place):
    queries = {"{n:int}.csv": f"SELECT * FROM ({place.many(500)}) AS q WHERE i <= :n"}
    types = {"i": "int64", "t": "string"}
    with place.backend({key: Query(query, types=types) for key, query in queries.items()}) as backend:

        def one(n):
            return len(table_of(backend, f"{n}.csv").splitlines())

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one, range(1, 41))) == list(range(2, 42))


def test_memory_is_one_database_for_all_threads_and_readers():
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n INTEGER)")
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
            " INSERT INTO t SELECT i FROM n"
        )
    with SQLQueryBackend(
        engine, {"t.csv": "SELECT n FROM t", "{m:int}.csv": Query("SELECT n FROM t WHERE n < :m", values=[5])}
    ) as backend:
        slow = backend.open_reader("t.csv")
        slow.read(10)
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(lambda n: len(table_of(backend, "t.csv")), range(8)))
        assert len(set(sizes)) == 1
        assert table_of(backend, "5.csv").split() == ['"n"', "1", "2", "3", "4"]
        thread = threading.Thread(target=slow.close)
        thread.start()
        thread.join()
        half = backend.open_reader("t.csv")
        head = half.read(10)
        assert [info.path for info in backend.list()] == ["5.csv", "t.csv"]
        assert len(head + half.read()) == sizes[0]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 30000
    engine.dispose()


@pytest.mark.parametrize("name", ["sqlite", "postgres", "mariadb"])
def test_close_from_another_thread_ends_a_read_that_waits(tmp_path, name):
    place = QueryPlace(name, tmp_path)
    slow = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT CAST(i AS INTEGER) AS i FROM n WHERE i = 1 OR i < 0",
        "postgres": "SELECT 1 AS i UNION ALL SELECT CASE WHEN pg_sleep(50) IS NULL THEN 2 ELSE 3 END",
        "mariadb": "SELECT repeat('x', 1000000) AS i FROM seq_1_to_2 WHERE seq = 1 OR sleep(50) = 0",
    }[name]
    with place.backend({"slow.csv": slow}) as backend:
        caught = []
        started = threading.Event()

        def read(reader):
            started.set()
            try:
                reader.read()
            except StorageError as error:
                caught.append(error)

        reader = backend.open_reader("slow.csv")  # which waits for the first row at most
        thread = threading.Thread(target=read, args=(reader,))
        thread.start()
        started.wait()
        begin = time.monotonic()
        while thread.is_alive() and time.monotonic() - begin < LIMIT:
            reader.close()
            thread.join(0.05)
        assert not thread.is_alive()
        assert [(type(error), error.op) for error in caught] == [(ReaderClosed, "read")]
        with pytest.raises(ReaderClosed):
            reader.read(1)
    place.dispose()


def test_a_child_of_a_fork_reads_for_itself_and_leaves_the_parents_stream_alone(place):
    with place.backend({"many.csv": place.many(MANY)}) as backend:
        whole = table_of(backend, "many.csv")
        reader = backend.open_reader("many.csv")
        head = reader.read(1000)
        read_end, write_end = os.pipe()
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            said = b"?"
            try:
                try:
                    while reader.read(1 << 20):
                        pass
                    said = b"read on"
                except ReaderClosed:
                    said = b"refused "
                reader.close()
                said += b"same" if table_of(backend, "many.csv") == whole else b"other"
            except BaseException as error:
                said += repr(error).encode()
            finally:
                os.write(write_end, said)
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read_end, 1000) == b"refused same"
        os.close(read_end)
        os.close(write_end)
        assert (head + reader.read()).decode() == whole


def test_an_open_that_fails_for_a_moment_is_tried_again_and_a_broken_stream_is_not(lite):
    policy = RequestPolicy(retries=3, backoff=Backoff(base=0.001))
    with lite.backend({"all.csv": "SELECT id FROM SALES"}, policy=policy) as backend:
        table_of(backend, "all.csv")
        lend, tried = backend._db.lend, []

        def flaky():
            tried.append(1)
            if len(tried) < 3:
                raise BackendUnavailable("not now")
            return lend()

        backend._db.lend = flaky
        table_of(backend, "all.csv")
        assert len(tried) == 3


def test_a_cancelled_scope_ends_a_stream_between_two_batches(place):
    with place.backend({"many.csv": place.many(MANY)}) as backend:
        reader = backend.open_reader("many.csv")
        reader.read(10)
        with CancelScope() as scope:
            scope.cancel()
            with pytest.raises(Cancelled):
                reader.read()
        reader.close()
        assert len(table_of(backend, "many.csv").splitlines()) == MANY + 1


def test_goal_41_no_error_shows_a_password(place):
    url = sa.make_url(place.url)
    if place.name == "sqlite":
        return
    wrong = Secret(url.set(username="nobody", password="hunter2").render_as_string(hide_password=False))
    backend = SQLQueryBackend(wrong, {"x.csv": "SELECT 1"}, policy=RequestPolicy(retries=0))
    with pytest.raises((PermissionDenied, StorageError, NotFound)) as caught:
        backend.check_health()
    shown, error = f"{backend!r} {backend.url} {vars(backend)}", caught.value
    while error is not None:
        shown += f" {error} {error!r}"
        error = error.__cause__
    assert "hunter2" not in shown
    backend.close()


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("name", ["sqlite", IN_CI("postgres"), "mariadb"])
def test_goal_13_memory_does_not_grow_with_the_result(tmp_path, name):
    place = QueryPlace(name, tmp_path)
    peaks = []
    for rows in (60_000, ROWS):
        (tmp_path / "q.sql").write_text(f"-- name: many.parquet\n{place.many(rows)}\n")
        command = [sys.executable, "-W", "error", CHILD, place.url, tmp_path / "q.sql", "many.parquet", "arrow"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        peak, size, _ = done.stdout.split()
        peaks.append(float(peak))
        assert int(size) > rows
    assert 0 < peaks[1] <= 128
    assert peaks[1] - peaks[0] < 30, f"{peaks} MiB for 60,000 and {ROWS:,} rows"
    place.dispose()
