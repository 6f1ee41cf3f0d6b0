"""Goal 12's child: a store that is away for ten minutes of a clock that stands still between the steps.

Prints the MiB of peak memory beyond its imports, the records that were spooled at the end of the outage, how often the
store was tried again, and whether all were delivered in order.
"""

import logging
import pathlib
import re
import sys
import threading

from omnistorage import LocalBackend, open_records
from omnistorage.delivery import RollingRecordWriter, Spool

from ..waiting import until
from .conftest import Down, ManualTimer

SECONDS = 600


def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def opened(store, folder, timer, roll):
    return RollingRecordWriter(
        store,
        "{start:09d}.ndjson.zst",
        names="deterministic",
        roll_records=roll,
        timer=timer,
        spool=Spool(folder),
    )


def main(folder, count):
    logging.disable()
    with opened(LocalBackend(f"{folder}/warm"), f"{folder}/first", ManualTimer(), 10) as writer:
        writer.write({"n": 0})
    store, timer = Down(LocalBackend(f"{folder}/store"), down=True), ManualTimer()
    before = peak()
    writer = opened(store, f"{folder}/spool", timer, max(1000, count // 50))
    each, tried = count // SECONDS + 1, 0
    for second in range(SECONDS):
        for n in range(each * second, min(each * (second + 1), count)):
            writer.write({"n": n, "pad": "x" * 200})
        timer.advance(1)
        if second % 40 == 39:  # twice the longest pause: it was tried again, or will be once its thread had a turn
            until(lambda before=tried: writer.progress.retried > before or timer.advance(1))
            tried = writer.progress.retried
    assert writer.flush() == count - 1
    until(lambda: writer.progress.last_error is not None)
    spooled, retried = writer.progress.spooled, writer.progress.retried
    store.down = False
    rolling = threading.Thread(target=writer.roll)
    rolling.start()
    pause = threading.Event()
    while rolling.is_alive():
        timer.advance(1)
        pause.wait(0.001)
    final = writer.close()
    took = (peak() - before) / 1024
    assert (final.spooled, final.dropped, final.records) == (0, 0, count)
    expected = 0
    for info in store.list():
        with open_records(store, info.path, "r") as reader:
            for record in reader:
                assert record["n"] == expected
                expected += 1
    print(f"{took:.1f} {spooled} {retried} {expected}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
