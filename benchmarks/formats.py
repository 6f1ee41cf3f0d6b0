"""CSV and length-prefixed records in local files, against Python's own ``csv`` and a loop with ``struct``."""

import csv
import hashlib
import struct
from functools import cache
from pathlib import Path

from common import Bench, SameWork, file_digest, log_events, over, rounds

from omnistorage import open_records
from omnistorage.formats.csv import Csv
from omnistorage.formats.length_prefixed import LengthPrefixed

NAMES = ("ts", "level", "service", "host", "trace", "message", "status", "ms")
LISTS = Csv(rows="list", header=NAMES)


@cache
def lists(count):
    return [list(event.values()) for event in log_events(count)]


@cache
def payloads(count):
    """Records of 100 bytes."""
    return [(event["trace"] + event["message"]).encode().ljust(100, b".")[:100] for event in log_events(count)]


def write_ours(path, records, form):
    with open_records(path, "w", format=form) as writer:
        writer.write_many(records)
    return path


def one_by_one(path, form):
    """Ours, one record at a time."""
    count = 0
    with open_records(path, "r", format=form) as reader:
        for _ in reader:
            count += 1
    return count


def batches(path, form):
    count = 0
    with open_records(path, "r", format=form) as reader:
        for batch in reader.iter_batches():
            count += len(batch)
    return count


def same_records(*readers):
    """Proof that all read the same records."""
    same = SameWork()
    for records in readers:
        digest = hashlib.sha256()
        for record in records:
            digest.update(repr(record).encode())
        same.check(digest.hexdigest())


class Written:
    """Each file has the same bytes; then it is removed."""

    def __init__(self):
        self.same, self.seen = SameWork(), set()

    def __call__(self, name, path):
        if name not in self.seen:  # the writers are deterministic
            self.seen.add(name)
            self.same.check(file_digest(path))
        Path(path).unlink()


def csv_write_dicts(path, records):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, NAMES, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    return path


def csv_write_lists(path, records):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NAMES)
        writer.writerows(records)
    return path


def csv_dicts(path):
    with open(path, newline="") as file:
        yield from csv.DictReader(file)


def csv_lists(path):
    with open(path, newline="") as file:
        rows = csv.reader(file)
        next(rows)
        yield from rows


def csv_read_dicts(path):
    count = 0
    with open(path, newline="") as file:
        for _ in csv.DictReader(file):
            count += 1
    return count


def csv_read_lists(path):
    count = 0
    with open(path, newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for _ in rows:
            count += 1
    return count


def compare_csv(bench, kind, form, records, write, read, plain):
    path = str(bench.folder / "f.csv")
    contenders = {"peer": lambda: write(path, records), "ours": lambda: write_ours(path, records, form)}
    times = rounds(contenders, bench.rounds, Written())
    prefix = "Dict" if kind == "dicts" else ""
    bench.add(
        f"csv_write_{kind}", f"write CSV, {kind}: write_many", peer=f"csv.{prefix}Writer" if prefix else "csv.writer",
        bar=0.8, better="higher", samples=over(times["peer"], times["ours"]), engine="csv",
    )  # fmt: skip
    write_ours(path, records, form)
    same_records(plain(path), open_records(path, "r", format=form))
    same = SameWork()
    contenders = {
        "peer": lambda: read(path),
        "batches": lambda: batches(path, form),
        "objects": lambda: one_by_one(path, form),
    }
    times = rounds(contenders, bench.rounds, lambda name, count: same.check(count))
    for name, what in (("batches", "in batches"), ("objects", "one record at a time")):
        bench.add(
            f"csv_read_{kind}_{name}", f"read CSV, {kind}: {what}",
            peer=f"csv.{prefix}Reader" if prefix else "csv.reader", bar=0.8, better="higher",
            samples=over(times["peer"], times[name]), engine="csv",
        )  # fmt: skip


def csv_dict_rows(bench: Bench):
    """CSV of a million dict rows, written and read."""
    compare_csv(bench, "dicts", Csv(), log_events(bench.events), csv_write_dicts, csv_read_dicts, csv_dicts)


def csv_list_rows(bench: Bench):
    """CSV of a million list rows, written and read."""
    compare_csv(bench, "lists", LISTS, lists(bench.events), csv_write_lists, csv_read_lists, csv_lists)


def struct_write(path, records):
    pack = struct.Struct(">I").pack
    with open(path, "wb") as file:
        write = file.write
        for record in records:
            write(pack(len(record)))
            write(record)
    return path


def struct_records(path):
    unpack = struct.Struct(">I").unpack
    with open(path, "rb") as file:
        read = file.read
        while head := read(4):
            (size,) = unpack(head)
            yield read(size)


def struct_read(path):
    unpack, count = struct.Struct(">I").unpack, 0
    with open(path, "rb") as file:
        read = file.read
        while head := read(4):
            (size,) = unpack(head)
            read(size)
            count += 1
    return count


def compare_length_prefixed(bench, name, what, records):
    path, form = str(bench.folder / "f.lp"), LengthPrefixed()
    contenders = {"peer": lambda: struct_write(path, records), "ours": lambda: write_ours(path, records, form)}
    times = rounds(contenders, bench.rounds * 2 - 1, Written())
    bench.add(
        f"{name}_write_many", f"write length-prefixed records {what}: write_many", peer="a loop with struct",
        bar=1.0, better="higher", samples=over(times["peer"], times["ours"]), engine="struct",
    )  # fmt: skip
    write_ours(path, records, form)
    same_records(struct_records(path), open_records(path, "r"))
    same = SameWork()
    contenders = {"peer": lambda: struct_read(path), "ours": lambda: batches(path, form)}
    times = rounds(contenders, bench.rounds * 2 - 1, lambda name, count: same.check(count))
    bench.add(
        f"{name}_iter_batches", f"read length-prefixed records {what}: iter_batches", peer="a loop with struct",
        bar=1.0, better="higher", samples=over(times["peer"], times["ours"]), engine="struct",
    )  # fmt: skip


def length_prefixed(bench: Bench):
    """Length-prefixed records of 100 bytes: write_many and iter_batches."""
    compare_length_prefixed(bench, "lp", "of 100 bytes", payloads(bench.events))


def length_prefixed_mixed(bench: Bench):
    """The same with records of 50 to 100 bytes: no run is of one length."""
    rows = [row[: 50 + number * 7 % 51] for number, row in enumerate(payloads(bench.events))]
    compare_length_prefixed(bench, "lp_mixed", "of 50 to 100 bytes", rows)


GROUPS = {
    "csv_dict_rows": csv_dict_rows,
    "csv_list_rows": csv_list_rows,
    "length_prefixed": length_prefixed,
    "length_prefixed_mixed": length_prefixed_mixed,
}
