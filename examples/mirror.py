"""Mirror a folder into another store: look at the plan, carry it out, run it again, check it, make a page of it."""

import tempfile
from pathlib import Path

from omnistorage import MemoryBackend
from omnistorage.sync import Filter, check, plan, sync


def main(folder: str) -> None:
    source = Path(folder) / "data"
    (source / "logs").mkdir(parents=True)
    (source / "logs" / "a.ndjson").write_text('{"n": 1}\n' * 1000)
    (source / "notes.tmp").write_text("not this one")

    mirror = MemoryBackend(dirs=False)  # or "s3://bucket/mirror", "sftp://host/mirror", "sqlite:////data/mirror.db#x"
    chosen = Filter.parse(["- *.tmp"])
    for action in plan(source, mirror, delete=True, filter=chosen):  # the dry run is the plan
        print(action.kind, action.path, action.why)
    print("first run:", sync(source, mirror, delete=True, filter=chosen))
    print("second run:", sync(source, mirror, delete=True, filter=chosen))

    (source / "logs" / "a.ndjson").write_text('{"n": 2}\n' * 999)
    (source / "logs" / "b.ndjson").write_text('{"n": 3}\n')
    found = check(source, mirror, filter=chosen, report=Path(folder) / "differences.html")
    print("check:", found)
    assert not found.in_sync
    report = sync(
        source, mirror, delete=True, filter=chosen, listeners=[lambda event: print(" ", event.kind, event.path)]
    )
    assert report.transferred == 2
    assert check(source, mirror, filter=chosen).in_sync


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
