"""When the network fails: connections dropped, answers lost, servers that say nothing; and threads, forks, pickles."""

import dataclasses
import gc
import os
import pickle
import shutil
import socket
import threading
import time
from datetime import UTC, datetime
from multiprocessing import get_context

import pytest

from omnistorage.backends.sftp import SFTPBackend
from omnistorage.backends.sftp import connection as sftp_connect
from omnistorage.backends.sftp.connection import Link
from omnistorage.backends.sftp.mutations import Attempt
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.concurrency.retry import Backoff, RequestPolicy
from omnistorage.core import WriteOptions
from omnistorage.core.secret import Secret
from omnistorage.errors import (
    AlreadyExists,
    BackendClosed,
    BackendUnavailable,
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    ReaderClosed,
    StorageError,
    WriterClosed,
)

from ..budget import pick
from ..servers import server
from ..servers.ssh import on_disk, options_of
from ..waiting import LIMIT, until

BOTH = pytest.mark.parametrize("name", ["sshd", "asyncssh"])


def quick(retries=3):
    return RequestPolicy(retries=retries, backoff=Backoff(base=0.001))


class Gate:
    """A way to a server that can hold the answers back, take no more requests, and cut every connection."""

    def __init__(self, port):
        self._to = port
        self.answers, self.requests, self.open = threading.Event(), threading.Event(), True
        self.answers.set()
        self.requests.set()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            for one in (near, far):  # a small packet must not wait until the one before it is confirmed
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            for source, target, valve in ((near, far, self.requests), (far, near, self.answers)):
                threading.Thread(target=self._pump, args=(source, target, valve), daemon=True).start()

    @staticmethod
    def _pump(source, target, valve):
        try:
            while data := source.recv(1 << 16):
                valve.wait()
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Close every connection, with whatever was held back; later ones go through."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
        self.answers.set()
        self.requests.set()

    def close(self):
        self.open = False
        self.cut()
        self._listener.close()


@pytest.fixture
def through_gate():
    """A backend behind a gate: ``backend.gate``, ``backend.disk``."""
    made = []

    def make(name="sshd", **options):
        info = server(name)
        gate = Gate(info["port"])
        given = options_of(info, policy=quick(), connections=1, **options)
        given |= {"port": gate.port, "host_key": info["host_key"]}
        backend = SFTPBackend(**given)
        backend.gate, backend.disk = gate, on_disk(info, given["root"])
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.gate.close()
        backend.close()
        shutil.rmtree(backend.disk, ignore_errors=True)


def put(backend, path, data=b"data", **options):
    with backend.open_writer(path, WriteOptions(**options)) as writer:
        writer.write(data)
    return writer.result


def get(backend, path):
    with backend.open_reader(path) as reader:
        return reader.read()


def files(backend):
    return sorted(str(p.relative_to(backend.disk)) for p in backend.disk.rglob("*") if p.is_symlink() or not p.is_dir())


