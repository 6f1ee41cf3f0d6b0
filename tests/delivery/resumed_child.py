"""What ``test_checkpoint`` kills: numbers into one object, with a token on the disk after each checkpoint."""

import os
import sys
from pathlib import Path

from omnistorage import AlreadyExists, LocalBackend, ResumableWriter
from omnistorage.errors import NotFound

folder, total = Path(sys.argv[1]), int(sys.argv[2])
note, store = folder / "token", LocalBackend(folder)


def said(text):
    os.write(1, text + b"\n")


def main():
    try:
        if note.exists():
            writer = ResumableWriter.resume(store, note.read_bytes(), part_size=400)
        else:
            writer = ResumableWriter(store, "out.ndjson.gz", part_size=400)
    except (AlreadyExists, NotFound):
        assert (folder / "out.ndjson.gz").exists()
        return
    while writer.records < total:
        writer.write({"n": writer.records})
        if writer.records % 97 == 0:
            new = folder / "token.new"
            new.write_text(__import__("json").dumps(writer.checkpoint()))
            said(b"made")
            new.replace(note)
            said(b"kept")
    said(b"closing")
    writer.close()
    said(b"closed")


main()
