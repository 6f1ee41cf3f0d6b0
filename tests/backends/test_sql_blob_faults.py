"""The SQL blob backend under races, kills, forks, broken connections and lost answers."""

import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from omnistorage.backends.sql.database import Lost
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.concurrency.retry import Backoff, RequestPolicy, RetryBudget
from omnistorage.core import CopyOptions, WriteOptions
from omnistorage.errors import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
    WriterClosed,
)
from omnistorage.testing._kit import get, payload, put

from ..budget import pick
from ..waiting import LIMIT
from .sql_places import IN_CI, Place, raw
from .test_sql_blob import count, expire

MIB = 1 << 20
CHILD = pathlib.Path(__file__).parent / "sql_child.py"


def policy():
    return RequestPolicy(retries=8, backoff=Backoff(base=0.001), budget=RetryBudget(reserve=1000.0))


@pytest.fixture(params=["file", IN_CI("postgres"), "mariadb"])
def shared(request):
    place = Place(request.param)
    made = place.make(policy=policy())
    yield made
    place.dispose(made)


@pytest.fixture(params=["file", IN_CI("memory"), IN_CI("postgres"), "mariadb"])
def backend(request):
    place = Place(request.param)
    made = place.make(policy=policy())
    yield made
    place.dispose(made)


def race(number, work):
    """What ``work(n)`` returns or raises, of ``number`` threads that begin together."""
    start = threading.Barrier(number)

    def one(n):
        start.wait()
        try:
            return work(n)
        except StorageError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


# --- races ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, MIB + 10])
def test_rs_7_2_sixteen_writers_of_one_new_key_have_one_winner(backend, size):
    backend.check_health()
    for attempt in range(5 if size < MIB else 1):
        path = f"race/{attempt}"
        found = race(16, lambda n, path=path: put(backend, path, payload(size, str(n)), WriteOptions(overwrite=False)))
        won = [n for n, result in enumerate(found) if not isinstance(result, StorageError)]
        assert len(won) == 1, found
        assert {type(result) for n, result in enumerate(found) if n not in won} == {AlreadyExists}
        assert get(backend, path) == payload(size, str(won[0]))
    assert count(backend, "chunks") == (0 if size < MIB else 2)


def test_rs_7_2_concurrent_overwrites_of_a_new_key_never_fail(backend):
    """Where others select and then insert, most of these fail with AlreadyExists."""
    backend.check_health()
    for attempt in range(5):
        path = f"over/{attempt}"
        sizes = (10, MIB + 10) if attempt == 0 else (10,)
        found = race(8, lambda n, path=path, sizes=sizes: put(backend, path, payload(sizes[n % len(sizes)], str(n))))
        assert not [result for result in found if isinstance(result, Exception)], found
        assert get(backend, path) in [payload(sizes[n % len(sizes)], str(n)) for n in range(8)]
    for attempt in range(5):
        writers = [backend.open_writer(f"at once/{attempt}") for _ in range(8)]
        for n, writer in enumerate(writers):
            writer.write(b"%d" % n)
            writer.prepare()
        found = race(8, lambda n, writers=writers: writers[n].close())  # all look for a row, and all find none
        assert not [result for result in found if isinstance(result, Exception)], found
        assert get(backend, f"at once/{attempt}") in [b"%d" % n for n in range(8)]


def test_of_many_conditional_writers_one_wins_each_round(backend):
    put(backend, "x", b"start")
    for size in (10, 10, 10, MIB + 1):
        etag = backend.stat("x").etag
        options = WriteOptions(if_match=etag)
        found = race(8, lambda n, size=size, o=options: put(backend, "x", payload(size, str(n)), o))
        won = [n for n, result in enumerate(found) if not isinstance(result, StorageError)]
        assert len(won) == 1, found
        assert {type(result) for n, result in enumerate(found) if n not in won} == {PreconditionFailed}
        assert get(backend, "x") == payload(size, str(won[0]))


def test_increments_under_if_match_are_never_lost(backend):
    put(backend, "n", b"0")

    def work(n):
        for _ in range(5):
            while True:
                with backend.open_reader("n") as reader:
                    value, etag = int(reader.read()), reader.info.etag
                try:
                    put(backend, "n", b"%d" % (value + 1), WriteOptions(if_match=etag))
                    break
                except PreconditionFailed:
                    continue

    assert race(4, work) == [None] * 4
    assert get(backend, "n") == b"20"


