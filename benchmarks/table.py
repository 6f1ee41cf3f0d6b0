"""``docs/benchmarks.md``, its plots and README's short table, made from ``results.json``.

``--check`` says whether they are up to date (exit 1 if not), ``--write`` brings them up to date. Standard library only.
"""

import argparse
import json
import sys
from pathlib import Path

import plot

REPOSITORY = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
GROUPS = (
    ("records", "Records and formats", ("records_write", "records_read", "formats")),
    ("compression", "Compressed streams", ("codec_streams",)),
    ("delivery", "Rolling writers, spools, data sets, logs", ("rolling", "spool", "dataset", "log_handler", "sorting")),
    ("local", "Local files, memory, start", ("local_small", "local_stream", "memory", "startup")),
    ("store", "Store", ("store",)),
    ("s3", "S3", ("s3",)),
    ("azure", "Azure", ("azure_blob",)),
    ("sftp", "SFTP", ("sftp",)),
    ("sql", "SQL", ("sql", "sql_query")),
    ("wrappers", "Wrappers", ("wrappers",)),
    ("sync", "Sync", ("sync", "sync_listing")),
    ("mirrors", "Mirrors", ("multi",)),
)
"""File, title and themes of each part of the page."""
FRONT = (
    "write_zst_many", "write_gz_default", "read_zst_objects", "lp_mixed_iter_batches", "rolling_partitions",
    "store_stat_pathlib", "s3_put_4k", "s3_obstore_get_4k_boto3", "sync_local", "sync_s3_rclone",
)  # fmt: skip
"""The rows that README shows. The worst ratio of all must be among them."""
REASONS = {
    "rolling_partitions": "A thousand open partitions cost the memory traffic of a thousand writers.",
    "lp_mixed_iter_batches": "Length-prefixed records of mixed length are cut one by one.",
    "s3_obstore_get_4k_boto3": "Bare obstore reads 2.3 times as fast as boto3 here: the server has the same cores.",
    "store_write_remote-store": "An atomic write is mostly the work of the file system.",
    "sync_s3_s3": "A copy within an S3 server takes the time of one request for each object.",
}
"""Why a row misses its bar, where that is known."""
INTRO = """\
# Benchmarks

<!-- Made by benchmarks/table.py; change that file or run ./scripts/bench. -->

`./scripts/bench` runs our code and the peer's side by side in one process, in alternating order, on equal work. The
work is checked by hash. The command writes `benchmarks/results.json`, and this page is made from that file.

- **Measured** is the median of at least five rounds, with the smallest and the largest ratio. A row that was run once
  has no range.
- **Bar** is the limit that the project sets itself. **MISS** says that the median is on the wrong side of it.
- Rows of *speed* are better when the number is higher. Rows of *cost* (time, memory) are better when it is lower.
- In the plots a longer bar to the right is always better for us: ratios of cost are turned round. Rows without a ratio,
  such as memory in MiB, are in the tables only.
- Servers of network backends run on the same two cores as the client. Their ratios vary more between runs.
"""


def cell(row, value):
    return f"{value:g}x" if row["unit"] == "x" else f"{value:g} {row['unit']}".rstrip()


def spread(row):
    if row["samples"] == 1:
        return cell(row, row["median"])
    return f"{cell(row, row['median'])} ({row['min']:g} to {row['max']:g})"


def better_is_more(row):
    """Ratio, smallest and largest, above 1 where ours is better; None for a row that is no ratio."""
    if row["unit"] != "x" or not row["min"]:
        return None
    if row["better"] == "higher":
        return row["median"], row["min"], row["max"]
    return tuple(round(1 / row[key], 2) for key in ("median", "max", "min"))


def rows_of(results, themes):
    return [row for row in results["results"] if row["theme"] in themes]


def tables(rows):
    """The tables of one group: first those of speed, then those of cost."""
    kinds = {"higher": "speed, at least", "lower": "cost, at most"}
    lines = []
    for better, title in kinds.items():
        chosen = [row for row in rows if row["better"] == better]
        if chosen:
            lines += [f"| What | Ours | Peer | Measured | Bar: {title} | Verdict |", "|---|---|---|---|---|---|"]
            for row in chosen:
                bar = cell(row, row["bar"])
                cells = (row["what"], row["engine"], row["peer"], spread(row), bar, row["verdict"])
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return lines


