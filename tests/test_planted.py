"""The list of planted bugs stays whole: every test that a row or goal names has one, and each can still be planted."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

TESTS = pathlib.Path(__file__).parent
BUGS = [bug for file in sorted(TESTS.glob("planted*.toml")) for bug in tomllib.loads(file.read_text()).get("bug", [])]
ROWS = tomllib.loads((TESTS / "regressions.toml").read_text())


def test_every_test_that_a_row_names_is_shown_to_fail_once():
    named = {test for tests in ROWS.values() for test in tests if not test.startswith(("kit::", "later: ", "n/a: "))}
    shown = {test for bug in BUGS for test in bug["tests"]}
    assert "\n".join(sorted(named - shown - EXEMPT.keys())) == ""
    assert sorted(set(EXEMPT) - named) == []


EXEMPT = {
    "testing/test_broken_backends.py::test_the_kit_rejects_it_by_name": "it is itself the proof of the kit",
    "compression/test_snappy.py::test_goal_16_no_flipped_bit_of_what_we_write_is_silent": (
        "two checksums guard every byte, the chunk's and the trailer's: no one bug lets a bit through"
    ),
    "backends/test_s3.py::test_pain_10_the_extra_is_boto3_alone": "it reads pyproject.toml",
    "backends/test_http.py::test_pain_10_the_extra_is_urllib3_alone": "it reads pyproject.toml",
    "backends/test_azure.py::test_pain_10_the_extra_is_microsofts_sdks_alone": "it reads pyproject.toml",
    "testing/test_broken_backends.py::test_there_are_enough_broken_backends": "it counts",
}


@pytest.mark.parametrize("file", sorted({bug["file"] for bug in BUGS}))
def test_each_bug_can_still_be_planted(file):
    text = (TESTS.parent / "omnistorage" / file).read_text()
    for bug in BUGS:
        if bug["file"] == file:
            assert text.count(bug["old"]) == 1, bug
            compile(text.replace(bug["old"], bug["new"]), file, "exec")


def test_the_planter_tells_a_bug_that_a_test_does_not_notice(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import planted; "
        "harmless = {'file': 'paths.py', 'old': 'def is_under(', 'new': 'def  is_under(',"
        " 'tests': ['floor/test_globs.py::test_rs_7_1_12_a_pattern_binds_to_the_very_end']}; "
        f"import pathlib; print(planted.unnoticed(harmless, pathlib.Path({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True)
    assert "test_rs_7_1_12" in done.stdout, done.stderr
