"""The program's own log goes into compressed objects, off the threads that log."""

import logging
import tempfile
import threading

from omnistorage import LocalBackend, open_records
from omnistorage.delivery import OmniHandler


def main(folder: str) -> None:
    backend = LocalBackend(folder)
    # The settings are those of RollingRecordWriter. Without close(), the end of the program publishes what is left.
    handler = OmniHandler(
        backend,
        "logs/{logger}/{time:%Y-%m-%d}/{seq:04d}.ndjson.zst",
        roll_records=500,
        roll_age=300,
        queue_size=5000,
        when_full="block",  # or "drop": dropped records are counted, and told in the log itself
    )
    log = logging.getLogger("shop")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)

    def serve(worker: int) -> None:
        for n in range(300):
            log.info("request %d served", n, extra={"worker": worker, "ms": n % 40})

    threads = [threading.Thread(target=serve, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("the till is broken", extra={"till": {3}})

    handler.flush()
    print(f"flushed: {handler.progress.handed} records are with the writer, {handler.writer.progress.objects} objects")
    handler.close()
    log.removeHandler(handler)
    done = handler.progress
    print(f"closed: {done.taken} taken, {done.dropped} dropped, {done.lost} lost, {done.repaired} written as its repr")

    rows = []
    for found in backend.list("logs"):
        with open_records(backend, found.path, "r") as reader:
            rows += reader
    print("objects:", sorted({found.path.split("/")[1] for found in backend.list("logs")}), len(rows), "records")
    (broken,) = [row for row in rows if row["level"] == "ERROR"]
    print(broken["message"], "|", broken["exception"].splitlines()[-1], "| till", broken["till"])
    assert len(rows) == 1201
    assert handler.error is None


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