def in_thread(call):
    """Run ``call`` beside the test; ``join()`` gives what it returned, or the error it raised."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join(LIMIT)
        assert not thread.is_alive(), "it hangs"
        return outcome[0]

    return join


# -- dropped connections -----------------------------------------------------------------------------------------------


@BOTH
def test_rs_7_1_5_a_reader_whose_connection_drops_raises_and_never_ends_short(through_gate, name):
    backend = through_gate(name)
    put(backend, "x", os.urandom(4 << 20))
    reader = backend.open_reader("x")
    assert len(reader.read(1000)) == 1000
    backend.gate.cut()
    with pytest.raises(BackendUnavailable) as caught:
        reader.read()
    assert caught.value.transient
    assert caught.value.path == "x"
    reader.close()
    assert len(get(backend, "x")) == 4 << 20, "the next call opens a new connection"


@BOTH
def test_go_f7_goal_8_rs_7_1_10_a_writer_whose_connection_drops_shows_nothing_and_is_cleared_away(through_gate, name):
    backend = through_gate(name)
    put(backend, "x", b"old")
    writer = backend.open_writer("x")
    writer.write(b"new" * 1_000_000)
    backend.gate.cut()
    with pytest.raises(BackendUnavailable):
        for _ in range(1000):
            writer.write(b"more" * 1_000_000)
    with pytest.raises(BackendUnavailable):
        writer.close()
    assert get(backend, "x") == b"old"
    assert files(backend) == ["x"]


@BOTH
def test_goal_29_a_reader_never_splices_two_versions_of_one_size_and_second(through_gate, name):
    backend = through_gate(name)
    size, when = 4 << 20, datetime(2020, 1, 1, tzinfo=UTC)
    put(backend, "x", b"1" * size, modified_at=when)
    with backend.open_reader("x") as whole, backend.open_reader("x") as dropped:
        heads = [whole.read(1000), dropped.read(1000)]
        put(backend, "x", b"2" * size, modified_at=when)
        assert backend.stat("x").etag == dropped.info.etag
        assert heads[0] + whole.read() == b"1" * size
        backend.gate.cut()
        with pytest.raises(BackendUnavailable):
            heads[1] += dropped.read()
    assert get(backend, "x") == b"2" * size


@pytest.mark.parametrize("noticed", [True, False])
def test_go_f7_an_idle_connection_that_died_is_replaced_without_a_word(through_gate, monkeypatch, noticed):
    """Before the next request, or by its failure."""
    backend = through_gate()
    put(backend, "x")
    alive = Link.alive
    calls = (
        lambda: put(backend, "y"),
        lambda: backend.move("y", "z"),
        lambda: backend.delete("z"),
        lambda: backend.exists("x"),
        lambda: backend.stat("x"),
        lambda: list(backend.list()),
        lambda: backend.mkdir("folder"),
        lambda: backend.rmdir("folder"),
    )
    for call in calls[: pick(default=4, ci=8, soak=8)]:  # each makes a connection
        (link,) = backend._pool._links
        backend.gate.cut()
        until(lambda link=link: not alive.fget(link))
        if not noticed:
            monkeypatch.setattr(Link, "alive", property(lambda self: self.session.lost is None))
        call()
        assert link not in backend._pool._links
    assert files(backend) == ["x"]


def test_a_killed_session_process_is_like_a_dropped_connection(through_gate):
    """The transport is closed under the backend's feet while a writer and a reader are at work."""
    backend = through_gate()
    put(backend, "x", os.urandom(8 << 20))
    reader, writer = backend.open_reader("x"), backend.open_writer("y")
    writer.write(b"partial")
    reader.read(10)
    for transport in backend._pool.link()._transports:
        transport.close()
    with pytest.raises(BackendUnavailable):
        reader.read()
    with pytest.raises(BackendUnavailable):
        writer.flush()
    writer.abort()
    assert [info.path for info in backend.list()] == ["x"]
    assert files(backend) == ["x"]


# -- lost answers ------------------------------------------------------------------------------------------------------


def lose_the_answer(backend, call, happened):
    """Run ``call`` so that its request is carried out and the answer to it never arrives."""
    backend.gate.answers.clear()
    join = in_thread(call)
    until(happened)
    backend.gate.cut()
    return join()


@BOTH
@pytest.mark.parametrize("overwrite", [True, False])
def test_goal_26_a_publication_whose_answer_is_lost_is_found_to_have_happened(through_gate, name, overwrite):
    backend = through_gate(name)
    if overwrite:
        put(backend, "x", b"the old one")
    writer = backend.open_writer("x", WriteOptions(overwrite=overwrite))
    writer.write(b"mine")
    writer.prepare()
    result = lose_the_answer(
        backend, writer.close, lambda: (backend.disk / "x").exists() and (backend.disk / "x").read_bytes() == b"mine"
    )
    assert not isinstance(result, Exception), result
    assert (result.path, result.size) == ("x", 4)
    assert writer.close() == result
    assert get(backend, "x") == b"mine"
    assert files(backend) == ["x"]


