"""What each wrapper does beyond forwarding."""

from __future__ import annotations

import pickle
import threading
from datetime import timedelta

import pytest

from omnistorage import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    LocalBackend,
    MemoryBackend,
    NotFound,
    OutcomeUnknown,
    StorageError,
    ops,
)
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import Backoff, RequestPolicy, RetryBudget
from omnistorage.core import LIST, READ, WRITE, CopyOptions, Features, ListOptions, ReadOptions, WriteOptions, power
from omnistorage.core import StaleUploads as Stale
from omnistorage.testing import BasicBackend, Faulty, Flaky
from omnistorage.wrappers import Event, Observe, Prefix, ReadOnly, Retry


def put(backend, path, data=b"data", options=WRITE):
    return ops.write_bytes(backend, path, data, options)


# -- Prefix ------------------------------------------------------------------------------------------------------------


def test_no_path_leads_out_of_a_prefix():
    inner = MemoryBackend()
    put(inner, "secret", b"x")
    view = Prefix(inner, "a/b")
    for path in ("../secret", "../../secret", "x/../../../secret", "..", "x/.."):
        for call in (view.open_reader, view.exists, view.delete, view.stat, view.list, view.list_dir, view.open_writer):
            with pytest.raises(InvalidPath) as caught:
                call(path)
            assert caught.value.path == path
        for call in (view.copy, view.move):
            with pytest.raises(InvalidPath):
                call("x", path)
            with pytest.raises(InvalidPath):
                call(path, "x")
    for prefix in ("", "/", "../x", "a//b", "a/../b", ".", None, 3, "a\0"):
        with pytest.raises(ConfigError):
            Prefix(inner, prefix)


def test_everything_that_comes_back_is_relative_to_the_prefix():
    inner = MemoryBackend()
    view = Prefix(inner, "a/b/")
    assert view.url == inner.url + "a/b/"
    assert Prefix(inner, "é%").url == inner.url + "%C3%A9%25/"
    assert put(view, "c/d").path == "c/d"
    assert inner.peek("a/b/c/d") == b"data"
    assert view.stat("c/d").path == "c/d"
    assert [info.path for info in view.list()] == ["c/d"]
    assert [info.path for info in view.list_dir()] == ["c"]
    with view.open_reader("c/d") as reader:
        assert reader.info.path == "c/d"
    with view.open_writer("e") as writer:
        pass
    assert writer.result.path == "e"
    assert view.copy("c/d", "f").path == "f"
    assert view.move("f", "g").path == "g"
    assert view.set_metadata("g", user_metadata={"k": "v"}).path == "g"
    assert [info.path for info in view.list("", ListOptions(start_after="c/d"))] == ["e", "g"]
    with view.open_appender("g") as writer:
        writer.write(b"+")
    assert writer.close().path == "g"
    assert inner.peek("a/b/g") == b"data+"


def test_errors_of_calls_streams_and_listings_carry_the_callers_path():
    inner = MemoryBackend()
    view = Prefix(Flaky(inner, at=10**9), "a")
    for call in (lambda: view.stat("x"), lambda: view.open_reader("x"), lambda: list(view.list_dir("x"))):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.path == "x"
        assert caught.value.location == f"{inner.url}a/x"
    put(inner, "a/y")

    class Broken(MemoryBackend):
        def _list(self, prefix, options):
            yield inner.stat("a/y")
            error = BackendUnavailable("no", path="a/folder")
            if options.on_error is None:
                raise error
            options.on_error(error)

    view = Prefix(Broken(), "a")
    listing = view.list()
    assert next(listing).path == "y"
    with pytest.raises(BackendUnavailable) as caught:
        next(listing)
    assert caught.value.path == "folder"
    seen = []
    assert [info.path for info in view.list("", ListOptions(on_error=seen.append))] == ["y"]
    assert [error.path for error in seen] == ["folder"]

    class Fails(Faulty):
        def __init__(self, inner, path):
            super().__init__(inner)
            self.path = path

        def _before(self, op, number):
            if op in ("read", "write"):
                raise BackendUnavailable("no", path=self.path)

    view = Prefix(Fails(inner, "a/y"), "a")
    with view.open_reader("y") as reader, pytest.raises(BackendUnavailable) as caught:
        reader.read()
    assert caught.value.path == "y"
    put(inner, "a/a/z")
    writer = Prefix(Fails(inner, path="a/a/z"), "a").open_writer("a/z")
    for call in (lambda: writer.write(b"x"), lambda: writer.write(b"x"), writer.close):
        with pytest.raises(BackendUnavailable) as caught:
            call()
        assert caught.value.path == "a/z", "rebased once, however often it is raised"


