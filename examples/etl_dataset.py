"""Many workers write one data set: it appears whole or not at all, and a rerun replaces it in one step."""

import gzip
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from omnistorage import LocalBackend, NotFound, open_records
from omnistorage.delivery import DatasetReader, DatasetWriter


def rows_of(path):
    """What one worker does with one input: read a CSV file, keep what is good, make records of it."""
    with open_records(path, "r") as reader:
        for row in reader:
            if row["price"] == "broken":
                raise ValueError(f"no price in {path}")
            yield {"shop": row["shop"], "cents": round(float(row["price"]) * 100)}


def total_of(reader, part):
    """The same in the other direction: one worker reads one part."""
    return sum(record["cents"] for record in reader.read_part(part))


def make_inputs(folder: Path) -> list[str]:
    paths = []
    for month in range(1, 7):
        path = folder / f"sales-{month}.csv.gz"
        lines = [f"{('oslo', 'rome')[n % 2]},{month}.{n % 100:02}" for n in range(1000)]
        path.write_bytes(gzip.compress("\n".join(["shop,price", *lines]).encode()))
        paths.append(str(path))
    return paths


def main(folder: Path) -> None:
    inputs, store = make_inputs(folder), LocalBackend(folder / "lake")

    with ProcessPoolExecutor(2) as executor:  # or threads, or client.get_executor() of a Dask cluster
        writer = DatasetWriter(store, "sales", partition_by="shop")
        done = writer.run(executor, rows_of, inputs)
        print(f"published: {done.records} records in {len(done.parts)} parts, {done.raw_bytes} -> {done.bytes} bytes")

        # Parts of one partition are chosen by their manifest; others are not opened. Workers read side by side, too.
        reader = DatasetReader(store, "sales", where={"shop": "rome"})
        totals = executor.map(total_of, [reader] * len(reader.parts), reader.parts)
        print(f"rome: {reader.records} records, {sum(totals) / 100:.2f} in all")

        # The next run fails half way. Nothing of it is to be seen, and the old set is what it was.
        bad = folder / "sales-7.csv.gz"
        bad.write_bytes(gzip.compress(b"shop,price\noslo,broken\n"))
        again = DatasetWriter(store, "sales", partition_by="shop", if_exists="replace")
        try:
            again.run(executor, rows_of, [*inputs, str(bad)])
        except ValueError as error:
            print(f"failed: {type(error).__name__}, still there: {DatasetReader(store, 'sales').records} records")

        # A new set takes the place of the old one in one step; then the old parts go.
        replaced = again.run(executor, rows_of, inputs[:2])
    files = [path for path in (folder / "lake" / "sales").rglob("*") if path.is_file()]
    print(f"replaced: {replaced.records} records; {len(files)} files, of which {len(replaced.parts)} are parts")
    assert sum(1 for _ in DatasetReader(store, "sales")) == replaced.records == 2000

    (folder / "lake" / "sales" / "_SUCCESS").unlink()
    try:
        DatasetReader(store, "sales")
    except NotFound as error:
        print(f"without _SUCCESS: {str(error)[:31]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
