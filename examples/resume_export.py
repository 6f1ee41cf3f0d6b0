"""An export that is killed and goes on where its last checkpoint was, on another machine if need be."""

import json
import tempfile
from pathlib import Path

from omnistorage import LocalBackend, ResumableWriter, open_records


def export(backend: LocalBackend, note: Path, *, dies_at: int | None = None) -> None:
    if note.exists():
        writer = ResumableWriter.resume(backend, note.read_text())
        print(f"goes on behind record {writer.records}")
    else:
        writer = ResumableWriter(backend, "export.ndjson.gz")
    with writer:
        for n in range(writer.records, 10_000):
            if n == dies_at:
                raise RuntimeError("the machine is gone")
            writer.write({"n": n, "square": n * n})
            if writer.records % 1_000 == 0:
                new = note.with_suffix(".new")
                new.write_text(json.dumps(writer.checkpoint()))
                new.replace(note)  # only a token that is safe allows the next checkpoint


def main(folder: str) -> None:
    backend, note = LocalBackend(folder + "/store"), Path(folder, "token.json")
    for dies_at in (3_456, 7_890):
        try:
            export(backend, note, dies_at=dies_at)
        except RuntimeError as error:
            print(f"at record {dies_at} {error}; there is an object: {backend.exists('export.ndjson.gz')}")
    export(backend, note)
    with open_records(backend, "export.ndjson.gz", "r") as reader:
        rows = list(reader)
    print(f"{len(rows)} records, in {[info.path for info in backend.list()]}")
    assert rows == [{"n": n, "square": n * n} for n in range(10_000)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