def misses(results):
    missed = [row for row in results["results"] if row["verdict"] == "MISS"]
    lines = [
        "## What misses its bar", "",
        f"{len(missed)} of {len(results['results'])} rows miss the bar.", "",
        "| What | Peer | Measured | Bar | Why |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in missed:
        bar = f"{'at least' if row['better'] == 'higher' else 'at most'} {cell(row, row['bar'])}"
        cells = (row["what"], row["peer"], spread(row), bar, REASONS.get(row["name"], "not known"))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def page(results):
    """The whole page."""
    machine = f"Machine: {results['machine']}; {'; '.join(results['versions'])}."
    lines = [INTRO, machine, "", *misses(results)]
    for name, title, themes in GROUPS:
        lines += [f"## {title}", ""]
        if plotted(results, themes):
            lines += [f"![{title}: ours against the peer](benchmarks/{name}.svg)", ""]
        lines += tables(rows_of(results, themes))
    return "\n".join(lines).rstrip() + "\n"


def plotted(results, themes):
    return [
        (row["what"], row["peer"], *ratio)
        for row in rows_of(results, themes)
        if (ratio := better_is_more(row)) is not None
    ]


def plots(results):
    """The charts by file name."""
    found = {}
    for name, title, themes in GROUPS:
        if rows := plotted(results, themes):
            found[f"{name}.svg"] = plot.bars(f"{title}: times as good as the peer", rows)
    return found


def front(results):
    """README's short table."""
    known = {row["name"]: row for row in results["results"]}
    rated = {name: ratio[0] for name, row in known.items() if (ratio := better_is_more(row)) is not None}
    worst = min(rated, key=rated.__getitem__)
    if worst not in FRONT:
        sys.exit(f"README's rows leave out the worst ratio, {worst}: put it into FRONT of benchmarks/table.py")
    lines = ["| What | Against | Ours | Its bar |", "|---|---|---|---|"]
    for name in FRONT:
        row = known[name]
        unit = "times the speed" if row["better"] == "higher" else "times the time"
        verdict = "missed" if row["verdict"] == "MISS" else "met"
        lines.append(f"| {row['what']} | {row['peer']} | {row['median']:g} {unit} | {verdict} |")
    return "\n".join(lines)


def replaced(readme, text):
    """README with the new table; None if the markers are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}" if begin and end else None


def wanted(root, results):
    """Every file that is made of the results, with its content."""
    homeless = {row["theme"] for row in results["results"]} - {theme for _, _, themes in GROUPS for theme in themes}
    if homeless:
        sys.exit(f"no part of docs/benchmarks.md shows {', '.join(sorted(homeless))}: add it to GROUPS")
    readme = replaced((root / "README.md").read_text(encoding="utf-8"), front(results))
    if readme is None:
        sys.exit(f"README.md has no {BEGIN} ... {END}: nothing was written or compared")
    files = {root / "README.md": readme, root / "docs" / "benchmarks.md": page(results)}
    return files | {root / "docs" / "benchmarks" / name: text for name, text in plots(results).items()}


def main(root=REPOSITORY):
    parser = argparse.ArgumentParser(description="The pages that show what was measured")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true", help="exit 1 if the pages do not show what was measured")
    choice.add_argument("--write", action="store_true", help="write docs/benchmarks.md, the plots and README's table")
    arguments = parser.parse_args()
    if not (root / "benchmarks" / "results.json").exists():
        sys.exit("there is no benchmarks/results.json: run ./scripts/bench")
    files = wanted(root, json.loads((root / "benchmarks" / "results.json").read_text()))
    old = [path for path in sorted((root / "docs" / "benchmarks").glob("*")) if path not in files]
    for path in old if arguments.write else ():
        path.unlink()
    for path, text in files.items():
        if arguments.write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            old.append(path)
    if old and not arguments.write:
        names = ", ".join(path.relative_to(root).as_posix() for path in old)
        sys.exit(f"not what benchmarks/results.json says: {names}; run python benchmarks/table.py --write")


if __name__ == "__main__":
    main()