@BOTH
def test_goal_26_a_conflict_whose_answer_is_lost_is_still_a_conflict(through_gate, name):
    backend = through_gate(name)
    writer = backend.open_writer("x", WriteOptions(overwrite=False))
    writer.write(b"mine")
    writer.prepare()
    (backend.disk / "x").write_bytes(b"same")  # of the same size, and within the same second
    requests = backend._pool.link().sftp._number
    backend.gate.answers.clear()
    join = in_thread(writer.close)
    until(lambda: backend._pool.link().sftp._number > requests)
    backend.gate.cut()
    assert isinstance(join(), AlreadyExists)
    assert get(backend, "x") == b"same"
    assert files(backend) == ["x"]


def test_goal_26_when_nobody_can_look_the_outcome_is_unknown(through_gate):
    backend = through_gate()
    writer = backend.open_writer("x")
    writer.write(b"mine")
    writer.prepare()
    backend.gate.open = False
    result = lose_the_answer(backend, writer.close, (backend.disk / "x").exists)
    assert isinstance(result, OutcomeUnknown)
    assert isinstance(result.__cause__, BackendUnavailable)
    backend.gate.open = True
    assert get(backend, "x") == b"mine", "it was published and is not taken back"
    writer.abort()
    assert files(backend) == ["x"]


@BOTH
@pytest.mark.parametrize("overwrite", [True, False])
def test_goal_26_a_move_whose_answer_is_lost_is_found_to_have_happened(through_gate, name, overwrite):
    from omnistorage.core import CopyOptions

    backend = through_gate(name)
    put(backend, "a", b"moved")
    info = backend.stat("a")
    backend.mkdir("b")
    gone = False

    def happened():
        nonlocal gone
        backend.gate.answers.set()  # the looks before it are answered, the rename itself perhaps not
        gone = (backend.disk / "b/x").exists()
        return gone

    result = lose_the_answer(backend, lambda: backend.move("a", "b/x", CopyOptions(overwrite=overwrite)), happened)
    assert not isinstance(result, Exception), result
    assert result == info._replace(path="b/x")
    assert files(backend) == ["b/x"]


@BOTH
def test_goal_26_a_second_attempt_sees_that_the_first_went_all_the_way(through_gate, name):
    """The move was done and its old name removed, only nobody heard of it: neither a conflict nor a missing source."""
    backend = through_gate(name)
    info = put(backend, "dst", b"moved")
    attempt = Attempt()
    attempt.begin()

    def again(call, **there):
        def run(_, session):
            full = [backend._place.full(session, path) for path in ("src", "dst")]
            return call(session, *full, info._replace(**there), "move", attempt)

        return backend._ask("move", "dst", run)

    assert again(backend._create) is True
    again(backend._replace)
    for call in (backend._create, backend._replace):
        with pytest.raises(OutcomeUnknown):  # what is there is another one: ours came and went, or never came
            again(call, size=6)
        attempt.asked = False
        with pytest.raises(NotFound):
            again(call)
        attempt.asked = True
    assert files(backend) == ["dst"]


def test_a_delete_whose_answer_is_lost_does_not_say_that_there_was_nothing(through_gate):
    backend = through_gate()
    put(backend, "x")
    assert lose_the_answer(backend, lambda: backend.delete("x"), lambda: not (backend.disk / "x").exists()) is None
    assert backend.delete("x") is False


# -- time --------------------------------------------------------------------------------------------------------------


def silent_server():
    """Takes connections and says nothing."""
    return socket.create_server(("127.0.0.1", 0))


def test_a_server_that_says_nothing_is_given_up_in_the_configured_time():
    with silent_server() as silent:
        options = {"user": "u", "password": Secret("p"), "ssh_config": "", "policy": quick(0)}
        backend = SFTPBackend("127.0.0.1", port=silent.getsockname()[1], connect_timeout=0.3, **options)
        start = time.monotonic()
        with pytest.raises(BackendUnavailable) as caught:
            backend.exists("x")
        assert 0.2 < time.monotonic() - start < LIMIT
        assert caught.value.path == "x"
        backend.close()


