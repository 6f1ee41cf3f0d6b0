"""What the kill tests start: a process that has everything imported and forks a writer for each line it reads, so that
a kill costs milliseconds. Each line is the JSON of the arguments of ``writer``; the answer is the child's pid.
"""

import json
import os
import random
import signal
import sys

from omnistorage import LocalBackend
from omnistorage.delivery import RollingRecordWriter, Spool


def record(number, run):
    """The record that a run writes as its ``number``; of different length each."""
    return {"k": number * number % 3, "n": number, "run": run, "pad": "x" * (number * 7919 % 60)}


def target(where):
    if isinstance(where, str):
        return LocalBackend(where)
    from omnistorage.backends.s3 import S3Backend
    from omnistorage.wrappers import Prefix

    settings = dict(where)
    prefix = settings.pop("prefix")
    return Prefix(S3Backend(**settings), prefix)


def writer(store, spool, pipe, run, names, fsync, roll, limit, last, seed):
    """Write up to ``limit`` and say what is acknowledged; then wait for the kill. The ``last`` run closes instead."""
    rng = random.Random(seed)
    out = os.open(pipe, os.O_WRONLY)

    def say(word, number):
        os.write(out, b"%s %d\n" % (word, number))

    shape = {"names": names, "source": "s"} if names == "deterministic" else {}
    template = "{k}/{source}-{start:09d}.ndjson.zst" if shape else "{k}/{id}.ndjson"
    with RollingRecordWriter(
        target(store),
        template,
        roll_records=roll,
        spool=Spool(spool, fsync=fsync, fsync_interval=0.005, segment_bytes=20_000),
        **shape,
    ) as sink:
        number = sink.durable + 1
        say(b"open", number)
        while number < limit:
            if rng.random() < 0.5:
                many = min(limit - number, rng.randrange(1, 200))
                assert sink.write_many(record(n, run) for n in range(number, number + many)) == many
                number += many
            else:
                assert sink.write(record(number, run)) == number
                number += 1
            if fsync == "record":
                say(b"ack", number - 1)
            elif rng.random() < 0.1:
                say(b"ack", sink.flush())
        say(b"ack", sink.flush())
        if not last:
            signal.pause()
    say(b"done", sink.progress.spooled)


def main():
    if "s3" in sys.argv:
        import omnistorage.backends.s3  # noqa: F401
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                sys.stdin.close()
                writer(**json.loads(line))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
