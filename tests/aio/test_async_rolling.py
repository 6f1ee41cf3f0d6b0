"""The rolling writer from tasks: order, ends, cancellation, and a loop that is never held up."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import warnings

import pytest

import omnistorage
from omnistorage import (
    AsyncRollingRecordWriter,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    MemoryBackend,
    RecordError,
    Spool,
    WriterClosed,
)
from omnistorage.concurrency.cancellation import deadline
from omnistorage.core import WRITE
from omnistorage.wrappers.base import Wrapper

from ..delivery.conftest import Down, contents, numbers
from ..waiting import LIMIT, until


class Hangs(Wrapper):
    """A store whose ``where`` waits until it is let go; ``inside`` tells that it does."""

    def __init__(self, where="close", *, heeds=False):
        super().__init__(MemoryBackend())
        self.heeds, self.where, self.inside, self.freed = heeds, where, threading.Event(), threading.Event()

    def open_writer(self, path, options=WRITE):
        writer = self.inner.open_writer(path, options)
        real, abort = getattr(writer, self.where), writer.abort
        if self.heeds:
            writer.abort = lambda: (self.freed.set(), abort())

        def hang(*data):
            self.inside.set()
            self.freed.wait(LIMIT)
            return real(*data)

        setattr(writer, self.where, hang)
        return writer


@pytest.fixture
def hangs():
    made = []

    def make(*args, **settings):
        made.append(Hangs(*args, **settings))
        return made[-1]

    yield make
    for store in made:
        store.freed.set()


def ours():
    return [one for one in threading.enumerate() if one.name.startswith("omnistorage-aio")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    until(lambda: not ours())


async def reached(event):
    """Let the loop run until another thread is there."""
    end = time.monotonic() + LIMIT
    while not event.is_set():
        assert time.monotonic() < end, "it does not come to pass"
        await asyncio.sleep(0)


async def rows(count):
    for n in range(count):
        await asyncio.sleep(0)
        yield {"n": n}


# -- records -----------------------------------------------------------------------------------------------------------


def test_what_tasks_write_is_published_in_the_order_of_their_calls():
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq:03d}.ndjson", roll_records=10) as writer:
            assert ours() == []
            assert await writer.write({"n": 0}) == 0
            got = await asyncio.gather(*(writer.write({"n": n}) for n in range(1, 50)))
            assert got == list(range(1, 50))
            assert await writer.write({"n": 99}, sequence=99) == 99
            assert len(ours()) == 1
            assert await writer.roll() == writer.durable == 99
            assert await writer.flush() == 99
        return await writer.close()

    store = MemoryBackend()
    final = asyncio.run(main())
    assert numbers(store) == [*range(50), 99]
    assert (final.records, final.objects) == (51, 6)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_many_records_come_from_any_iterable(count):
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq:03d}.ndjson") as writer:
            assert await writer.write_many({"n": n} for n in range(count)) == count
            assert await writer.write_many(rows(count)) == count

    store = MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == [*range(count), *range(count)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_an_iterable_gave_before_it_raised_is_kept(kind):
    async def breaks():
        async for row in rows(300):
            yield row
        raise KeyError("the source broke")

    def breaks_too():
        yield from ({"n": n} for n in range(300))
        raise KeyError("the source broke")

    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
            with pytest.raises(KeyError, match="broke"):
                await writer.write_many(breaks() if kind == "async" else breaks_too())
            await writer.write({"n": 300})

    store = MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == list(range(301))


def test_a_bad_record_is_told_and_the_writer_stays_usable():
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
            with pytest.raises(RecordError):
                await writer.write({"n": object()})
            with pytest.raises(RecordError):
                await writer.write_many([{"n": 0}, {"n": object()}, {"n": 2}])
            await writer.write({"n": 3})

    store = MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == [0, 3]


def test_what_the_store_refuses_is_raised_by_the_close():
    async def main():
        with pytest.raises(BackendUnavailable):
            async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
                await writer.write({"n": 0})
                store.down = True
        with pytest.raises(BackendUnavailable):
            await writer.close()
        assert writer.durable == -1

    store = Down(MemoryBackend())
    asyncio.run(main())


def test_the_loop_goes_on_while_the_store_hangs(hangs):
    async def main():
        writer = AsyncRollingRecordWriter(store, "{seq}.ndjson")
        await writer.write({"n": 0})
        rolling = asyncio.create_task(writer.roll())
        await reached(store.inside)
        assert (writer.durable, writer.progress.closing) == (-1, 1)
        assert not rolling.done()
        store.freed.set()
        assert await rolling == 0
        await writer.close()

    store = hangs()
    asyncio.run(main())


def test_a_deadline_around_a_call_holds_on_the_thread(tmp_path):
    async def main():
        spool = Spool(tmp_path, max_bytes=4096, fsync="record", close_timeout=0.01)
        writer = AsyncRollingRecordWriter(Down(MemoryBackend(), down=True), "{seq}.ndjson", spool=spool)
        with deadline(0.05), pytest.raises(DeadlineExceeded):
            while True:
                await asyncio.wait_for(writer.write({"pad": "x" * 500}), 10)
        await writer.close()

    asyncio.run(main())


def test_settings_are_checked_at_once():
    with pytest.raises(ConfigError):
        AsyncRollingRecordWriter(MemoryBackend(), "{seq}.ndjson", roll_records=0)
    with pytest.raises(TypeError):
        AsyncRollingRecordWriter(MemoryBackend(), "{seq}.ndjson", roll_record=1)
    assert "AsyncRollingRecordWriter" in omnistorage.__all__


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "expected"), [("abort", []), ("commit_whole_records", [0])])
def test_an_exception_in_the_block_means_what_it_means_without_async(policy, expected):
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson", on_exception=policy) as writer:
            await writer.write({"n": 0})
            raise KeyError

    store = MemoryBackend()
    with pytest.raises(KeyError):
        asyncio.run(main())
    assert numbers(store) == expected


def test_after_the_end_calls_are_refused_and_ends_are_the_same():
    async def main(end):
        writer = AsyncRollingRecordWriter(store, "{id}.ndjson")
        await writer.write({"n": 0})
        await end(writer)
        until(lambda: not ours() or end is abort)  # they are told of the end, and not waited for
        for call in (lambda: writer.write({"n": 1}), writer.flush, writer.roll, lambda: writer.write_many([1])):
            with pytest.raises(WriterClosed):
                await call()
        if end is not abort:
            assert await writer.close() == await writer.drain(1) == writer.progress
        else:
            for call in (writer.close, lambda: writer.drain(1)):
                with pytest.raises(WriterClosed, match="aborted"):
                    await call()
        await writer.abort()

    async def abort(writer):
        await writer.abort()

    store = MemoryBackend()
    for end in (lambda writer: writer.close(), lambda writer: writer.drain(60), abort):
        asyncio.run(main(end))
    assert numbers(store) == [0, 0]


def test_an_end_comes_behind_the_calls_that_were_made_before():
    async def main():
        for end in ("close", "drain"):
            writer = AsyncRollingRecordWriter(store, "{id}.ndjson")
            writing = [asyncio.create_task(writer.write({"n": n})) for n in range(100)]
            await asyncio.sleep(0)
            await (writer.close() if end == "close" else writer.drain(60))
            assert [task.result() for task in writing] == list(range(100))

    store = MemoryBackend()
    asyncio.run(main())
    assert len(numbers(store)) == 200


def test_a_drain_ends_in_time_though_the_store_hangs(hangs):
    async def main():
        writer = AsyncRollingRecordWriter(store, "{seq}.ndjson")
        await writer.write({"n": 0})
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="1 records"):
            await writer.drain(0.1)
        assert time.monotonic() - before < LIMIT
        with pytest.raises(DeadlineExceeded):
            await writer.close()
        assert writer.durable == -1

    store = hangs()
    asyncio.run(main())


def test_a_drain_ends_in_time_though_the_thread_is_stuck_and_lets_everybody_go(hangs):
    async def main():
        writer = AsyncRollingRecordWriter(store, "{seq}.ndjson")
        await writer.write({"n": 0})
        waiting = [asyncio.create_task(writer.flush())]
        await reached(store.inside)
        waiting += [asyncio.create_task(writer.write({"n": n})) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="1 records"):
            await writer.drain(0.1)
        for task in waiting:
            with pytest.raises(DeadlineExceeded):
                await task
        with pytest.raises(WriterClosed):
            await writer.write({"n": 1})

    store = hangs("flush")
    asyncio.run(main())
    assert list(store.inner.list()) == []


@pytest.mark.parametrize("within", [0, -1, None, "soon"])
def test_a_deadline_is_a_number_of_seconds(within):
    async def main():
        async with AsyncRollingRecordWriter(MemoryBackend(), "{seq}.ndjson") as writer:
            with pytest.raises(ConfigError, match="within"):
                await writer.drain(within)
            await writer.write({"n": 0})

    asyncio.run(main())


def test_an_abort_comes_before_the_calls_that_wait():
    async def main():
        writer = AsyncRollingRecordWriter(store, "{time:%Y}-{seq}.ndjson", time_field=wait)
        writing = [asyncio.create_task(writer.write({"n": n})) for n in range(3)]
        await reached(inside)
        aborting = asyncio.create_task(writer.abort())
        await asyncio.sleep(0)
        freed.set()
        await aborting
        results = await asyncio.gather(*writing, return_exceptions=True)
        assert isinstance(results[2], WriterClosed)

    def wait(record):
        inside.set()
        freed.wait(LIMIT)
        return 0

    inside, freed, store = threading.Event(), threading.Event(), MemoryBackend()
    asyncio.run(main())
    assert list(store.list()) == []


def test_an_exception_on_the_way_does_not_wait_for_what_waits(hangs):
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
            await writer.write({"n": 0})
            flushing.append(asyncio.create_task(writer.flush()))
            await reached(store.inside)
            raise KeyError

    store, flushing = hangs("flush", heeds=True), []
    before = time.monotonic()
    with pytest.raises(KeyError):
        asyncio.run(main())
    assert time.monotonic() - before < LIMIT
    assert list(store.inner.list()) == []


def test_a_writer_that_is_dropped_warns_publishes_nothing_and_leaves_no_thread():
    async def main():
        writer = AsyncRollingRecordWriter(store, "{seq}.ndjson")
        await writer.write({"n": 0})

    store = MemoryBackend()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
        until(lambda: not ours())
    assert any("dropped without close" in str(one.message) for one in seen)
    assert list(store.list()) == []


def test_a_forked_child_is_refused():
    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
            await writer.write({"n": 0})
            child = os.fork()
            if not child:
                code = 1
                try:
                    await writer.write({"n": 1})
                except WriterClosed:
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    store = MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == [0]


def test_several_loops_may_use_one_writer():
    store = MemoryBackend()
    writer = AsyncRollingRecordWriter(store, "{seq}.ndjson")
    for n in range(3):
        asyncio.run(writer.write({"n": n}))
    asyncio.run(writer.close())
    assert numbers(store) == [0, 1, 2]


# -- cancellation ------------------------------------------------------------------------------------------------------


class Gate:
    """A ``time_field`` at which the record with ``n == at`` waits."""

    def __init__(self, at=0):
        self.at, self.inside, self.freed = at, threading.Event(), threading.Event()

    def __call__(self, record):
        if record["n"] == self.at:
            self.inside.set()
            self.freed.wait(LIMIT)
        return 0


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_write_is_taken_whole_or_not_at_all_and_the_writer_goes_on():
    async def main():
        async with AsyncRollingRecordWriter(store, "{time:%Y}-{seq}.ndjson", time_field=gate) as writer:
            begun = asyncio.create_task(writer.write({"n": 0}))
            await reached(gate.inside)
            waits = asyncio.create_task(writer.write({"n": 1}))
            await asyncio.sleep(0)
            await cancelled(waits)
            await cancelled(begun)
            gate.freed.set()
            assert await writer.write({"n": 2}) == 1
            assert writer.progress.taken == 2

    gate, store = Gate(), MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == [0, 2]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_cancelled_write_many_has_taken_all_that_was_given(kind):
    async def main():
        async with AsyncRollingRecordWriter(store, "{time:%Y}-{seq}.ndjson", time_field=gate) as writer:
            first = asyncio.create_task(writer.write({"n": -1}))
            await reached(gate.inside)
            task = asyncio.create_task(writer.write_many(given() if kind == "sync" else given_async()))
            while len(gave) < 256:
                await asyncio.sleep(0)
            await cancelled(task)
            gate.freed.set()
            await first

    def given():
        for n in range(1000):
            gave.append(n)
            yield {"n": n}

    async def given_async():
        for row in given():
            yield row
            await asyncio.sleep(0)

    gate, gave, store = Gate(at=-1), [], MemoryBackend()
    asyncio.run(main())
    assert len(gave) == 256
    assert numbers(store) == [-1, *gave]


def test_records_in_hand_when_the_source_is_cancelled_are_taken():
    async def endless():
        for n in range(10):
            yield {"n": n}
        waits.set()
        await asyncio.Event().wait()

    async def main():
        async with AsyncRollingRecordWriter(store, "{seq}.ndjson") as writer:
            task = asyncio.create_task(writer.write_many(endless()))
            await reached(waits)
            await cancelled(task)

    waits, store = threading.Event(), MemoryBackend()
    asyncio.run(main())
    assert numbers(store) == list(range(10))


def test_what_goes_wrong_in_a_call_that_nobody_waits_for_is_logged(caplog):
    async def main():
        async with AsyncRollingRecordWriter(store, "{time:%Y}-{k}-{seq}.ndjson", time_field=gate) as writer:
            begun = asyncio.create_task(writer.write({"n": 0}))
            await reached(gate.inside)
            await cancelled(begun)
            gate.freed.set()
            await writer.write({"n": 1, "k": 1})

    gate, store = Gate(), MemoryBackend()
    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "nobody waits for: RecordError" in caplog.text
    assert numbers(store) == [1]


@pytest.mark.parametrize("end", ["close", "drain"])
def test_a_cancelled_end_goes_on_and_can_be_waited_for_again(end):
    async def main():
        writer = AsyncRollingRecordWriter(store, "{time:%Y}-{seq}.ndjson", time_field=gate)
        first = asyncio.create_task(writer.write({"n": 0}))
        await reached(gate.inside)
        ending = asyncio.create_task(writer.close() if end == "close" else writer.drain(60))
        await asyncio.sleep(0)
        await cancelled(ending)
        again = asyncio.create_task(writer.close())
        await asyncio.sleep(0)
        gate.freed.set()
        assert (await first, (await again).records) == (0, 1)

    gate, store = Gate(), MemoryBackend()
    asyncio.run(main())
    assert contents(store) == {"1970-0.ndjson": [{"n": 0}]}


def test_a_thread_that_could_not_be_had_is_asked_for_again(monkeypatch):
    store = MemoryBackend()

    async def main():
        writer = AsyncRollingRecordWriter(store, "{id}.ndjson")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no thread")))
            with pytest.raises(RuntimeError, match="no thread"):
                await writer.write({"n": 1})
        assert await writer.write({"n": 2}) == 0
        return await writer.close()

    assert asyncio.run(main()).records == 1