def test_each_step_has_the_configured_time(through_gate, monkeypatch):
    """``connect_timeout`` bounds each step of connecting, ``timeout`` what follows. No test waits that long."""
    paramiko, given, real_connect = sftp_connect.load_paramiko(), {}, socket.create_connection

    def connect(address, timeout=None, **options):
        if address[1] == backend.gate.port:  # the gate makes connections, too
            given["socket"] = timeout
        return real_connect(address, timeout, **options)

    def start_client(transport, event=None, timeout=None):
        given["handshake"] = timeout, transport.banner_timeout, transport.handshake_timeout
        return real_start(transport, event, timeout)

    def log_in(transport, *args):
        given["authentication"] = transport.auth_timeout
        return real_log_in(transport, *args)

    def open_session(transport, *args, timeout=None, **options):
        given["channel"] = timeout, transport.channel_timeout
        return real_open(transport, *args, timeout=timeout, **options)

    def invoke_subsystem(channel, name):
        given[name] = channel.gettimeout()
        return real_invoke(channel, name)

    real_start, real_open = paramiko.Transport.start_client, paramiko.Transport.open_session
    real_log_in, real_invoke = sftp_connect.authenticate, paramiko.Channel.invoke_subsystem
    backend = through_gate(timeout=77, connect_timeout=33)
    with monkeypatch.context() as patch:
        patch.setattr(sftp_connect.socket, "create_connection", connect)
        patch.setattr(paramiko.Transport, "start_client", start_client)
        patch.setattr(sftp_connect, "authenticate", log_in)
        patch.setattr(paramiko.Transport, "open_session", open_session)
        patch.setattr(paramiko.Channel, "invoke_subsystem", invoke_subsystem)
        assert not backend.exists("x")
    assert given == {
        "socket": 33, "handshake": (33, 33, 33), "authentication": 33, "channel": (33, 33), "sftp": 33,
    }  # fmt: skip
    (link,) = backend._pool._links
    assert (link._transports[-1].sock.patience, link.session._timeout) == (77, 77)


def impatient(backend, seconds=0.3):
    """Give up a silent server soon, from now on: a busy machine may take longer than that to make the connection."""
    pool = backend._pool
    pool._settings = dataclasses.replace(pool._settings, timeout=seconds, connect_timeout=seconds)
    for link in pool._links:
        link.session._timeout = seconds


@pytest.mark.parametrize("valve", ["answers", "requests"])
def test_a_server_that_falls_silent_is_given_up_in_the_configured_time(through_gate, valve):
    backend = through_gate()
    (backend.disk / "x").write_bytes(b"x" * (12 << 20))
    reader, writer = backend.open_reader("x"), backend.open_writer("y")
    reader.read(10)
    impatient(backend)
    backend.policy = quick(0)
    getattr(backend.gate, valve).clear()
    with pytest.raises(BackendUnavailable):
        reader.read()
    with pytest.raises(BackendUnavailable):
        for _ in range(100):
            writer.write(b"y" * (1 << 20))
    with pytest.raises(BackendUnavailable):
        backend.stat("x")
    writer.abort()


def test_a_deadline_and_a_cancellation_end_a_blocked_call(through_gate):
    backend = through_gate()
    put(backend, "x")
    backend.gate.answers.clear()
    with pytest.raises(DeadlineExceeded), deadline(0.2):
        backend.stat("x")
    scope = CancelScope()

    def blocked():
        with scope:
            backend.stat("x")

    join = in_thread(blocked)
    scope.cancel()
    assert isinstance(join(), Cancelled)
    backend.gate.answers.set()
    assert backend.stat("x").size == 4, "the late answers harm nobody"


def test_close_and_abort_from_another_thread_end_a_blocked_stream(through_gate):
    backend = through_gate()
    put(backend, "x", b"x" * (16 << 20))
    reader, writer = backend.open_reader("x"), backend.open_writer("y")
    backend.gate.answers.clear()
    writer.write(b"partial")
    reading, writing = in_thread(reader.read), in_thread(writer.flush)
    until(lambda: reader._asked and writer._asked)
    reader.close()
    writer.abort()
    assert isinstance(reading(), ReaderClosed)
    backend.gate.answers.set()
    assert isinstance(writing(), StorageError)
    with pytest.raises(WriterClosed):
        writer.close()
    assert files(backend) == ["x"]


# -- threads, forks, pickles -------------------------------------------------------------------------------------------


