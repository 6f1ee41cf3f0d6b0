"""The channel backend: what its docstring promises, and the defects of a comparable one (row go-F8)."""

from __future__ import annotations

import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnistorage import (
    AlreadyExists,
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    NotFound,
    ReaderClosed,
    StorageError,
    WriterClosed,
    open_backend,
    open_records,
)
from omnistorage.backends import channel as channel_module
from omnistorage.backends.channel import ChannelBackend
from omnistorage.concurrency.cancellation import CancelScope, deadline
from omnistorage.core import ReadOptions, WriteOptions
from omnistorage.errors import DeadlineExceeded
from omnistorage.testing import BackendTests

from ..budget import pick
from ..waiting import LIMIT


def run(*calls):
    """Run the calls side by side; their results, or what they raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [future.exception(LIMIT) or future.result(LIMIT) for future in futures]


def drain(reader, size=-1):
    with reader:
        return reader.read(-1) if size < 0 else b"".join(iter(lambda: reader.read(size), b""))


def send(channel, path, blocks):
    with channel.open_writer(path) as writer:
        for block in blocks:
            writer.write(block)


BLOCKS = [b"%06d" % n * 50 for n in range(2000)]


# -- queue -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 1, 7, 1 << 20])
def test_a_stream_arrives_whole_and_in_order_while_it_is_written(size):
    channel = ChannelBackend(buffer=1000, wait=60)
    blocks = BLOCKS[: 50 if size == 1 else None]
    sent, got = run(lambda: send(channel, "x", blocks), lambda: drain(channel.open_reader("x"), size))
    assert (sent, got) == (None, b"".join(blocks))


def test_readers_see_bytes_before_the_writer_closes():
    channel = ChannelBackend()
    with channel.open_writer("x") as writer:
        writer.write(b"live")
        with channel.open_reader("x") as reader:
            assert reader.read(10) == b"live"


def test_go_f8_competing_readers_get_every_write_whole_and_once():
    channel = ChannelBackend(buffer=5000)
    writer = channel.open_writer("x")
    readers = [channel.open_reader("x") for _ in range(4)]
    got = [[] for _ in readers]

    def work(reader, into):
        with reader:
            while block := reader.read(1 << 20):
                into.append(block)

    def produce():
        with writer:
            for block in BLOCKS:
                writer.write(block)

    assert run(produce, *[lambda r=r, g=g: work(r, g) for r, g in zip(readers, got, strict=True)]) == [None] * 5
    assert sorted(block for part in got for block in part) == BLOCKS, "none lost, none doubled, none torn"


def test_what_a_competing_reader_leaves_of_a_write_goes_back():
    channel = ChannelBackend()
    send(channel, "x", [b"abcdef", b"gh"])
    with channel.open_reader("x") as reader:
        assert reader.read(2) == b"ab"
    assert drain(channel.open_reader("x")) == b"cdefgh"


def test_an_ended_queue_goes_with_its_last_byte():
    channel = ChannelBackend()
    send(channel, "x", [b"a"])
    assert channel.exists("x")
    assert [info.path for info in channel.list()] == ["x"]
    assert channel.stat("x").size == 1
    with channel.open_reader("x") as reader:
        assert reader.read(-1) == b"a"
        assert reader.read(1) == b""
    assert not channel.exists("x")
    assert list(channel.list()) == []
    for call in (channel.stat, channel.open_reader):
        with pytest.raises(NotFound):
            call("x")


# -- broadcast ---------------------------------------------------------------------------------------------------------


def test_go_f8_every_reader_of_a_broadcast_sees_every_byte_once():
    channel = ChannelBackend(mode="broadcast", buffer=2000)
    writer = channel.open_writer("x")
    readers = [channel.open_reader("x") for _ in range(3)]

    def produce():
        with writer:
            for block in BLOCKS:
                writer.write(block)

    sent, *got = run(produce, *[lambda r=r, s=s: drain(r, s) for r, s in zip(readers, (-1, 13, 4096), strict=True)])
    assert sent is None
    assert got == [b"".join(BLOCKS)] * 3


@pytest.mark.parametrize(("replay", "shown", "skipped"), [(1 << 20, b"aabbcc", 0), (4, b"bbcc", 2), (3, b"cc", 4)])
def test_go_f8_a_late_reader_gets_the_history_once_and_then_what_is_live(replay, shown, skipped):
    channel = ChannelBackend(mode="broadcast", replay=replay)
    with channel.open_writer("x") as writer:
        for block in (b"aa", b"bb", b"cc"):
            writer.write(block)
        reader = channel.open_reader("x")
        assert reader.skipped == skipped, "what came too late for is counted, not silent"
        writer.write(b"dd")
    assert drain(reader) == shown + b"dd"
    assert drain(channel.open_reader("x")) == {1 << 20: b"aabbccdd", 4: b"ccdd", 3: b"dd"}[replay]


def test_a_broadcast_with_replay_stays_until_it_is_deleted():
    channel = ChannelBackend(mode="broadcast", replay=100)
    send(channel, "x", [b"abc"])
    for _ in range(3):
        assert drain(channel.open_reader("x")) == b"abc"
    assert channel.delete("x") is True
    assert not channel.exists("x")
    assert channel.delete("x") is False


def test_what_one_reader_does_to_its_bytes_or_the_writer_to_its_buffer_harms_no_other():
    channel = ChannelBackend(mode="broadcast")
    writer = channel.open_writer("x")
    one, two = channel.open_reader("x"), channel.open_reader("x")
    buffer = bytearray(b"abc")
    writer.write(buffer)
    buffer[:] = b"xyz"
    writer.close()
    assert drain(one) == drain(two) == b"abc"


def test_a_reader_that_was_dropped_no_longer_holds_the_writer_up():
    channel = ChannelBackend(mode="broadcast", buffer=10, timeout=0.01)
    writer = channel.open_writer("x")
    dropped, kept = channel.open_reader("x"), channel.open_reader("x")
    writer.write(b"0123456789")
    assert kept.read(10) == b"0123456789"
    del dropped
    gc.collect()
    writer.write(b"more")
    writer.close()
    assert drain(kept) == b"more"


@pytest.mark.parametrize(("replay", "shown"), [(0, b""), (2, b"cc"), (3, b"cc"), (100, b"aabbcc")])
def test_a_late_reader_is_shown_no_more_than_replay_although_a_slow_one_holds_more(replay, shown):
    channel = ChannelBackend(mode="broadcast", replay=replay)
    with channel.open_writer("x") as writer:
        slow = channel.open_reader("x")
        for block in (b"aa", b"bb", b"cc"):
            writer.write(block)
        late = channel.open_reader("x")
        assert late.skipped == 6 - len(shown)
        writer.write(b"dd")
    assert drain(slow) == b"aabbccdd"
    assert drain(late) == shown + b"dd"


def test_a_reader_that_leaves_no_longer_holds_the_writer_up():
    channel = ChannelBackend(mode="broadcast", buffer=10)
    writer = channel.open_writer("x")
    slow, quick = channel.open_reader("x"), channel.open_reader("x")

    def produce():
        with writer:
            for _ in range(100):
                writer.write(b"0123456789")

    def leave():
        assert slow.read(10) == b"0123456789"
        slow.close()

    assert run(produce, leave, lambda: len(drain(quick))) == [None, None, 1000]


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["queue", "broadcast"])
def test_a_writer_waits_while_the_buffer_is_full_and_says_so_after_the_timeout(mode):
    channel = ChannelBackend(mode=mode, buffer=10, timeout=0.01)
    writer = channel.open_writer("x")
    reader = channel.open_reader("x")
    writer.write(b"0123456789")
    with pytest.raises(BackendUnavailable, match="nobody read"):
        writer.write(b"x")
    with pytest.raises(BackendUnavailable):
        writer.close()
    with pytest.raises(CorruptData):
        reader.read(100)


def test_go_f8_a_writer_with_replay_never_waits_for_a_reader_that_may_not_come():
    channel = ChannelBackend(mode="broadcast", buffer=10, replay=20, timeout=0.01)
    with channel.open_writer("x") as writer:
        for n in range(100):
            writer.write(b"%02d" % n)
        assert channel.stat("x").size <= 20
    assert drain(channel.open_reader("x")) == b"".join(b"%02d" % n for n in range(90, 100))


def test_a_write_larger_than_the_buffer_goes_through_in_pieces():
    channel = ChannelBackend(buffer=1000, wait=60)
    big = bytes(range(256)) * 100
    most = []

    def read():
        with channel.open_reader("x") as reader:
            out = b""
            while block := reader.read(100):
                most.append(channel.stat("x").size if channel.exists("x") else 0)
                out += block
            return out

    assert run(lambda: send(channel, "x", [big]), read) == [None, big]
    assert max(most) <= 1000


def test_go_f8_a_missing_path_does_not_block_for_ever():
    channel = ChannelBackend(wait=0.01)
    with pytest.raises(NotFound):
        channel.open_reader("nobody")
    with pytest.raises(NotFound):
        ChannelBackend().open_reader("nobody")


def test_a_reader_that_waits_for_a_writer_gets_it():
    channel = ChannelBackend(wait=60)
    opened = threading.Event()

    def read():
        opened.set()
        return drain(channel.open_reader("x"))

    def write():
        opened.wait(LIMIT)
        send(channel, "x", [b"abc"])

    assert run(read, write)[0] == b"abc"


def test_a_read_ends_at_its_timeout_deadline_or_cancellation():
    channel = ChannelBackend(timeout=0.01)
    with channel.open_writer("x"), channel.open_reader("x") as reader:  # noqa: SIM117
        with pytest.raises(BackendUnavailable, match="nobody wrote"):
            reader.read(1)
    channel = ChannelBackend()
    writer = channel.open_writer("x")
    with channel.open_reader("x") as reader:
        with deadline(0.01), pytest.raises(DeadlineExceeded):
            reader.read(1)
        inside, scopes = threading.Event(), []

        def read():
            with CancelScope() as scope:
                scopes.append(scope)
                inside.set()
                reader.read(1)

        assert isinstance(run(read, lambda: inside.wait(LIMIT) and scopes[0].cancel())[0], Cancelled)
    writer.abort()


@pytest.mark.parametrize("how", ["close", "abort", "delete", "backend closed"])
def test_blocked_calls_end_when_another_thread_says_so(how):
    channel = ChannelBackend(buffer=10)
    writer = channel.open_writer("x")
    writer.write(b"0123456789")
    blocked = channel.open_writer("x") if how == "abort" else writer
    empty = channel.open_writer("y")
    reader = channel.open_reader("y")

    def end():
        {
            "close": reader.close,
            "abort": blocked.abort,
            "delete": lambda: (channel.delete("x"), channel.delete("y")),
            "backend closed": channel.close,
        }[how]()

    calls = {"close": [lambda: reader.read(1)], "abort": [lambda: blocked.write(b"x")]}.get(
        how, [lambda: reader.read(1), lambda: writer.write(b"x")]
    )
    *answers, _ = run(*calls, end)
    kinds = {"close": [ReaderClosed], "abort": [WriterClosed]}.get(how, [CorruptData, WriterClosed])
    assert [type(answer) for answer in answers] == kinds
    for one in (writer, blocked, empty):
        one.abort()


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["queue", "broadcast"])
@pytest.mark.parametrize("how", ["abort", "exception", "dropped"])
def test_a_writer_that_gives_up_is_an_error_in_every_reader_never_a_clean_end(mode, how):
    channel = ChannelBackend(mode=mode)
    writer = channel.open_writer("x")
    readers = [channel.open_reader("x") for _ in range(2)]
    writer.write(b"abc")
    if how == "abort":
        writer.abort()
    elif how == "exception":
        with pytest.raises(KeyError), writer:
            raise KeyError
    else:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del writer
            gc.collect()
        assert [w.category for w in seen] == [ResourceWarning]
    for reader in readers:
        for _ in range(2):
            with pytest.raises(CorruptData, match="broke off"):
                reader.read(-1)
        reader.close()
    assert not channel.exists("x")


def test_go_f8_a_channel_ends_with_its_last_writer_not_with_the_first():
    channel = ChannelBackend(timeout=0.01)
    one, two = channel.open_writer("x"), channel.open_writer("x")
    one.write(b"1")
    one.close()
    two.write(b"2")
    reader = channel.open_reader("x")
    assert reader.read(1) + reader.read(1) == b"12"
    with pytest.raises(BackendUnavailable, match="nobody wrote"):
        reader.read(1)
    two.write(b"3")
    two.close()
    assert reader.read(10) == b"3"
    assert reader.read(10) == b""
    reader.close()


def test_an_abort_of_one_writer_stops_the_others():
    channel = ChannelBackend()
    one, two = channel.open_writer("x"), channel.open_writer("x")
    one.abort()
    with pytest.raises(WriterClosed, match="broken"):
        two.write(b"x")
    with pytest.raises(WriterClosed):
        two.close()


def test_go_f8_writes_race_with_close_and_delete_without_anything_but_our_errors():
    for _ in range(50):
        channel = ChannelBackend(buffer=100, timeout=60)
        writers = [channel.open_writer("x") for _ in range(3)]
        reader = channel.open_reader("x")

        def work(writer):
            with writer:
                for _ in range(20):
                    writer.write(b"0123456789")

        ends = [lambda r=reader: drain(r), lambda c=channel: c.delete("x")]
        answers = run(*[lambda w=w: work(w) for w in writers], *ends)
        assert all(answer is None or isinstance(answer, StorageError | bytes | bool) for answer in answers), answers


def test_a_new_writer_after_the_end_makes_a_new_channel():
    channel = ChannelBackend()
    send(channel, "x", [b"old"])
    reader = channel.open_reader("x")
    send(channel, "x", [b"new"])
    assert drain(channel.open_reader("x")) == b"new"
    assert drain(reader) == b"old"


def test_a_writer_never_joins_a_channel_that_ends_at_that_very_moment(monkeypatch):
    channel = ChannelBackend()
    first = channel.open_writer("x")
    first.write(b"1")
    made = channel_module._ChannelWriter.__init__

    def late(self, *args):
        if first.result is None:
            first.close()
        made(self, *args)

    monkeypatch.setattr(channel_module._ChannelWriter, "__init__", late)
    second = channel.open_writer("x")
    reader = channel.open_reader("x")
    second.write(b"2")
    second.close()
    assert drain(reader) == b"12"


def test_overwrite_false_joins_nobody():
    channel = ChannelBackend()
    only = WriteOptions(overwrite=False)
    with channel.open_writer("x", only) as writer:
        with pytest.raises(AlreadyExists):
            channel.open_writer("x", only)
        writer.write(b"1")
    assert drain(channel.open_reader("x")) == b"1"
    winners = run(*[lambda: channel.open_writer("y", only)] * 8)
    assert sum(not isinstance(one, Exception) for one in winners) == 1
    next(one for one in winners if not isinstance(one, Exception)).close()


# -- what it is --------------------------------------------------------------------------------------------------------


def test_it_opens_by_name_and_refuses_what_cannot_be():
    assert isinstance(open_backend("channel", {"mode": "broadcast", "replay": 10}), ChannelBackend)
    for options in (
        {"mode": "both"}, {"buffer": 0}, {"buffer": 1.5}, {"replay": 10}, {"mode": "broadcast", "replay": -1},
        {"timeout": -1}, {"wait": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            ChannelBackend(**options)
    channel = ChannelBackend()
    send(channel, "x", [b"abc"])
    for options in (ReadOptions(offset=1), ReadOptions(length=1), ReadOptions(version="1")):
        with pytest.raises(CapabilityNotSupported):
            channel.open_reader("x", options)
    for options in (WriteOptions(durable=True), WriteOptions(if_match="1"), WriteOptions(user_metadata={"k": "v"})):
        with pytest.raises(CapabilityNotSupported):
            channel.open_writer("x", options)
    for call in (lambda: channel.copy("x", "y"), lambda: channel.move("x", "y"), lambda: channel.mkdir("d")):
        with pytest.raises(CapabilityNotSupported):
            call()


def test_listings_are_in_order_and_by_folder():
    channel = ChannelBackend()
    for path in ("b", "a/x", "a-b", "a/c/d"):
        send(channel, path, [b"1"])
    assert [info.path for info in channel.list()] == ["a-b", "a/c/d", "a/x", "b"]
    assert [info.path for info in channel.list("a")] == ["a/c/d", "a/x"]
    assert [(info.path, info.kind) for info in channel.list_dir("a")] == [("a/c", "dir"), ("a/x", "file")]


def test_records_flow_through_formats_and_codecs():
    channel = ChannelBackend(buffer=1 << 16, wait=60)

    def produce():
        with open_records(channel, "x.ndjson.zst", "w") as writer:
            writer.write_many({"n": n} for n in range(100_000))

    def consume():
        with open_records(channel, "x.ndjson.zst", "r") as reader:
            return sum(record["n"] for record in reader)

    assert run(produce, consume) == [None, sum(range(100_000))]


class TestChannel(BackendTests):
    """As a broadcast that keeps its history it can be asked what every backend is asked."""

    def make(self):
        return ChannelBackend(mode="broadcast", buffer=1 << 30, replay=1 << 30)


@settings(max_examples=pick(default=50, ci=400, soak=5000), deadline=None)
@given(
    mode=st.sampled_from(["queue", "broadcast"]),
    buffer=st.integers(1, 200),
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    late=st.booleans(),
)
def test_whatever_the_threads_do_every_byte_arrives_as_promised(mode, buffer, counts, sizes, late):
    """Writers with some messages each, readers with some read size each; each message is its writer's number over and
    over, so that what arrives can be told apart."""
    channel = ChannelBackend(mode=mode, buffer=buffer, timeout=60)
    writers = [channel.open_writer("x") for _ in counts]
    readers = [] if late and mode == "queue" else [channel.open_reader("x") for _ in sizes]
    got = [b""] * len(sizes)

    def write(at):
        with writers[at] as writer:
            for _ in range(counts[at]):
                writer.write(bytes([65 + at]) * 7)

    def read(at):
        try:
            reader = readers[at] if readers else channel.open_reader("x")
        except NotFound:
            return  # another reader had come to the end before this one came
        got[at] = drain(reader, sizes[at])

    answers = run(
        *[lambda n=n: write(n) for n in range(len(counts))], *[lambda n=n: read(n) for n in range(len(sizes))]
    )
    assert answers == [None] * len(answers)
    expected = b"".join(bytes([65 + at]) * 7 * count for at, count in enumerate(counts))
    if mode == "queue":
        assert sorted(b"".join(got)) == sorted(expected), "each byte to one reader"
    else:
        assert len(set(got)) == 1, "all readers see the same"
        assert sorted(got[0]) == sorted(expected)