def test_of_many_movers_of_one_object_one_has_it(backend):
    for size in (10, 2 * MIB):
        put(backend, "src", payload(size))
        found = race(8, lambda n: backend.move("src", f"dst/{n}"))
        won = [n for n, result in enumerate(found) if not isinstance(result, StorageError)]
        assert len(won) == 1, found
        assert {type(result) for n, result in enumerate(found) if n not in won} == {NotFound}
        assert get(backend, f"dst/{won[0]}") == payload(size)
        backend.delete(f"dst/{won[0]}")


def test_copies_and_deletes_of_a_shared_blob_never_lose_it(backend):
    put(backend, "a", payload(MIB + 5))

    def work(n):
        for at in range(5):
            backend.copy("a", f"copy/{n}")
            assert get(backend, f"copy/{n}") == payload(MIB + 5)
            backend.copy(f"copy/{n}", f"again/{n}/{at}")
            backend.delete(f"copy/{n}")

    assert race(4, work) == [None] * 4
    backend.delete("a")
    for info in list(backend.list()):
        assert get(backend, info.path) == payload(MIB + 5)
    assert len(list(backend.list())) == 20


def test_readers_of_a_large_object_see_one_version_whoever_writes(backend):
    versions = [payload(MIB + 3, str(n)) for n in range(4)]
    put(backend, "x", versions[0])
    stop = threading.Event()

    def work(n):
        if n == 0:
            try:
                for at in range(6):
                    put(backend, "x", versions[at % 4])
            finally:
                stop.set()
            return 0
        seen = 0
        while not stop.is_set() or not seen:
            assert get(backend, "x") in versions
            seen += 1
        return seen

    found = race(3, work)
    assert not [result for result in found if isinstance(result, Exception)], found
    assert all(found[1:])


# --- lost answers -----------------------------------------------------------------------------------------------------


def lose_answers(backend, times, *, before=False, then=None):
    """The next ``times`` statements that change something are done (or not, with ``before``), and their answer lost."""
    real, left = backend._db._attempt, [times]

    def attempt(op, path, work, *given):
        if not left[0]:
            return real(op, path, work, *given)
        left[0] -= 1
        if not before:
            real(op, path, work, *given)
            if then is not None:
                then()
        raise Lost("the connection broke", op=op, path=path, backend="sql")

    backend._db._attempt = attempt
    return left


@pytest.mark.parametrize("size", [10, MIB + 1])
@pytest.mark.parametrize("before", [False, True])
def test_a_lost_answer_of_a_change_is_resolved_and_never_a_false_conflict(backend, size, before):
    data, changes = payload(size), 0
    put(backend, "x", b"old")

    def write(path, options):
        writer = backend.open_writer(path, options)
        writer.write(data)
        writer.prepare()
        left = lose_answers(backend, 2, before=before)
        info = writer.close()
        assert left == [0]
        assert (info.etag, get(backend, path)) == (backend.stat(path).etag, data)

    write("new", WriteOptions(overwrite=False))
    write("x", WriteOptions(if_match=backend.stat("x").etag))
    write("x", WriteOptions())
    for call, check in (
        (lambda: backend.copy("x", "copied", CopyOptions(overwrite=False)), lambda: get(backend, "copied") == data),
        (lambda: backend.move("copied", "moved", CopyOptions(overwrite=False)), lambda: get(backend, "moved") == data),
        (lambda: backend.delete("moved"), lambda: not backend.exists("moved")),
    ):
        left = lose_answers(backend, 2, before=before)
        result = call()
        assert left == [0]
        assert result in (True, None) or result.size == size
        assert check()
        changes += 1
    assert changes == 3


@pytest.mark.parametrize("options", [WriteOptions(overwrite=False), WriteOptions(if_match="?")])
def test_what_cannot_be_resolved_is_an_unknown_outcome(backend, options):
    """Done, the answer lost, and changed by another before anybody could look."""
    path = "x"
    if options.if_match:
        put(backend, path, b"old")
        options = WriteOptions(if_match=backend.stat(path).etag)
    backend.check_health()
    writer = backend.open_writer(path, options)
    writer.write(b"mine")
    with raw(backend) as connection:
        lose_answers(backend, 1, then=lambda: connection.execute(f"UPDATE {backend.table_name} SET etag = 'theirs'"))
        with pytest.raises(OutcomeUnknown):
            writer.close()
    assert backend.stat(path).etag == "theirs"


def test_an_answer_that_stays_lost_is_an_unknown_outcome_and_destroys_nothing(backend):
    data = payload(2 * MIB)
    for op in ("write", "delete"):
        if op == "write":
            writer = backend.open_writer("x")
            writer.write(data)
            writer.prepare()
            call = writer.close
        else:
            call = lambda: backend.delete("x")  # noqa: E731
        real = backend._db._attempt
        lose_answers(backend, 1000)
        with pytest.raises(OutcomeUnknown):
            call()
        backend._db._attempt = real
        if op == "write":
            assert get(backend, "x") == data
    assert not backend.exists("x")


