"""What a sync does as it does it: one stream of events, for a log, a progress bar, anything that can be called."""

import logging
import sys
import tempfile
from pathlib import Path

from omnistorage import MemoryBackend
from omnistorage.sync import Event, sync

log = logging.getLogger("mirror")


class Logged:
    """Events as lines of ``logging``."""

    def __call__(self, event: Event) -> None:
        if event.kind in ("error", "retried"):
            log.warning("%s %s: %s", event.kind, event.path, event.error)
        elif event.kind in ("done", "deleted"):
            log.info("%s %s (%s bytes)", event.kind, event.path, event.size)


class Bar:
    """Events for whatever counts in steps with ``update(n)``, as a bar of tqdm does:
    ``Bar(tqdm(unit="B", unit_scale=True))``."""

    def __init__(self, bar: object) -> None:
        self.bar = bar

    def __call__(self, event: Event) -> None:
        if event.kind == "bytes":
            self.bar.update(event.size)


class Counter:
    """In place of a real bar."""

    total = 0

    def update(self, n: int) -> None:
        self.total += n


def main(folder: str) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, stream=sys.stdout)
    source, mirror, bar = Path(folder) / "data", MemoryBackend(), Counter()
    source.mkdir()
    for number in range(3):
        (source / f"{number}.txt").write_text("x" * 1000)
    (Path(folder) / "data" / "empty.txt").touch()
    report = sync(source, mirror, listeners=[Logged(), Bar(bar)])
    assert report.bytes == bar.total == 3000
    (source / "0.txt").unlink()
    sync(source, mirror, delete=True, listeners=[Logged()])
    print(f"{bar.total} bytes went by")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
