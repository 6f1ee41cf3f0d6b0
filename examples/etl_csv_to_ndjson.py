"""An ETL job: typed rows out of a CSV.gz, bad ones to a dead letter, the rest as NDJSON.zst. Constant memory."""

import gzip
import tempfile

from omnistorage import Csv, LocalBackend, open_records, ops
from omnistorage.errors import CorruptData

SALES = Csv(types={"id": "int", "price": "float", "day": "date", "paid": "bool"})


def rows():
    """What somebody exported: mostly good."""
    yield "id,day,price,paid,note\n"
    for n in range(1, 5001):
        yield f'{n},2025-03-{n % 28 + 1:02d},{n % 90}.50,{n % 2},"said ""ok"", twice"\n'
    yield "5001,2025-02-30,1.00,1,no such day\n"
    yield "5002,2025-03-01,free,1,no number\n"
    yield "5003,2025-03-01,,0,an empty price is None\n"
    yield "5004,2025-03-01\n"


def main(folder: str) -> None:
    backend = LocalBackend(folder)
    ops.write_bytes(backend, "in/sales.csv.gz", gzip.compress("".join(rows()).encode()))

    # Three streams side by side. The writers leave last: if the reader fails, neither object appears.
    # Records are dicts on their way; a generator is all that a transformation takes.
    with (
        open_records(backend, "out/sales.ndjson.zst", "w") as good,
        open_records(backend, "out/sales.bad.ndjson", "w") as bad,
        open_records(backend, "in/sales.csv.gz", "r", format=SALES, on_error=bad, max_bad=100) as source,
    ):
        good.write_many({**row, "month": row["day"].strftime("%Y-%m")} for row in source)
    print(f"in: {source.records + source.bad.count} rows, out: {good.records} records, bad: {bad.records}")
    assert (source.records, good.records, bad.records) == (5001, 5001, 3)

    with open_records(backend, "out/sales.ndjson.zst", "r") as reader:
        sales = list(reader)
    print("first:", sales[0])
    print("last:", sales[-1])
    assert sum(sale["price"] or 0 for sale in sales) == sum(n % 90 + 0.5 for n in range(1, 5001))

    # A dead letter has the row as it was, where it stood and what is wrong with it: mend it and feed it again.
    with open_records(backend, "out/sales.bad.ndjson", "r") as letters:
        for letter in letters:
            print(f"row {letter['number']} at byte {letter['offset']}: {letter['error']}: {letter['raw']!r}")

    # Too many bad rows are no longer a matter of rows. Nothing was published.
    try:
        with (
            open_records(backend, "out/strict.ndjson.zst", "w") as good,
            open_records(backend, "in/sales.csv.gz", "r", format=SALES, on_error="skip", max_bad=2) as source,
        ):
            good.write_many(source)
    except CorruptData as error:
        print(f"strict: {error.args[0]}; published: {backend.exists('out/strict.ndjson.zst')}")
    assert [found.path for found in backend.list("out")] == ["out/sales.bad.ndjson", "out/sales.ndjson.zst"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
