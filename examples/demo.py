"""The main job on real data: roll records into compressed objects, by partition, then read back and verify every one.

Without arguments the records are the rows of the RECORD files (CSV) of the installed packages: path, SHA-256, size.
They go to ``demo-out/{package}/{seq:04d}.ndjson.zst``, and each is checked against the file on disk.
``demo.py FILE...`` (``-``: standard input) takes files of one's own: rows of .csv and .tsv, records of .ndjson and
.jsonl, lines of all else, compressed or not; each is compared with its source. ``--to URL`` before them writes there
instead (s3://bucket/prefix, ...). The exit code is 0 only if all is well.
"""

import base64
import hashlib
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

from omnistorage import Csv, LocalBackend, RollingRecordWriter, StorageError, open_backend, open_records
from omnistorage.compression import without_codec_suffix
from omnistorage.delivery import read_manifest
from omnistorage.errors import CorruptData
from omnistorage.formats import format_for_path
from omnistorage.records import open_decoded

OUT, MANIFEST = "demo-out", "_manifest.ndjson"
RECORD_FILE = Csv(
    header=("path", "sha256", "size"),
    header_row=False,
    # The hash is "sha256=" and urlsafe base64 without padding; some files have none.
    types={"size": "int", "sha256": lambda text: text.removeprefix("sha256=") if text.startswith("sha256=") else None},
)


class Package:
    """The rows of one RECORD file. What is read back is held against the files that they speak of."""

    def __init__(self, folder):
        self.name, self.folder = folder.name.partition("-")[0], folder

    def records(self, on_error="raise"):
        with open_records(LocalBackend(self.folder), "RECORD", "r", format=RECORD_FILE, on_error=on_error) as rows:
            yield from ({"package": self.name, **row} for row in rows)

    def judge(self):
        return self.is_on_disk

    def is_on_disk(self, record):
        """True, False, or None where there is no hash to compare."""
        if record["sha256"] is None:
            return None
        try:
            data = Path(self.folder.parent, record["path"]).read_bytes()
        except OSError:
            return False
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return digest == record["sha256"] and record["size"] in (None, len(data))


class UserFile:
    """The records of a file. What is read back is held against them."""

    def __init__(self, file, name):
        self.name, self.count, file = name, 0, Path(os.path.realpath(file))
        if file.is_dir():
            raise ValueError("this is a folder: name the files in it")
        if file.is_relative_to(os.path.realpath(OUT)):
            raise ValueError(f"{OUT} is made anew by each run: copy the file elsewhere first")
        self.backend, self.path = LocalBackend(file.parent), file.name
        with open_decoded(self.backend.open_reader(self.path)) as stream:
            if b"\0" in stream.read(1 << 16):
                raise ValueError("this is binary, or not UTF-8: a text file is needed")
        self.format = None if format_for_path(without_codec_suffix(self.path)) else "lines"

    def records(self, on_error="skip"):
        with open_records(self.backend, self.path, "r", format=self.format, on_error=on_error) as found:
            for number, record in enumerate(found, 1):
                text = record.decode("utf-8", "backslashreplace") if isinstance(record, bytes) else record
                yield {"file": self.name, "number": number, "record": text}

    def judge(self):
        again = self.records()
        return lambda record: record == next(again, None)


def counted(number, what):
    return f"{number:,} {what}{'s' * (number != 1)}"


def complain(text):
    print(f"demo: {text}", file=sys.stderr)
    return 1


def batches(records):
    return iter(lambda: list(itertools.islice(records, 4096)), [])


def find_packages():
    folders = sorted({Path(package.locate_file("")) for package in distributions()})
    found = [Package(file.parent) for folder in folders for file in sorted(folder.glob("*.dist-info/RECORD"))]
    for package in found:
        package.count = sum(map(len, batches(package.records())))
    return found


def find_files(names, folder, show):
    """The files that can be read, each with a name of its own, and how often there was something to complain about."""
    found, complaints = {}, 0
    for name in names:
        bad, file = [], Path(folder, "stdin") if name == "-" else Path(name)
        try:
            if name == "-":
                with open(file, "wb") as copy:
                    shutil.copyfileobj(sys.stdin.buffer, copy)
            plain = os.fsencode(file.name).decode(errors="backslashreplace")
            label = next(each for n in itertools.count(1) if (each := plain + f"-{n}" * (n > 1)) not in found)
            source = UserFile(file, label)
            for batch in batches(source.records(lambda error, bad=bad: bad.append(None if bad else error))):
                source.count += len(batch)
                show(len(batch))
            if bad:
                text = (
                    f"{counted(len(bad), 'bad record')} left out, the first is number {bad[0].number}: {bad[0].args[0]}"
                )
                complaints += complain(f"{name}: {text}")
            elif not source.count:
                raise ValueError("there is no record in it")
            if source.count:
                found[label] = source
        except FileNotFoundError:
            complaints += complain(f"{name}: no such file")
        except (StorageError, OSError, ValueError) as error:
            complaints += complain(f"{name}: {error.args[0] if isinstance(error, StorageError) else error}")
    return list(found.values()), complaints


def write(backend, sources, template, roll_records, show):
    """All records through one writer: an object is published when it is full, or when four newer ones are open."""
    with RollingRecordWriter(backend, template, roll_records=roll_records, max_open=4, manifest=MANIFEST) as writer:
        for source in sources:
            for batch in batches(source.records()):
                show(writer.write_many(batch))
    return writer.progress


