"""The main job on real data: stream records into compressed objects, read them back, verify every one.

Without arguments the records are the rows of the RECORD files of the installed packages (path, SHA-256, size), and
every one is checked against the file on disk. ``demo.py FILE...`` (``-``: standard input) takes files of one's own:
rows of .csv, records of .ndjson and .jsonl, lines of everything else, compressed or not; each record is read back and
compared with its source. Objects go to ``./demo-out``. The exit code is 0 only if all is well.
"""

import base64
import csv
import hashlib
import io
import itertools
import os
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from omnistorage import LocalBackend, Ndjson, RecordReader, StorageError, as_file, open_records
from omnistorage.compression import without_codec_suffix
from omnistorage.formats import record_format
from omnistorage.records import open_decoded

OUT = "demo-out"
NOTHING = object()


class BadInput(Exception):
    """What cannot be taken, said in one line."""


class Demo:
    """The objects written so far and what became of them. ``show`` gets one line of live progress."""

    def __init__(self, show):
        self.backend = LocalBackend(OUT)
        self.show = show
        self.written = {}  # path -> size
        self.records = self.raw = self.ok = self.bad = self.unhashed = 0
        self.seconds = 0.0

    def store(self, path, records):
        """Write one object: whole, or after any error not at all."""
        if path in self.written:
            raise BadInput(f"two inputs would be written to {OUT}/{path}")
        start = time.perf_counter()
        with open_records(self.backend, path, "w") as writer:
            while writer.write_many(itertools.islice(records, 4096)):
                self.show(f"writing {path}: {writer.records:,} records")
        self.seconds += time.perf_counter() - start
        self.written[path] = writer.result.size
        self.records += writer.records
        with open_decoded(self.backend.open_reader(path)) as plain:
            self.raw += sum(map(len, iter(plain.next_block, b"")))
        return writer.records

    def verify(self, path, expected, is_right):
        """Read the object back; ``is_right(record)`` is True, False, or None where there is nothing to compare."""
        with open_records(self.backend, path, "r") as reader:
            for record in reader:
                verdict = is_right(record)
                self.ok += verdict is True
                self.bad += verdict is False
                self.unhashed += verdict is None
                if verdict is False:
                    print(f"BAD: {path}: record {reader.records:,}: {record!r:.200}", file=sys.stderr)
                if (self.ok + self.unhashed) % 256 == 0:
                    self.show(f"verifying {path}: {self.ok:,} records ok")
            self.bad += abs(reader.records - expected)


def rows(package, text):
    """The rows of a RECORD file as records; the hash is urlsafe base64 without padding, None where there is none."""
    for path, digest, size in csv.reader(text.splitlines()):
        found = digest.removeprefix("sha256=") if digest.startswith("sha256=") else None
        yield {"package": package, "path": path, "sha256": found, "size": int(size) if size else None}


def is_on_disk(record, folder):
    if record["sha256"] is None:
        return None
    try:
        with open(folder / record["path"], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            size = file.tell()
    except OSError:
        return False
    same = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == record["sha256"]
    return same and record["size"] in (None, size)


def run_packages(demo):
    """One object per installed package, each record checked against the file it speaks of."""
    for package in distributions():
        name, text = package.metadata["Name"], package.read_text("RECORD")
        path = f"{name}.ndjson.zst"
        if text and path not in demo.written:
            count = demo.store(path, rows(name, text))
            folder = Path(package.locate_file(""))
            demo.verify(path, count, lambda record, folder=folder: is_on_disk(record, folder))
    if not demo.written:
        raise BadInput("no installed package has a RECORD file: name files of your own")


def source(file, kind):
    """The records of a file, one by one."""
    with open_decoded(LocalBackend(file.parent).open_reader(file.name)) as stream:
        if kind == ".csv":
            raw = io.BufferedReader(as_file(stream))
            text = io.TextIOWrapper(raw, "utf-8-sig", "backslashreplace", newline="")
            yield from csv.DictReader(text, restkey="more", strict=True)
        elif kind in Ndjson.suffixes:
            yield from RecordReader(stream, record_format("ndjson"))
        else:
            for number, line in enumerate(RecordReader(stream, record_format("lines")), 1):
                yield {"line": number, "text": line.decode("utf-8", "backslashreplace")}


def run_file(demo, file):
    """One object for one file, each record compared with its source."""
    file = Path(os.path.realpath(file))
    plain = Path(without_codec_suffix(file.name))
    kind = plain.suffix.lower()
    path = f"{plain.stem if kind in Ndjson.suffixes else plain.name}.ndjson.zst"
    if file == Path(OUT, path).resolve():
        raise BadInput("this is where its own copy would be written")
    if file.is_dir():
        raise BadInput("this is a folder: name the files in it")
    with open_decoded(LocalBackend(file.parent).open_reader(file.name)) as stream:
        if b"\0" in stream.read(1 << 16):
            raise BadInput("this is binary, or not UTF-8: a text file is needed")
    if next(source(file, kind), NOTHING) is NOTHING:
        raise BadInput("there is no record in it")
    count = demo.store(path, source(file, kind))
    again = source(file, kind)
    demo.verify(path, count, lambda record: record == next(again, NOTHING))
    demo.bad += next(again, NOTHING) is not NOTHING


def run_files(demo, names):
    """Every file in turn; returns how many could not be taken, each with one line that says why."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            file = Path(name)
            try:
                if name == "-":
                    file = Path(folder, "stdin")
                    with open(file, "wb") as copy:
                        shutil.copyfileobj(sys.stdin.buffer, copy)
                run_file(demo, file)
            except FileNotFoundError:
                failed += complain(f"{name}: no such file")
            except (BadInput, StorageError, csv.Error, OSError, ValueError) as error:
                failed += complain(f"{name}: {error}")
    return failed


def complain(text):
    print(f"demo: {text}", file=sys.stderr)
    return 1


@contextmanager
def live():
    """One line of progress on a terminal, if rich is there to draw it."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        Console = None
    if Console is None or not sys.stderr.isatty():
        yield lambda text: None
        return
    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(Text(text[:100]))


def report(demo):
    stored = sum(demo.written.values())
    seconds = max(demo.seconds, 1e-9)
    objects = "one object" if len(demo.written) == 1 else f"{len(demo.written):,} objects"
    print(f"wrote     {demo.records:,} records into {objects} under {OUT}/")
    print(f"size      {demo.raw:,} bytes of NDJSON -> {stored:,} of zstd, ratio {demo.raw / stored:.1f}")
    print(f"speed     {demo.records / seconds:,.0f} records/s, {demo.raw / seconds / 1e6:,.1f} MB/s, sources included")
    apart = f", {demo.unhashed:,} without a hash to check" if demo.unhashed else ""
    print(f"verified  {demo.ok:,} ok, {demo.bad:,} bad{apart}")
    command = Path(sys.executable).with_name("omnistorage")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    largest = f"{OUT}/{max(demo.written, key=demo.written.get)}"
    one, gz = shlex.quote(largest), shlex.quote(largest.removesuffix(".zst") + ".gz")
    print("\nTry next:")
    for verb in (f"tree {OUT} --size", f"head -n 3 {one}", f"convert {one} {gz}", f"read {one} | head -n 3"):
        print(f"  {shown} {verb}")


def main(names):
    with live() as show:
        demo = Demo(show)
        try:
            failed = run_files(demo, names) if names else run_packages(demo) or 0
        except (BadInput, StorageError, OSError) as error:
            failed = complain(str(error))
    if demo.written:
        report(demo)
    return 1 if failed or demo.bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