def test_copies_between_prefixes_of_one_backend_stay_in_it():
    inner = MemoryBackend()
    one, two = Prefix(inner, "one"), Prefix(Prefix(inner, "deep"), "two")
    put(one, "x/y", b"1")
    two.copy("x/y", "z", CopyOptions(source=one))
    assert inner.peek("deep/two/z") == b"1"
    one.move("z", "w", CopyOptions(source=two))
    assert (inner.peek("deep/two/z"), inner.peek("one/w")) == (None, b"1")
    one.copy("one/w", "v", CopyOptions(source=inner))
    assert inner.peek("one/v") == b"1"


def test_two_handles_on_one_folder_are_one_place(tmp_path):
    store = LocalBackend(tmp_path)
    put(store, "a/x")
    view = Prefix(store, "a")
    assert ops.same_place(view, LocalBackend(tmp_path / "a"))
    ops.copy(view, "x", LocalBackend(tmp_path / "a"), "x")
    assert (tmp_path / "a/x").read_bytes() == b"data"


def test_stale_uploads_are_those_of_the_folder(tmp_path):
    for folder in ("a", "ab", "a/deep"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".omnistorage-0123456789abcdef.tmp").write_bytes(b"x")
    view = Prefix(LocalBackend(tmp_path), "a")
    stale = power(view, Stale)
    assert sorted(info.path for info in stale.stale_uploads(older_than=timedelta(0))) == [
        ".omnistorage-0123456789abcdef.tmp",
        "deep/.omnistorage-0123456789abcdef.tmp",
    ]
    assert stale.remove_stale_uploads(older_than=timedelta(0)) == 2
    assert (tmp_path / "ab/.omnistorage-0123456789abcdef.tmp").exists()
    assert list(power(Prefix(LocalBackend(tmp_path), "none"), Stale).stale_uploads()) == []


def test_a_prefix_pickles_with_its_backend(tmp_path):
    view = pickle.loads(pickle.dumps(Prefix(LocalBackend(tmp_path), "a/b")))
    put(view, "x")
    assert (tmp_path / "a/b/x").exists()


# -- ReadOnly ----------------------------------------------------------------------------------------------------------