def read_back(backend, sources, show):
    """Every object in the manifest by its digest and record by record: how many are right, wrong, and unknown."""
    verdicts = {True: 0, False: 0, None: 0}
    judges = (judge for source in sources for judge in itertools.repeat(source.judge(), source.count))
    for entry in sorted(read_manifest(backend, MANIFEST), key=lambda entry: entry.first):
        digest = hashlib.sha256()
        with backend.open_reader(entry.path) as reader:
            while block := reader.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != entry.sha256:
            raise CorruptData("the SHA-256 is not the one in the manifest", path=entry.path)
        with open_records(backend, entry.path, "r") as reader:
            for record in reader:
                verdict = next(judges, lambda record: False)(record)
                verdicts[verdict] += 1
                if verdict is False:
                    complain(f"BAD: {entry.path}: record {reader.records:,}: {record!r:.200}")
        show(entry.records)
    verdicts[False] += sum(1 for _ in judges)  # what is missing
    return verdicts


@contextmanager
def live(title, total):
    """A progress bar on a terminal, if rich is there to draw it."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        Console = None
    if Console is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


def draw(backend, path="", indent=""):
    """The lines of a tree."""
    children = list(backend.list_dir(path))
    for child in children:
        last = child is children[-1]
        yield f"{indent}{'└── ' if last else '├── '}{child.name}" + ("/" if child.is_dir else f"  {child.size:,} bytes")
        if child.is_dir:
            yield from draw(backend, child.path, indent + ("    " if last else "│   "))


def emptied(backend):
    """``backend`` without what an earlier run wrote to it, and nothing else taken away."""
    if backend.exists(MANIFEST):
        for entry in list(read_manifest(backend, MANIFEST)):
            backend.delete(entry.path)
        backend.delete(MANIFEST)
    return backend


def show_written(backend, done, seconds, out):
    ratio, rate = done.raw_bytes / done.bytes, done.raw_bytes / seconds / 1e6
    print(f"wrote     {counted(done.records, 'record')} into {counted(done.objects, 'object')}")
    print(f"size      {done.raw_bytes:,} bytes of NDJSON -> {done.bytes:,} of zstd, ratio {ratio:.1f}")
    print(f"speed     {done.records / seconds:,.0f} records/s, {rate:,.1f} MB/s, reading included")
    lines = list(draw(backend))
    more = [f"... and {counted(len(lines) - 10, 'more line')}: 'tree' below shows all"] if len(lines) > 10 else []
    print(f"\n{out}/", *lines[:10], *more, sep="\n")
    entries = list(itertools.islice(read_manifest(backend, MANIFEST), 3))
    print(f"\n{out}/{MANIFEST}, {len(entries)} of {counted(done.objects, 'line')}, in short:")
    for entry in entries:
        print(
            f"  {entry.path}  {counted(entry.records, 'record')}, {entry.bytes:,} bytes, SHA-256 {entry.sha256[:8]}..."
        )


def show_next(backend):
    shown = shlex.quote(os.path.relpath(Path(sys.executable).with_name("omnistorage")))
    one = shlex.quote(f"{OUT}/{max(read_manifest(backend, MANIFEST), key=lambda entry: entry.bytes).path}")
    print("\nTry next:")
    for rest in (
        f"tree {OUT} --size",
        f"head -n 3 {one}",
        f"read {OUT} --manifest {OUT}/{MANIFEST} -n 3",
        f"convert {one} {OUT}/copy.ndjson.gz",
        f"write '{{seq:03d}}.ndjson.gz' --from {one} --to {OUT}/rolled --roll-records 100",
    ):
        print(f"  {shown} {rest}")


def run(names, folder, target):
    with live("reading", None) as show:
        sources, complaints = find_files(names, folder, show) if names else (find_packages(), 0)
    if not sources:
        return complaints or complain("no installed package has a RECORD file: name files of your own")
    if not target and Path(OUT, MANIFEST).exists():
        shutil.rmtree(OUT)  # what an earlier run wrote
    backend, out = (emptied(open_backend(target)), "") if target else (LocalBackend(OUT), OUT)
    out, total = out or backend.url.rstrip("/"), sum(source.count for source in sources)
    template, roll_records = "{package}/{seq:04d}.ndjson.zst", 250
    if names:
        template, roll_records = "{file}/{seq:04d}.ndjson.zst", 10_000
    what = ", ".join(source.name for source in sources) if names else "the RECORD files of the installed packages"
    print(f"Streaming {what:.60} to\n  {out}/{template}, a new object after {roll_records:,} records.\n")
    start = time.perf_counter()
    with live("writing", total) as show:
        done = write(backend, sources, template, roll_records, show)
    show_written(backend, done, time.perf_counter() - start, out)
    with live("verifying", total) as show:
        verdicts = read_back(backend, sources, show)
    print(f"\nread      {counted(done.objects, 'object')} back, with the SHA-256 that the manifest says")
    compared, ok, bad = sum(verdicts.values()), verdicts[True], verdicts[False]
    apart = f", {verdicts[None]:,} no hash" if verdicts[None] else ""
    against = "the source" if names else "the files on disk"
    print(f"compared  {counted(compared, 'record')} with {against}: {ok:,} ok, {bad:,} bad{apart}")
    if not target:
        show_next(backend)
    backend.close()
    return 1 if complaints or verdicts[False] else 0


def main(names):
    target = ""
    if names[:1] == ["--to"]:
        if len(names) < 2 or "://" not in names[1]:
            return complain("--to takes a URL: --to s3://bucket/prefix, or --to file:///folder") + 1
        target, names = names[1], names[2:]
    try:
        with tempfile.TemporaryDirectory() as folder:
            code = min(run(names, folder, target), 1)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # of whoever reads our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (StorageError, OSError) as error:
        return complain(str(error))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # the lines of the tree, where there is no Unicode
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
