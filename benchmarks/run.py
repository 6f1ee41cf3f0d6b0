"""Runs the benchmarks: ``python benchmarks/run.py [NAME...]``, with names of themes or groups (``--list``).

The figures go to ``benchmarks/results.json``, from which ``table.py`` makes ``docs/benchmarks.md`` and README's table.
``--quick`` only shows that everything runs: little data, two rounds, nothing kept.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

from common import REPOSITORY, Bench, as_rows, machine, version

THEMES = (
    "records_write", "records_read", "formats", "codec_streams", "rolling", "spool", "dataset", "log_handler",
    "sorting", "local_small", "local_stream", "memory", "startup", "store", "s3", "azure_blob", "sftp", "sql",
    "sql_query", "wrappers", "globs", "hostile", "sync", "sync_listing", "multi",
)  # fmt: skip
RESULTS = REPOSITORY / "benchmarks" / "results.json"


def groups():
    """Every benchmark group: its theme, its name and its function."""
    return [(theme, *item) for theme in THEMES for item in import_module(theme).GROUPS.items()]


def chosen(names):
    found = [row for row in groups() if not names or row[0] in names or row[1] in names]
    known = {name for row in groups() for name in row[:2]}
    if wrong := set(names) - known:
        raise SystemExit(f"no benchmark is called {', '.join(sorted(wrong))}; --list shows them")
    return found


def keep(bench):
    """Put the new figures into the file, in the place of the old ones of the same name."""
    old = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    rows = {row["name"]: row for row in [*old, *as_rows(bench.results)]}
    versions = [version(name) for name in ("omnistorage", "smart_open", "orjson", "zstandard", "isal", "zlib-ng")]
    whole = {
        "machine": machine(bench.folder),
        "versions": [f"Python {platform.python_version()}", *versions],
        "results": sorted(rows.values(), key=lambda row: THEMES.index(row["theme"])),
    }
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a small form that keeps nothing")
    parser.add_argument("--list", action="store_true", help="show the names and what they measure")
    parser.add_argument("--folder", default=REPOSITORY / ".bench", type=Path, help="where files go (default: .bench)")
    arguments = parser.parse_args()
    if arguments.list:
        for theme, name, run in groups():
            print(f"{theme:14} {name:14} {run.__doc__.splitlines()[0]}")
        return
    arguments.folder.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    bench = Bench(folder, arguments.quick)
    print(f"{machine(folder)}; load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    try:
        for bench.theme, _, run in chosen(arguments.names):
            run(bench)
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if not arguments.quick:
                keep(bench)  # now, so that a run that is broken off loses nothing
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = [result.name for result in bench.results if result.verdict == "MISS"]
    print(f"{len(bench.results) - len(missed)} of {len(bench.results)} bars passed", *missed)


if __name__ == "__main__":
    main()
