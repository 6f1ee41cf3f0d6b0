"""The examples run, say what they promise, and the toy members pass the whole conformance suites."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from test_custom_backend import TestTable  # noqa: E402  (collected here: the kit over the toy backend)
from test_custom_format import TestLtsv  # noqa: E402  (and over the toy format)

from ..waiting import LIMIT  # noqa: E402

SAYS = {
    "resume_export": ["at record 3456 the machine is gone; there is an object: False", "goes on behind record 3000",
                      "goes on behind record 7000", "10000 records, in ['export.ndjson.gz']"],
    "etl_dataset": ["published: 6000 records in 12 parts", "rome: 3000 records, 12000.00 in all",
                    "failed: ValueError, still there: 6000 records",
                    "replaced: 2000 records; 6 files, of which 4 are parts",
                    "without _SUCCESS: there is no whole data set here"],
    "ship_logs": ["flushed: 1201 records are with the writer",
                  "closed: 1201 taken, 0 dropped, 0 lost, 1 written as its repr", "objects: ['shop'] 1201 records",
                  "the till is broken | ZeroDivisionError: division by zero | till {3}"],
    "fan_out": ["written: {'near': True, 'far': True}", "repaired while it is away: ()",
                "repaired: ('events.ndjson.zst',) alike: True", "near committed", "offsite unknown"],
    "stop_in_time": ["exit code 143, published: 1000 of 1000", "drained: 3000 records in 6 objects",
                     "too late: 12 records were not published in time: from number 0 on", "durable up to -1"],
    "quickstart": ["read 1000 records, 100 warnings", "the gzip file holds 1000 records", "[b'started', b'ready']"],
    "file_operations": ["exists: True False", "list 2024: ['2024/feb.txt', '2024/jan.txt']", "read: this is 2025/jan",
                        "delete: True False", "left: ['archive/notes.txt']"],
    "streaming_io": ["wrote 4194304 bytes", r"border: b'\x00\x01'", "sum: 4999950000", "'name': 'two'"],
    "atomic_writes": ["after RuntimeError('the source broke'): b'old'", "visible: False files: ['report.txt']",
                      "prepared: False False", "closed: True True", "still b'old'"],
    "error_handling": ["not found: True logs/none.txt", "did you mean 'file'?", "collected: [1, 3, 5] [2, 4]",
                       "dead letters: ['{\"n\":', 'nonsense']", "cut: zstd: the stream is cut off"],
    "custom_backend": ["sum: 499500", "listed: ['logs/events.ndjson.zst']"],
    "custom_format": ["'msg': 'disk 1: full'", "good: ['one', 'three'] bad: record 2, byte 8: no label:value"],
    "rolling_logs": ["6 objects are open", "rolled: 6000 records, 10 objects", "'web/2025-03-01/11/0000.ndjson.zst']",
                     "by age: 1 object", "there is ['0.ndjson']", "read back: 6001 records from 11 objects"],
    "etl_csv_to_ndjson": ["in: 5004 rows, out: 5001 records, bad: 3", "'price': None, 'paid': False",
                          "row 5001 at byte", "2 fields where the header has 5", "published: False"],
    "http_read": ["sum: 49995000", "listed: [('events.ndjson.gz', True)]", "a range: 1f8b", "missing: nothing"],
    "configuration": ["a folder: Store('file:///", "memory: Store('memory://", "SQLite: Store('sqlite:///",
                      "2026/november.csv.gz: 2 rows", "['2026', 'archive']"],
    "encrypted_store": ["stored: 200158 bytes, readable: False", "a range: b'999'",
                        "damaged: reports/q1.txt from byte 131184"],
    "cached_store": ["asked: ['stat']", "a range: b'weights'", "within the ttl: b'new weights' []",
                     "damaged: b'new weights' errors: 1"],
    "sync_events": ["INFO done 1.txt (1000 bytes)", "INFO deleted 0.txt (1000 bytes)", "3000 bytes went by"],
    "mirror": ["copy logs/a.ndjson new", "second run: 1 equal",
               "check: 0 equal, 1 differ, 1 only at the source"],
    "hot_warm_cold": ["February: 1000 records", "found in: cold after asking hot, warm, cold", "in all: 6 files",
                      "{'archive/2025.txt': 'archive', 'tmp/x': 'scratch'}", "refused: no tier takes this name",
                      "compared=3, differing=2", "2026-02.ndjson.gz: size in new", "2026-03.ndjson.gz: missing in new"],
    "sql_query_store": ["'reports/2025/us.parquet']", "2024 in the EU: 2 products, double", "records: 1000",
                        "plan: sql_query {'year': 2025, 'region': 'us'} None", "refused: reports/2024'; DROP TABLE"],
    "compute_store": ["listed: ['weather/oslo.json', 'weather/rome.json']", "squares: ['0', '1', '4', '9', '16']",
                      "Oslo: {'degrees': -3} False", "errors per day: [{'day': 1, 'n': 5}, {'day': 2, 'n': 10}]"],
    "channel_pipeline": ["produced 20000 tasks", "the channel is gone: True", "had [0, 1, 2], then: the stream broke"],
}  # fmt: skip
TESTS = {"test_custom_backend": (TestTable, "BackendTests", 80), "test_custom_format": (TestLtsv, "FormatTests", 20)}
LONGEST = {"custom_format": 100, "custom_backend": 85}  # whole members; the others show one thing each


LATER = (
    "compute_store", "configuration", "etl_csv_to_ndjson", "etl_dataset", "hot_warm_cold", "resume_export",
    "rolling_logs", "ship_logs", "sql_query_store", "stop_in_time", "sync_events",
)  # fmt: skip
"""What the default run leaves to CI: each example costs a process that imports the package."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ci_only) if name in LATER else name for name in SAYS]
)
def test_an_example_runs_and_says_what_it_promises(name, tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        command, cwd=tmp_path, env={"TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")
    for text in SAYS[name]:
        assert text in done.stdout
    assert list(tmp_path.rglob("*")) == [temporary], "an example leaves nothing behind"


@pytest.mark.parametrize("name", SAYS)
def test_an_example_asserts_its_own_result_and_says_what_it_is_about(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.startswith('"""')
    assert re.search(r"^ *assert ", text, re.MULTILINE)


def test_every_example_is_run_and_short():
    files = {path.stem: path.read_text().count("\n") for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*SAYS, *TESTS, "demo"}
    assert {name for name, lines in files.items() if name != "demo" and lines > LONGEST.get(name, 75)} == set(), files


@pytest.mark.parametrize("name", TESTS)
def test_goal_50_third_parties_inherit_the_suite_with_one_import_and_ten_lines(name):
    cls, kit, least = TESTS[name]
    text = (EXAMPLES / f"{name}.py").read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert re.findall(r"^(?:from|import) omnistorage.*", text, re.MULTILINE) == [
        f"from omnistorage.testing import {kit}"
    ]
    tests = [test for test in dir(cls) if test.startswith("test_")]
    assert len(tests) > least, "the suite was inherited"