def test_read_only_refuses_every_change_before_the_inner_backend_is_asked():
    inner = MemoryBackend()
    put(inner, "x")
    put(inner, "d/y")
    counting = Faulty(inner)
    view = ReadOnly(counting)
    changes = [
        lambda: view.open_writer("x"), lambda: view.open_writer("new"), lambda: view.open_appender("x"),
        lambda: view.delete("x"), lambda: view.copy("x", "z"), lambda: view.move("x", "z"),
        lambda: view.mkdir("m"), lambda: view.rmdir("d"), lambda: view.purge("d"),
        lambda: view.set_metadata("x", user_metadata={"k": "v"}), lambda: view.delete_many(["x"]),
        lambda: view.presign("x", "PUT", timedelta(1)), lambda: view.token_of(None),
        lambda: view.resume_writer("x", {}), lambda: view.stale_uploads(), lambda: view.remove_stale_uploads(),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(CapabilityNotSupported):
            change()
    assert counting.log == []
    assert ops.read_bytes(view, "x") == b"data"
    assert view.read_ranges("x", [(1, 2)]) == [b"at"]
    assert [info.path for info in view.list()] == ["d/y", "x"]
    view.check_health()


# -- Observe -----------------------------------------------------------------------------------------------------------


class Ticks(Clock):
    """A second passes at every look."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        self.time += 1
        return self.time

    def wait(self, seconds, wake):
        self.time += seconds


def test_every_call_and_every_stream_is_told_at_its_start_and_its_end():
    events = []
    view = Observe(MemoryBackend(), events.append, clock=Ticks())
    put(view, "x", b"12345")
    assert events == [
        Event("start", "open_writer", "x"),
        Event("end", "open_writer", "x", 1.0),
        Event("start", "write", "x"),
        Event("end", "write", "x", 1.0, bytes=5),
    ]
    events.clear()
    with view.open_reader("x") as reader:
        reader.read(2)
        reader.read(2)
    assert events[2:] == [Event("start", "read", "x"), Event("end", "read", "x", 1.0, bytes=4)]
    events.clear()
    assert [info.path for info in view.list()] == ["x"]
    assert events == [Event("start", "list", ""), Event("end", "list", "", 1.0, items=1)]
    events.clear()
    with pytest.raises(NotFound) as caught:
        view.stat("y")
    assert events[1] == Event("end", "stat", "y", 1.0, error=caught.value)
    events.clear()
    with pytest.raises(KeyError), view.open_writer("z") as writer:
        writer.write(b"abc")
        raise KeyError
    writer.abort()
    assert events[-1] == Event("end", "write", "z", 1.0, bytes=3, aborted=True)
    assert sum(event.phase == "end" and event.op == "write" for event in events) == 1, "told once"


def test_a_stream_that_fails_says_so_at_its_end():
    events = []

    class Fails(Faulty):
        def _before(self, op, number):
            if op in ("read", "close"):
                raise BackendUnavailable("no")

    inner = MemoryBackend()
    put(inner, "x")
    view = Observe(Fails(inner), events.append)
    with view.open_reader("x") as reader, pytest.raises(BackendUnavailable):
        reader.read()
    assert isinstance(events[-1].error, BackendUnavailable)
    with pytest.raises(BackendUnavailable):
        put(view, "y")
    assert isinstance(events[-1].error, BackendUnavailable)
    assert events[-1].op == "write"


def test_a_listing_left_early_still_ends():
    events = []
    inner = MemoryBackend()
    for n in range(5):
        put(inner, f"{n}")
    listing = Observe(inner, events.append).list()
    next(listing)
    next(listing)
    listing.close()
    assert events[-1].items == 2


def test_what_the_listener_raises_harms_nobody(caplog):
    def listener(event):
        raise KeyError("mine")

    view = Observe(MemoryBackend(), listener)
    put(view, "x", b"1")
    assert ops.read_bytes(view, "x") == b"1"
    assert "KeyError" in caplog.text
    with pytest.raises(ConfigError):
        Observe(MemoryBackend(), None)


# -- Retry -------------------------------------------------------------------------------------------------------------


def policy(retries=3):
    return RequestPolicy(retries, Backoff(base=1, draw=lambda: 0.5), RetryBudget(reserve=100), clock=Ticks())


class Transient(Flaky):
    """Basic-only, and fails some calls for a while."""

    def __init__(self, inner, ops, times):
        super().__init__(inner, at=10**9)
        self.is_extended = False
        self.left = dict.fromkeys(ops, times)

    def _before(self, op, number):
        if self.left.get(op):
            self.left[op] -= 1
            raise BackendUnavailable("later")


def test_retry_takes_basic_backends_only(tmp_path):
    for backend in (MemoryBackend(), LocalBackend(tmp_path), Prefix(MemoryBackend(), "a"), ReadOnly(MemoryBackend())):
        with pytest.raises(ConfigError, match="retries inside retries"):
            Retry(backend)
    Retry(Prefix(BasicBackend(), "a"))


def test_calls_that_fail_for_a_while_are_made_again():
    inner = BasicBackend()
    inner.put_raw("x", b"12345")
    calls = ["open_reader", "open_writer", "exists", "list", "read"]
    view = Retry(Transient(inner, calls, 3), policy())
    assert view.exists("x") is True
    assert ops.read_bytes(view, "x") == b"12345"
    put(view, "y", b"new")
    assert inner.peek("y") == b"new"
    assert sorted(info.path for info in view.list()) == ["x", "y"]


def test_a_call_that_fails_too_often_or_for_good_raises():
    inner = BasicBackend()
    with pytest.raises(BackendUnavailable):
        Retry(Transient(inner, ["exists"], 4), policy(3)).exists("x")
    flaky = Transient(inner, [], 0)
    with pytest.raises(NotFound):
        Retry(flaky, policy()).open_reader("x")
    assert flaky.log == ["open_reader"], "what is permanent is not tried again"


def test_a_delete_that_was_repeated_does_not_say_there_was_nothing():
    inner = BasicBackend()
    assert Retry(inner, policy()).delete("x") is False
    assert Retry(Transient(inner, ["delete"], 1), policy()).delete("x") is None
    inner.put_raw("x", b"1")
    assert Retry(Transient(inner, ["delete"], 1), policy()).delete("x") is True


class BreaksAt(BasicBackend):
    """Its readers fail once they have given ``at`` bytes, ``times`` times over."""

    at, times = 3, 1

    def open_reader(self, path, options=READ):
        reader = super().open_reader(path, options)
        given, plain = [0], reader.read

        def read(size=-1):
            if self.times and given[0] >= self.at:
                self.times -= 1
                raise BackendUnavailable("dropped")
            data = plain(min(2, size) if size > 0 else 2)
            given[0] += len(data)
            return data

        reader.read = read
        return reader


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_read_that_fails_on_the_way_is_continued(times):
    inner = BreaksAt()
    inner.times = times
    inner.put_raw("x", b"0123456789")
    with Retry(inner, policy()).open_reader("x") as reader:
        assert reader.read(4) + reader.read(-1) == b"0123456789"


def test_a_range_that_breaks_off_is_continued_within_it():
    class Ranges(BreaksAt):
        features = Features(read=True, write=True, delete=True, list=True, range_read=True)

        def open_reader(self, path, options=READ):
            data = self.peek(path)[options.offset :][: options.length]
            part = BasicBackend()
            part.put_raw(path, data)
            reader = part.open_reader(path)
            read = reader.read

            def once(size=-1):
                if self.times:
                    self.times -= 1
                    raise BackendUnavailable("dropped")
                return read(size)

            reader.read = once
            return reader

    inner = Ranges()
    inner.put_raw("x", b"0123456789")
    with Retry(inner, policy()).open_reader("x", ReadOptions(offset=4, length=3)) as reader:
        assert reader.read(-1) == b"456"


def test_a_read_is_never_continued_in_another_object():
    inner = BreaksAt()
    inner.put_raw("x", b"0123456789")
    with Retry(inner, policy()).open_reader("x") as reader:
        assert reader.read(4) == b"01"
        assert reader.read(4) == b"23"
        inner.put_raw("x", b"abcdefghij")
        with pytest.raises(CorruptData, match="was changed while"):
            reader.read(4)


def test_a_close_whose_answer_was_lost_is_unknown_and_never_sent_again():
    inner = BasicBackend()
    flaky = Transient(inner, ["close"], 1)
    writer = Retry(flaky, policy()).open_writer("x")
    writer.write(b"1")
    with pytest.raises(OutcomeUnknown):
        writer.close()
    assert flaky.log.count("close") == 1


def test_retries_wait_as_the_policy_says_and_end_at_a_deadline():
    from omnistorage.concurrency.cancellation import deadline
    from omnistorage.errors import DeadlineExceeded

    once = policy()
    with deadline(0.5, once.clock), pytest.raises(DeadlineExceeded):
        Retry(Transient(BasicBackend(), ["exists"], 1), once).exists("x")


def test_wrappers_in_the_documented_order_work_together_from_many_threads():
    events, inner = [], MemoryBackend()
    for n in range(50):
        put(inner, f"logs/{n:02}", b"%d" % n)
    view = ReadOnly(Prefix(Observe(inner, events.append), "logs"))
    got = []

    def work():
        got.extend(ops.read_bytes(view, info.path) for info in view.list("", LIST))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted([b"%d" % n for n in range(50)] * 4)
    assert sum(event.op == "read" and event.phase == "end" for event in events) == 200
    assert all(event.path.startswith("logs") for event in events), "observed inside, paths are the store's"
    with pytest.raises(StorageError):
        put(view, "x", b"", WriteOptions())
