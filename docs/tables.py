"""Two pages made from what the tests know: ``capabilities.md`` from ``tests/expected_features.toml``, which every
backend is held against, and ``guarantees.md`` from ``tests/guarantees.toml``, whose cells name their tests.

``python docs/tables.py`` says whether the pages are up to date (exit 1 if not), ``--write`` makes them so."""

import argparse
import sys
import tomllib
from pathlib import Path

from omnistorage.store.capability import SOURCES

DOCS = Path(__file__).resolve().parent
TESTS = DOCS.parent / "tests"
COLUMNS = {
    "memory": "memory", "local": "local", "channel": "channel", "s3": "S3 (AWS)", "s3_other": "S3 (another endpoint)",
    "gcs": "GCS", "az": "Azure", "abfss": "Azure, hierarchical", "sftp": "SFTP", "http": "HTTP", "http_dav": "WebDAV",
    "sqlite": "SQL", "sql_query": "SQL query", "compute": "compute", "tiered": "tiers (memory before local)",
    "multi": "mirrors (memory and local)",
    "basic": "a basic backend",
}  # fmt: skip
GUARANTEES = {
    "atomic": "an object appears whole or not at all", "durable": "`durable=True` survives a power cut",
    "conditional": "writes on a condition", "checksum": "digests checked on the way",
    "listing": "listings show changes", "resume": "a broken download goes on",
}  # fmt: skip
NOTE = "<!-- Made by docs/tables.py; change its sources in tests/ instead. -->"


def row(cells):
    return f"| {' | '.join(cells)} |"


def capabilities():
    """Capability x backend, under default settings."""
    expected = tomllib.loads((TESTS / "expected_features.toml").read_text(encoding="utf-8"))
    lines = [
        "# What each store can do", "", NOTE, "",
        "`store.capabilities` is this column of your store, known without I/O; it follows the configuration, and this",
        "is the default of each type. A method that needs what is not there raises `CapabilityNotSupported`. MOVE,",
        "COPY and GLOB say that the store does it by itself: `move`, `copy` and `glob` work everywhere, streamed or",
        "matched here. Every cell is tested: by `tests/test_features.py` against the backend, by the conformance kit",
        "and by `tests/store/test_capabilities.py` against what it does.", "",
        row(["", *COLUMNS.values()]), row(["---"] * (len(COLUMNS) + 1)),
    ]  # fmt: skip
    for capability, source in SOURCES.items():
        cells = []
        for name in COLUMNS:
            told = expected[name]
            has = source in told["on"] if isinstance(source, str) else source.__name__ in told["powers"]
            cells.append("yes" if has else "–")
        lines.append(row([capability.name, *cells]))
    return "\n".join(lines) + "\n"


def guarantees():
    """Guarantee x backend, each cell with its tests."""
    said = tomllib.loads((TESTS / "guarantees.toml").read_text(encoding="utf-8"))
    default = said.pop("default")
    lines = [
        "# What each store guarantees", "", NOTE, "",
        "The number behind a cell leads to the tests that prove it, which run with all others. `kit::` is a test of",
        "the conformance kit, run by the backend's own file.", "",
        row(["", *GUARANTEES.values()]), row(["---"] * (len(GUARANTEES) + 1)),
    ]  # fmt: skip
    notes, number = [], 0
    for of in said.values():
        cells = [of["title"]]
        for name in GUARANTEES:
            cell = of.get(name, default[name])
            number += 1
            cells.append(f"{cell['says']} [{number}](#tests)")
            tests = ", ".join(f"`{test}`" for test in cell["tests"])
            notes.append(f"{number}. {of['title']}, {name}: {tests} ({of['kit']})")
        lines.append(row(cells))
    return "\n".join([*lines, "", "## Tests", "", *notes]) + "\n"


PAGES = {"capabilities.md": capabilities, "guarantees.md": guarantees}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--write", action="store_true", help="make the pages")
    write = parser.parse_args().write
    old = []
    for name, make in PAGES.items():
        text = make()
        if write:
            (DOCS / name).write_text(text, encoding="utf-8")
        elif not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != text:
            old.append(name)
    if old:
        sys.exit(f"{', '.join(old)}: not what the tests say: run python docs/tables.py --write")


if __name__ == "__main__":
    main()
