"""The examples run, say what they promise, and the toy backend passes the whole conformance suite."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from test_custom_backend import TestTable  # noqa: E402  (collected here: the kit over the toy backend)

SAYS = {
    "quickstart": ["read 1000 records, 100 warnings", "the gzip file holds 1000 records", "[b'started', b'ready']"],
    "file_operations": ["exists: True False", "list 2024: ['2024/feb.txt', '2024/jan.txt']", "read: this is 2025/jan",
                        "delete: True False", "left: ['archive/notes.txt']"],
    "streaming_io": ["wrote 4194304 bytes", r"border: b'\x00\x01'", "sum: 4999950000", "'name': 'two'"],
    "atomic_writes": ["after RuntimeError('the source broke'): b'old'", "visible: False files: ['report.txt']",
                      "prepared: False False", "closed: True True", "still b'old'"],
    "error_handling": ["not found: True logs/none.txt", "did you mean 'file'?", "collected: [1, 3, 5] [2, 4]",
                       "dead letters: ['{\"n\":', 'nonsense']", "cut: zstd: the stream is cut off"],
    "custom_backend": ["sum: 499500", "listed: ['logs/events.ndjson.zst']"],
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_says_what_it_promises(name, tmp_path):
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for text in SAYS[name]:
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"


def test_every_example_is_run_and_short():
    files = {path.stem: path.read_text().count("\n") for path in EXAMPLES.glob("*.py")}
    assert set(files) == {*SAYS, "demo", "test_custom_backend"}
    assert all(lines <= 80 for name, lines in files.items() if name != "demo"), files


def test_goal_50_third_parties_inherit_the_suite_with_one_import_and_ten_lines():
    text = (EXAMPLES / "test_custom_backend.py").read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert re.findall(r"^(?:from|import) omnistorage.*", text, re.MULTILINE) == [
        "from omnistorage.testing import BackendTests"
    ]
    tests = [name for name in dir(TestTable) if name.startswith("test_")]
    assert len(tests) > 80, "the suite was inherited"
