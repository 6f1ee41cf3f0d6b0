"""Conformance: writing. Close publishes, abort discards, and nothing in between is seen."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from omnistorage.core import Backend, StaleUploads, WriteOptions, power
from omnistorage.errors import (
    AlreadyExists,
    ConfigError,
    CorruptData,
    InvalidPath,
    PreconditionFailed,
    StorageError,
    WriterClosed,
)

from ._kit import Kit, flags, get, is_live, keys, ours, payload, put, refused

BAD_NEW_NAMES = (
    "", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/./b", "../a", "a/../b", "a/..", "a\0b", "\0",
    "a\nb", "a\rb", "a\tb", "a\x7fb", "\x1b[31m", "a\u0085b", "a\u2028b", "\ud800", "a/\udcff", "x" * 1025, "é" * 513,
)  # fmt: skip
GOOD_ODD_NAMES = (
    "with space", " lead", "trail ", "é/ü", "日本/語", "😀", "e\u0301", "..a", "a..b", ".hidden", "a.", "%2e%2e", "a%b",
    "a+b", "a#b", "a?b=c&d", "a'b", 'a"b', "a\\b", "a:b", "a*b", "-rf", "~", "$HOME", "a;b", "n" * 200, "CON", "a,b",
)  # fmt: skip


class WriteTests(Kit):
    def test_what_is_written_is_really_there(self, backend: Backend) -> None:
        data = payload(50_000)
        put(backend, "folder/x", data)
        assert self.peek(backend, "folder/x") == data

    def test_nothing_is_visible_before_close(self, backend: Backend) -> None:
        if not flags(backend).atomic_write:
            return
        writer = backend.open_writer("folder/x")
        for step in (lambda: writer.write(payload(200_000)), writer.flush, writer.prepare):
            step()
            assert self.peek(backend, "folder/x") is None
            assert not backend.exists("folder/x")
            assert keys(backend) == []
        writer.close()
        assert keys(backend) == ["folder/x"]

    def test_an_overwrite_shows_the_old_object_until_close(self, backend: Backend) -> None:
        if not flags(backend).atomic_write:
            return
        put(backend, "x", b"old")
        with backend.open_writer("x") as writer:
            writer.write(b"new content")
            writer.prepare()
            assert self.peek(backend, "x") == b"old"
            assert get(backend, "x") == b"old"
        assert self.peek(backend, "x") == b"new content"

    def test_close_returns_the_info_and_again_the_same(self, backend: Backend) -> None:
        writer = backend.open_writer("folder/x")
        writer.write(b"12345")
        assert writer.result is None
        info = writer.close()
        assert (info.path, info.size, info.kind) == ("folder/x", 5, "file")
        assert writer.close() == info == writer.result

    def test_close_stat_and_list_say_the_same(self, backend: Backend) -> None:
        closed = put(backend, "x", b"12345")
        listed = next(iter(backend.list()))
        assert (closed.path, closed.size) == (listed.path, listed.size)
        assert closed.etag in (None, listed.etag)
        assert closed.modified_at in (None, listed.modified_at)

    def test_modified_at_is_aware_utc_and_now(self, backend: Backend) -> None:
        put(backend, "x")
        at = next(iter(backend.list())).modified_at
        if at is not None:
            assert at.utcoffset() == timedelta(0)
            assert abs(at - datetime.now(UTC)) < timedelta(hours=1)

    def test_abort_discards_a_new_object(self, backend: Backend) -> None:
        writer = backend.open_writer("folder/x")
        writer.write(payload(100_000))
        writer.flush()
        writer.abort()
        writer.abort()
        assert self.peek(backend, "folder/x") is None
        assert keys(backend) == []
        with ours(WriterClosed):
            writer.close()

    def test_abort_keeps_the_old_object(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        writer = backend.open_writer("x")
        writer.write(b"new")
        writer.prepare()
        writer.abort()
        self.is_kept(backend, "x", b"old")

    def test_an_exception_inside_with_discards(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        for name in ("x", "new"):
            with pytest.raises(KeyError, match="the caller's own"), backend.open_writer(name) as writer:
                writer.write(b"partial")
                raise KeyError("the caller's own")
        self.is_kept(backend, "x", b"old")
        assert self.peek(backend, "new") is None

    def test_a_clean_with_publishes(self, backend: Backend) -> None:
        with backend.open_writer("x") as writer:
            writer.write(b"data")
        assert writer.result is not None
        assert self.peek(backend, "x") == b"data"

    def test_abort_after_close_changes_nothing(self, backend: Backend) -> None:
        writer = backend.open_writer("x")
        writer.write(b"data")
        writer.close()
        writer.abort()
        assert self.peek(backend, "x") == b"data"

    def test_an_overwrite_replaces_the_whole(self, backend: Backend) -> None:
        put(backend, "x", b"a long old content")
        put(backend, "x", b"new")
        assert self.peek(backend, "x") == b"new"
        assert get(backend, "x") == b"new"

    def test_write_takes_every_bytes_like_and_returns_its_length(self, backend: Backend) -> None:
        buffer = bytearray(b"cd")
        with backend.open_writer("x") as writer:
            assert writer.write(b"ab") == 2
            assert writer.write(buffer) == 2
            buffer[:] = b"??"  # taken means copied: what the caller does to the buffer later is nobody's business
            assert writer.write(memoryview(b"efgh")[1:3]) == 2
            assert writer.write(b"") == 0
        assert self.peek(backend, "x") == b"abcdfg"

    @pytest.mark.parametrize("wrong", ["text", None, 5, [b"x"]])
    def test_write_refuses_what_is_not_bytes_and_keeps_the_old(self, backend: Backend, wrong: Any) -> None:
        put(backend, "x", b"old")
        with pytest.raises((TypeError, ValueError)), backend.open_writer("x") as writer:
            writer.write(wrong)
        self.is_kept(backend, "x", b"old")

    def test_a_writer_that_was_given_no_bytes_publishes_nothing(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        writer = backend.open_writer("x")
        writer.write(b"some")
        with pytest.raises((TypeError, ValueError)):
            writer.write(5)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError, StorageError)):
            writer.close()
        self.is_kept(backend, "x", b"old")

    def test_many_writes_of_all_sizes_arrive_in_order(self, backend: Backend) -> None:
        data = payload(3 << 20)
        at = 0
        with backend.open_writer("x") as writer:
            for size in (1, 7, 1000, 65_536, 1 << 20, 3 << 20):
                writer.write(data[at : at + size])
                at += size
        assert hashlib.sha256(get(backend, "x")).digest() == hashlib.sha256(data[:at]).digest()

    def test_a_writer_refuses_work_after_its_end(self, backend: Backend) -> None:
        for end in ("close", "abort"):
            writer = backend.open_writer("x")
            getattr(writer, end)()
            for call in (lambda w=writer: w.write(b"x"), writer.flush, writer.prepare):
                with ours(WriterClosed):
                    call()

    def test_a_prepared_writer_takes_no_more(self, backend: Backend) -> None:
        writer = backend.open_writer("x")
        writer.write(b"1")
        writer.prepare()
        writer.prepare()
        with ours(WriterClosed):
            writer.write(b"2")
        with ours(WriterClosed):
            writer.close()
        assert self.peek(backend, "x") is None

    def test_overwrite_false_refuses_an_existing_object(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        only_new = WriteOptions(overwrite=False)
        if not flags(backend).create_only:
            with refused():
                put(backend, "y", b"new", only_new)
            return
        with ours(AlreadyExists, path="x") as caught:
            put(backend, "x", b"new", only_new)
        assert isinstance(caught.value, FileExistsError)
        assert self.peek(backend, "x") == b"old"
        put(backend, "y", b"new", only_new)
        assert self.peek(backend, "y") == b"new"

    def test_overwrite_false_sees_what_came_while_it_wrote(self, backend: Backend) -> None:
        if flags(backend).create_only and not is_live(backend):
            writer = backend.open_writer("x", WriteOptions(overwrite=False))
            writer.write(b"late")
            self.plant(backend, "x", b"first")
            with ours(AlreadyExists):
                writer.close()
            assert self.peek(backend, "x") == b"first"

    def test_overwrite_false_has_exactly_one_winner(self, backend: Backend) -> None:
        if not flags(backend).create_only:
            return
        for attempt in range(5):
            path, count = f"race/{attempt}", 8
            start = threading.Barrier(count)
            won: list[int] = []

            def run(number: int, path: str = path, start: Any = start, won: list[int] = won) -> None:
                start.wait()
                try:
                    put(backend, path, b"%d" % number, WriteOptions(overwrite=False))
                    won.append(number)
                except AlreadyExists:
                    pass

            threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1, f"{len(won)} winners"
            assert self.peek(backend, path) == b"%d" % won[0]

    def test_if_match_on_a_write_is_honoured_or_refused(self, backend: Backend) -> None:
        put(backend, "x", b"one")
        if not flags(backend).if_match:
            with refused():
                put(backend, "x", b"two", WriteOptions(if_match="?"))
            assert self.peek(backend, "x") == b"one"
            return
        etag = next(iter(backend.list())).etag
        with ours(PreconditionFailed):
            put(backend, "x", b"two", WriteOptions(if_match="something else"))
        with ours(PreconditionFailed):
            put(backend, "missing", b"two", WriteOptions(if_match=etag))
        assert (self.peek(backend, "x"), self.peek(backend, "missing")) == (b"one", None)
        put(backend, "x", b"two", WriteOptions(if_match=etag))
        assert self.peek(backend, "x") == b"two"

    def test_if_match_sees_what_changed_while_it_wrote(self, backend: Backend) -> None:
        if flags(backend).if_match:
            put(backend, "x", b"one")
            etag = next(iter(backend.list())).etag
            writer = backend.open_writer("x", WriteOptions(if_match=etag))
            writer.write(b"mine")
            put(backend, "x", b"theirs")
            with ours(PreconditionFailed):
                writer.close()
            assert self.peek(backend, "x") == b"theirs"

    def test_a_wrong_size_aborts(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        for wrong in (b"123", b"12345"):
            with ours(CorruptData):
                put(backend, "x", wrong, WriteOptions(size=4))
        self.is_kept(backend, "x", b"old")
        put(backend, "x", b"1234", WriteOptions(size=4))
        assert self.peek(backend, "x") == b"1234"

    def test_expected_digests_are_verified_before_publication(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        digest = hashlib.sha256(b"right").hexdigest()
        with ours(CorruptData):
            put(backend, "x", b"wrong", WriteOptions(expect={"sha256": digest}))
        self.is_kept(backend, "x", b"old")
        put(backend, "x", b"right", WriteOptions(expect={"sha256": digest, "md5": hashlib.md5(b"right").hexdigest()}))
        assert self.peek(backend, "x") == b"right"
        with ours(ConfigError):
            put(backend, "x", b"x", WriteOptions(expect={"no-such-digest": "00"}))

    def test_an_unknown_extra_is_refused_not_ignored(self, backend: Backend) -> None:
        with refused():
            put(backend, "x", b"x", WriteOptions(extra={"nobody.knows": 1}))
        assert self.peek(backend, "x") is None

    def test_hints_are_never_a_reason_to_refuse(self, backend: Backend) -> None:
        put(backend, "x", b"12345", WriteOptions(content_type="text/plain", size=5))
        assert self.peek(backend, "x") == b"12345"

    def test_durable_is_honoured_or_refused(self, backend: Backend) -> None:
        if getattr(backend, "durable", False):
            put(backend, "folder/x", b"kept", WriteOptions(durable=True))
            assert self.peek(backend, "folder/x") == b"kept"
        else:
            with refused():
                put(backend, "x", b"x", WriteOptions(durable=True))

    def test_modified_at_is_honoured_or_refused(self, backend: Backend) -> None:
        when = datetime(2020, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
        if not flags(backend).set_modified:
            with refused():
                put(backend, "x", b"x", WriteOptions(modified_at=when))
            return
        put(backend, "x", b"x", WriteOptions(modified_at=when))
        found = next(iter(backend.list())).modified_at
        assert found is not None
        assert abs(found - when) <= (flags(backend).modified_precision or timedelta(0))

    def test_user_metadata_is_kept_or_refused(self, backend: Backend) -> None:
        metadata = {"source": "unit test", "n_1": "5"}
        if not flags(backend).user_metadata:
            with refused():
                put(backend, "x", b"x", WriteOptions(user_metadata=metadata))
            return
        put(backend, "x", b"x", WriteOptions(user_metadata=metadata))
        with backend.open_reader("x") as reader:
            assert reader.info.metadata == metadata

    def test_a_dropped_writer_aborts_and_warns(self, backend: Backend) -> None:
        put(backend, "x", b"old")
        writer = backend.open_writer("x")
        writer.write(b"new")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # what others dropped before us
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del writer
            gc.collect()
        assert any(issubclass(w.category, ResourceWarning) for w in seen)
        self.is_kept(backend, "x", b"old")

    def test_abort_from_another_thread_stops_the_writer(self, backend: Backend) -> None:
        writer = backend.open_writer("x")
        writer.write(b"partial")
        aborter = threading.Thread(target=writer.abort)
        aborter.start()
        aborter.join()
        with ours(WriterClosed):
            writer.write(b"more")
        with ours(WriterClosed):
            writer.close()
        assert self.peek(backend, "x") is None

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_a_forked_child_cannot_use_or_drop_the_writer(self, backend: Backend) -> None:
        writer = backend.open_writer("x")
        writer.write(b"parent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads; the child does little
            child = os.fork()
        if child == 0:
            verdict = 1
            try:
                writer.write(b"child")
            except StorageError:
                verdict = 0
            finally:
                del writer
                gc.collect()
                os._exit(verdict)
        assert os.waitpid(child, 0)[1] == 0, "the child could write"
        writer.close()
        assert self.peek(backend, "x") == b"parent"

    def test_an_abort_leaves_no_stale_upload(self, backend: Backend) -> None:
        writer = backend.open_writer("folder/x")
        writer.write(payload(100_000))
        writer.abort()
        stale = power(backend, StaleUploads)
        if stale is not None:
            assert list(stale.stale_uploads(older_than=timedelta(0))) == []

    @pytest.mark.parametrize("name", BAD_NEW_NAMES)
    def test_a_bad_new_name_is_refused(self, backend: Backend, name: str) -> None:
        with ours(InvalidPath):
            put(backend, name, b"x")
        assert keys(backend) == []

    @pytest.mark.parametrize("name", GOOD_ODD_NAMES)
    def test_an_odd_name_round_trips(self, backend: Backend, name: str) -> None:
        path = f"folder/{name}/{name}"
        try:
            put(backend, path, name.encode())
        except InvalidPath:
            return  # this store cannot hold it and says so; the next lines are for those that can
        assert keys(backend) == keys(backend, "folder") == [path]
        assert get(backend, path) == name.encode()
        assert backend.delete(path) in (True, None)

    def test_a_path_that_is_not_text_is_refused(self, backend: Backend) -> None:
        for wrong in (b"bytes", None, 5):
            with pytest.raises((InvalidPath, TypeError)):
                backend.open_writer(wrong)  # type: ignore[arg-type]

    def test_the_last_of_two_writers_wins_whole(self, backend: Backend) -> None:
        one, two = backend.open_writer("x"), backend.open_writer("x")
        for _ in range(3):
            one.write(b"1" * 1000)
            two.write(b"2" * 1000)
        one.close()
        two.close()
        if not is_live(backend):  # there the two join
            assert self.peek(backend, "x") == b"2" * 3000

    def test_threads_write_side_by_side(self, backend: Backend) -> None:
        failures: list[BaseException] = []

        def run(number: int) -> None:
            try:
                for at in range(5):
                    put(backend, f"t{number}/{at}", payload(2000, f"{number}/{at}"))
                    assert get(backend, f"t{number}/{at}") == payload(2000, f"{number}/{at}")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not failures, failures[0]
        assert len(keys(backend)) == 20
