"""What a log call costs the thread that makes it when ``OmniHandler`` ships it, with its own thread at work beside."""

import logging
import shutil
import tempfile
import time
from pathlib import Path

from common import Bench, SameWork, version

from omnistorage import LocalBackend
from omnistorage.delivery import OmniHandler


def logger_with(handler):
    logger = logging.getLogger("benchmark")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [handler]
    return logger


def calls(bench: Bench):
    """Microseconds of the caller for each call, as fast as it can call: waiting for the other thread is counted."""
    count, same = bench.events // 10, SameWork()
    samples = []
    for _ in range(max(5, bench.rounds)):
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        handler = OmniHandler(LocalBackend(folder), "{seq}.ndjson.zst")
        logger = logger_with(handler)
        start = time.perf_counter()
        for number in range(count):
            logger.info("request %d of user %s took %.1f ms", number, "somebody", 12.5)
        samples.append((time.perf_counter() - start) / count * 1e6)
        handler.close()
        logger.handlers = []
        assert handler.error is None
        same.check((handler.writer.progress.records, handler.progress.dropped))
        shutil.rmtree(folder)
    bench.add(
        "log_handler", "OmniHandler: a log call on the caller's thread, NDJSON.zst on the local disk",
        peer="microseconds", bar=15, better="lower", unit="us", samples=samples, engine=version("zstandard"),
    )  # fmt: skip


GROUPS = {"log_handler": calls}