@pytest.fixture
def plain():
    info = server("sshd")
    given = options_of(info, connections=2, policy=quick())
    backend = SFTPBackend(**given)
    backend.disk = on_disk(info, given["root"])
    yield backend
    backend.close()
    shutil.rmtree(backend.disk, ignore_errors=True)


def test_rs_7_2_threads_share_the_pool_and_never_each_others_answers(plain):
    def work(number):
        for at in range(6):
            data = os.urandom(1 + 100_000 * at)
            put(plain, f"{number}/{at}", data)
            assert get(plain, f"{number}/{at}") == data
            assert plain.stat(f"{number}/{at}").size == len(data)
        return len(list(plain.list(str(number))))

    joins = [in_thread(lambda n=n: work(n)) for n in range(12)]
    assert [join() for join in joins] == [6] * 12
    assert len(plain._pool._links) == 2


def test_an_idle_reader_with_much_under_way_holds_up_nobody(plain):
    size, count = pick(default=8 << 20, ci=16 << 20, soak=16 << 20), pick(default=4, ci=8, soak=8)
    put(plain, "x", os.urandom(size))
    readers = [plain.open_reader("x") for _ in range(count)]
    for reader in readers:
        for _ in range(size >> 21):
            reader.read(1 << 20)
    put(plain, "y", os.urandom(8 << 20))
    assert plain.stat("y").size == 8 << 20
    for reader in readers:
        reader.close()


def _be_a_child(backend, reader, data):
    verdict = 1
    try:
        assert get(backend, "x") == data
        put(backend, "from-the-child", b"child")
        try:
            reader.read()
        except BackendUnavailable:
            verdict = 0
        backend._pool._links.clear()
        gc.collect()
    finally:
        os._exit(verdict)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_pain_9_a_forked_child_opens_its_own_connection_and_leaves_the_parents_alone(plain):
    data = os.urandom(8 << 20)
    put(plain, "x", data)
    reader = plain.open_reader("x")
    head = reader.read(1000)
    writer = plain.open_writer("y")
    writer.write(b"parent")
    with plain._pool._state:  # as if another thread were just taking a connection
        child = os.fork()
        if child == 0:
            _be_a_child(plain, reader, data)
    assert os.waitpid(child, 0)[1] == 0
    assert head + reader.read() == data
    writer.close()
    assert get(plain, "y") == b"parent"
    assert files(plain) == ["from-the-child", "x", "y"]
    reader.close()


def _read_in_child(pickled, path):
    backend = pickle.loads(pickled)
    with backend, backend.open_reader(path) as reader:
        return reader.read()


def test_pain_9_it_pickles_as_configuration_into_any_kind_of_process(plain):
    put(plain, "x", b"shared")
    twin = pickle.loads(pickle.dumps(plain))
    assert twin.url == plain.url
    assert twin.policy.retries == 3
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read_in_child, (pickle.dumps(plain), "x")) == b"shared"
    twin.close()


def test_a_literal_secret_does_not_pickle_and_a_reference_does(monkeypatch):
    for name in ("password", "key", "passphrase"):
        with pytest.raises(ConfigError):
            pickle.dumps(SFTPBackend("host", **{name: "literal"}))
        monkeypatch.setenv("SFTP_SECRET", "canary")
        pickled = pickle.dumps(SFTPBackend("host", **{name: Secret.env("SFTP_SECRET")}))
        assert b"canary" not in pickled
        assert pickle.loads(pickled)._options[name] == Secret.env("SFTP_SECRET")


def test_nothing_is_connected_before_the_first_call_and_nothing_after_close(plain):
    assert plain._pool._links == []
    plain.check_health()
    (link,) = plain._pool._links
    plain.close()
    assert not link.alive
    with pytest.raises(BackendClosed):
        plain.check_health()


def test_a_backend_that_is_dropped_hangs_up():
    info = server("sshd")
    given = options_of(info)
    backend = SFTPBackend(**given)
    backend.check_health()
    (link,) = backend._pool._links
    del backend
    gc.collect()
    assert not link.alive
    os.rmdir(on_disk(info, given["root"]))
