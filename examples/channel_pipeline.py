"""Threads joined by a channel: one producer, two workers that share its records, and what an abort looks like.

``ChannelBackend`` is a backend like any other, only that its objects are streams: bounded, live, gone when read. What
works on files, here ``open_records``, works between threads.
"""

from concurrent.futures import ThreadPoolExecutor

from omnistorage import open_records
from omnistorage.backends.channel import ChannelBackend
from omnistorage.errors import CorruptData

TASKS = "tasks.ndjson"


def produce(tasks, count):
    """Blocks while the workers are behind by the channel's buffer. Leaving the block ends the stream."""
    with tasks:
        for n in range(count):
            tasks.write({"n": n})
            if n % 100 == 99:
                tasks.flush()  # whole records, in one piece, to whichever worker asks first
    return tasks.records


def work(tasks):
    """Takes what the other worker does not, until the end."""
    with tasks:
        return [task["n"] ** 2 for task in tasks]


def main() -> None:
    # A queue: the readers of a path compete. (``mode="broadcast"``: each has everything.)
    channel = ChannelBackend(mode="queue", buffer=64 * 1024, timeout=60)
    writer = open_records(channel, TASKS, "w")
    readers = [open_records(channel, TASKS, "r", compression="none") for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        workers = [threads.submit(work, reader) for reader in readers]
        produced = threads.submit(produce, writer, 20_000).result()
        one, two = (worker.result() for worker in workers)
    print(f"produced {produced} tasks; the workers did {len(one)} + {len(two)}, each task once")
    print("both saw the end, and the channel is gone:", not channel.exists(TASKS))
    assert sorted(one + two) == [n**2 for n in range(20_000)]

    # A producer that fails breaks the stream: its reader has what came before, then an error, never a clean end.
    got = []
    try:
        with open_records(channel, TASKS, "w") as tasks:
            tasks.write_many({"n": n} for n in range(3))
            tasks.flush()
            reader = open_records(channel, TASKS, "r", compression="none")
            got += [reader.read(), reader.read()]
            raise RuntimeError("the source broke")
    except RuntimeError as error:
        print("the producer:", error)
    try:
        with reader:
            got += reader
    except CorruptData as error:
        print(f"its reader had {[task['n'] for task in got]}, then: {error.args[0]}")
        broken = True
    assert (got, broken) == ([{"n": 0}, {"n": 1}, {"n": 2}], True)
    channel.close()


if __name__ == "__main__":
    main()