def test_conditional_deletes_that_were_lost_are_unknown_not_a_conflict(backend):
    put(backend, "x")
    lose_answers(backend, 1)
    with pytest.raises(OutcomeUnknown):
        backend.delete("x", if_match=etag_of(backend, "x"))


def etag_of(backend, path):
    with raw(backend) as connection:
        return connection.execute(f"SELECT etag FROM {backend.table_name}")[0][0]


# --- connections ------------------------------------------------------------------------------------------------------


def kill_connections(backend):
    """The server ends every session but ours."""
    with raw(backend) as connection:
        if connection.family == "postgresql":
            found = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND pid = ANY(?)",
                ([link.connection.info.backend_pid for link in backend._db._idle],),
            )
            return found[0][0]
        killed = 0
        for link in backend._db._idle:
            connection.execute(f"KILL {link.connection.thread_id()}")
            killed += 1
        return killed


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_a_broken_connection_is_replaced_and_the_call_done_again(name):
    place = Place(name)
    backend = place.make(policy=policy())
    put(backend, "x", payload(2 * MIB))
    for call in (
        lambda: backend.exists("x"),
        lambda: backend.stat("x").size == 2 * MIB,
        lambda: [info.path for info in backend.list()] == ["x"],
        lambda: get(backend, "x") == payload(2 * MIB),
        lambda: put(backend, "y", b"new", WriteOptions(overwrite=False)).size == 3,
        lambda: put(backend, "y", b"newer", WriteOptions(if_match=etag_from(backend, "y"))).size == 5,
        lambda: backend.move("y", "z").path == "z",
        lambda: backend.delete("z"),
    ):
        assert kill_connections(backend) >= 1
        assert call()
    reader = backend.open_reader("x")
    head = reader.read(10)
    kill_connections(backend)
    assert head + reader.read() == payload(2 * MIB)
    writer = backend.open_writer("w", WriteOptions(overwrite=False))
    for part in range(3):
        writer.write(payload(MIB, str(part)))
        kill_connections(backend)
    writer.close()
    assert get(backend, "w") == b"".join(payload(MIB, str(part)) for part in range(3))
    place.dispose(backend)


def etag_from(backend, path):
    with raw(backend) as connection:
        key = path.encode() if connection.family == "mysql" else path
        column = "`key`" if connection.family == "mysql" else "key"
        return connection.execute(f"SELECT etag FROM {backend.table_name} WHERE {column} = ?", (key,))[0][0]


def test_cancellation_ends_a_call_before_it_begins(backend):
    put(backend, "x")
    with CancelScope() as scope:
        scope.cancel()
        for call in (lambda: backend.exists("x"), lambda: put(backend, "y"), lambda: list(backend.list())):
            with pytest.raises(Cancelled):
                call()
    assert not backend.exists("y")


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_abort_and_close_from_another_thread_stop_a_blocked_call(name):
    place = Place(name)
    backend = place.make(policy=policy())
    put(backend, "x", payload(3 * MIB))
    with raw(backend) as connection:
        connection.execute("BEGIN")
        table = f"{backend.table_name}_chunks"
        if connection.family == "postgresql":
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        else:
            connection.execute(f"LOCK TABLES {table} WRITE")
        try:
            stop_blocked(backend)
        finally:
            connection.execute("ROLLBACK" if connection.family == "postgresql" else "UNLOCK TABLES")
            connection.execute("COMMIT")
    assert get(backend, "x") == payload(3 * MIB)
    place.dispose(backend)


