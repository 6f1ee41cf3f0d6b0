"""README's table of benchmarks, made from ``results.json``: ``--check`` says whether README is up to date (exit 1 if
not), ``--write`` brings it up to date. Standard library only."""

import argparse
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def cell(row, value):
    return f"{value:g}x" if row["unit"] == "x" else f"{value:g} {row['unit']}"


def spread(row):
    if row["samples"] == 1:
        return cell(row, row["median"])
    return f"{cell(row, row['median'])} ({row['min']:g} to {row['max']:g})"


def table(results):
    """The text between the markers."""
    kinds = {"higher": "times the peer's speed, at least", "lower": "times the peer's cost, at most"}
    lines = [f"{results['machine']}; {'; '.join(results['versions'])}. Medians, with smallest and largest.", ""]
    for better, title in kinds.items():
        lines += [f"| What | Ours | Peer | Measured | Bar: {title} | Verdict |", "|---|---|---|---|---|---|"]
        for row in results["results"]:
            if row["better"] == better:
                bar = cell(row, row["bar"])
                cells = (row["what"], row["engine"], row["peer"], spread(row), bar, row["verdict"])
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def replaced(readme, text):
    """README with the new table; None if the markers are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}" if begin and end else None


def main(root=REPOSITORY):
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true", help="exit 1 if README's table is not what was measured")
    choice.add_argument("--write", action="store_true", help="put the table into README")
    arguments = parser.parse_args()
    path = root / "README.md"
    readme = path.read_text(encoding="utf-8")
    if not (root / "benchmarks" / "results.json").exists():
        sys.exit("there is no benchmarks/results.json: run ./scripts/bench")
    wanted = replaced(readme, table(json.loads((root / "benchmarks" / "results.json").read_text())))
    if wanted is None:
        sys.exit(f"README.md has no {BEGIN} ... {END}: nothing was written or compared")
    if arguments.write:
        path.write_text(wanted, encoding="utf-8")
    elif wanted != readme:
        sys.exit("README.md does not show what benchmarks/results.json says: run python benchmarks/table.py --write")


if __name__ == "__main__":
    main()