@pytest.mark.parametrize("name", ["file", "postgres", "mariadb"])
def test_a_deadline_ends_a_statement_that_waits_for_a_lock(name):
    place = Place(name)
    backend = place.make(policy=policy(), timeout=4 * LIMIT, busy_timeout=4 * LIMIT)
    put(backend, "x", b"kept")
    with raw(backend) as connection:
        begin, end = {
            "sqlite": ("BEGIN EXCLUSIVE", "ROLLBACK"),
            "postgresql": (f"BEGIN; LOCK TABLE {backend.table_name} IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
            "mysql": (f"LOCK TABLES {backend.table_name} WRITE", "UNLOCK TABLES"),
        }[connection.family]
        for statement in begin.split("; "):
            connection.execute(statement)
        try:
            began = time.monotonic()
            with pytest.raises((DeadlineExceeded, OutcomeUnknown)), deadline(0.2):
                put(backend, "x", b"new")
            assert time.monotonic() - began < LIMIT
        finally:
            connection.execute(end)
            connection.execute("COMMIT") if connection.family == "mysql" else None
    assert get(backend, "x") == b"kept"
    put(backend, "x", b"again")
    place.dispose(backend)


def stop_blocked(backend):
    reader = backend.open_reader("x")
    writer = backend.open_writer("y")
    for stream, work, end, wanted in (
        (reader, lambda: reader.read(), reader.close, ReaderClosed),
        (writer, lambda: writer.write(payload(3 * MIB)), lambda: setattr(writer, "_abort_asked", True), StorageError),
    ):
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while stream._link is None:
                assert not future.done(), future.result()
            end()
            for _ in range(10_000):
                stream._interrupt()
                try:
                    future.exception(timeout=0.05)
                    break
                except TimeoutError:
                    continue
            assert isinstance(future.exception(timeout=LIMIT), wanted)
    with pytest.raises((WriterClosed, StorageError)):
        writer.write(b"more")


# --- processes --------------------------------------------------------------------------------------------------------


def in_child(work):
    """Whether ``work()`` ends well in a forked child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        verdict = 1
        try:
            work()
            verdict = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(verdict)
    return os.waitpid(child, 0)[1] == 0


def test_pain_9_a_forked_child_has_connections_of_its_own(shared):
    put(shared, "x", payload(2 * MIB))
    reader = shared.open_reader("x")
    reader.read(10)
    before = [id(link) for link in shared._db._idle]

    def work():
        assert get(shared, "x") == payload(2 * MIB)
        put(shared, "child", b"from the child")
        assert not {id(link) for link in shared._db._idle} & set(before)
        shared.close()

    for _ in range(3):
        assert in_child(work)
    assert [id(link) for link in shared._db._idle] == before
    assert len(reader.read()) == 2 * MIB - 10
    assert get(shared, "child") == b"from the child"
    assert in_child(lambda: in_child(work) or os._exit(1))


def test_pain_9_a_borrowed_engine_survives_a_fork(shared):
    from sqlalchemy import create_engine

    from omnistorage.backends.sql_blob import SQLBlobBackend

    engine = create_engine(shared._db.url)
    backend = SQLBlobBackend(engine, table_name=shared.table_name, policy=policy())
    put(backend, "x", b"1")

    def opened():
        lend = engine.raw_connection()
        try:
            return lend.dbapi_connection
        finally:
            lend.close()

    parents = opened()

    def work():
        assert get(backend, "x") == b"1"
        put(backend, "child", b"2")
        assert opened() is not parents

    assert in_child(work)
    assert opened() is parents
    assert get(backend, "child") == b"2"
    backend.close()
    engine.dispose()


def test_memory_refuses_to_live_on_in_a_forked_child():
    place = Place("memory")
    backend = place.make()
    put(backend, "x")

    def work():
        with pytest.raises(StorageError, match="process that made it"):
            backend.exists("x")

    assert in_child(work)
    assert backend.exists("x")
    backend.close()


def test_pain_9_spawned_processes_get_it_as_configuration(shared):
    put(shared, "x", b"1")
    code = (
        "import pickle, sys; b = pickle.load(sys.stdin.buffer);"
        "w = b.open_writer('y'); w.write(b.open_reader('x').read() + b'2'); w.close(); b.close()"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(shared), check=True, timeout=LIMIT)
    assert get(shared, "y") == b"12"


def test_etags_of_parent_and_child_never_meet(shared):
    put(shared, "x", b"parent")
    before = shared.stat("x").etag
    assert in_child(lambda: put(shared, "x", b"child"))
    child = shared.stat("x").etag
    parent = put(shared, "x", b"parent").etag
    assert len({before, child, parent}) == 3


def test_goal_kill_during_chunked_writes_leaves_nothing_visible(shared):
    source = shared._db.source
    kills, seed = pick(default=2, ci=10, soak=100), random.randrange(1 << 30)
    rng = random.Random(seed)
    interrupted = 0
    for _ in range(kills):
        command = [sys.executable, CHILD, "die", source, shared.table_name, "0"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        lines = [child.stdout.readline() for _ in range(rng.randrange(2, 12))]
        os.killpg(child.pid, signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        done = {f"large/{line.split()[1]}" for line in lines if line.startswith("done")}
        assert done <= {info.path for info in shared.list()}, seed
        left, deadline = None, time.monotonic() + LIMIT
        while left != (0, 0):  # the server may not be done yet with the last statement of the dead client
            assert time.monotonic() < deadline, (left, seed)
            for info in list(shared.list()):
                assert len(get(shared, info.path)) == info.size == 8 * (MIB + 14), (info.path, seed)
                shared.delete(info.path)
            expire(shared)
            interrupted += shared.remove_stale_uploads(older_than=timedelta(0))
            left = (count(shared, "chunks"), count(shared, "blobs"))
    assert interrupted >= 1, "no kill hit a write"


def interrupted_write(backend):
    """A writer that has sent two chunks, whose lease ran out, and what the server would do to add the next one."""
    writer = backend.open_writer("dead")
    writer.write(payload(3 * MIB))
    expire(backend)
    values = (writer._seq, b"late", writer._blob)
    return writer, backend._table.new_chunk, values


def test_a_chunk_that_comes_after_its_blob_was_collected_is_not_added(backend):
    writer, statement, values = interrupted_write(backend)
    assert backend.remove_stale_uploads(older_than=timedelta(0)) == 1
    with raw(backend) as connection:
        connection.execute(statement, values)
    assert (count(backend, "chunks"), count(backend, "blobs")) == (0, 0)
    with pytest.raises(StorageError, match="collected"):
        writer.write(payload(MIB))
    writer.abort()
    assert (count(backend, "chunks"), count(backend, "blobs")) == (0, 0)


def test_the_collector_waits_for_a_chunk_that_is_being_added(shared):
    writer, statement, values = interrupted_write(shared)
    with raw(shared) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("BEGIN IMMEDIATE" if connection.family == "sqlite" else "BEGIN")
        try:
            connection.execute(statement, values)
            removal = pool.submit(shared.remove_stale_uploads, older_than=timedelta(0))
            with pytest.raises(TimeoutError):
                removal.result(timeout=0.1)  # a slow machine can only make it pass
        finally:
            connection.execute("COMMIT")
        assert removal.result(timeout=LIMIT) == 1
    assert (count(shared, "chunks"), count(shared, "blobs")) == (0, 0)
    writer.abort()


def test_a_chunk_waits_for_the_collector_that_has_claimed_its_blob(shared):
    writer, _, _ = interrupted_write(shared)
    with raw(shared) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("BEGIN IMMEDIATE" if connection.family == "sqlite" else "BEGIN")
        try:
            connection.execute(shared._table.doom, (writer._blob,))
            adding = pool.submit(writer.write, payload(MIB))
            with pytest.raises(TimeoutError):
                adding.result(timeout=0.1)  # a slow machine can only make it pass
        finally:
            connection.execute("COMMIT")
        assert isinstance(adding.exception(timeout=LIMIT), StorageError)
    assert count(shared, "chunks") == 2
    writer.abort()
    assert (count(shared, "chunks"), count(shared, "blobs")) == (0, 0)


def test_later_writers_collect_what_dead_ones_left(shared):
    writer = shared.open_writer("dead")
    writer.write(payload(3 * MIB))
    with raw(shared) as connection:
        connection.execute(f"UPDATE {shared.table_name}_blobs SET kept_until = 0")
    put(shared, "x", payload(2 * MIB))
    assert count(shared, "chunks") == 2
    with pytest.raises(StorageError):
        writer.close()


def test_a_collector_that_died_is_taken_over_from(backend):
    put(backend, "x", payload(3 * MIB))
    with raw(backend) as connection:
        connection.execute(f"DELETE FROM {backend.table_name}")
        connection.execute(f"UPDATE {backend.table_name}_blobs SET linked = -1")
        connection.execute(f"DELETE FROM {backend.table_name}_chunks WHERE seq > 1")
    put(backend, "y", payload(2 * MIB))
    assert (count(backend, "chunks"), count(backend, "blobs")) == (2, 1)


# --- memory -----------------------------------------------------------------------------------------------------------

SIZE = pick(default=40, ci=256, soak=256) * MIB  # more than the 32 MiB that it may take


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="VmHWM is Linux's")
def test_goal_13_rs_7_4_memory_does_not_grow_with_the_object(shared):
    command = [sys.executable, "-W", "error", CHILD, "stream", shared._db.source, shared.table_name, str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < float(done.stdout) <= 32
    assert shared.stat("big").size > SIZE - MIB


def test_unavailable_is_said_when_no_retry_helps():
    place = Place("file")
    backend = place.make(policy=RequestPolicy(retries=2, backoff=Backoff(base=0.0)))
    put(backend, "x")
    lose_answers(backend, 100, before=True)
    with pytest.raises(BackendUnavailable):
        backend.exists("x")
    place.dispose(backend)
