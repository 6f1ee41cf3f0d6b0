"""A proof that cannot fail is worth nothing: each test that ``regressions.toml`` names is seen to fail here, once, when
the guard it stands for is taken away.

``planted*.toml`` hold the bugs. ``python tests/planted.py [WORD ...]`` copies the project, plants one bug at a time,
runs the tests it must break, and exits with 1 if one of them still passes; at the end it runs what failed once more in
a copy without a bug, where it must pass. WORDs choose bugs by what their tests' ids contain. ``-j N`` plants N at a
time; ``-v`` shows how each test failed.

A test is named by its file and function, without the class around it and without parameters; a whole file stands for
whatever test in it fails first.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
BUGS = [bug for file in sorted(TESTS.glob("planted*.toml")) for bug in tomllib.loads(file.read_text()).get("bug", [])]
COPIED = ("omnistorage", "tests", "benchmarks", "examples", "docs", "scripts", "pyproject.toml", "README.md")
SMALL = {
    "OMNISTORAGE_SCALE": "1",
    "OMNISTORAGE_KILLS": "50",
    "OMNISTORAGE_FULL": "",
    "HYPOTHESIS_PROFILE": "default",
    "COLUMNS": "300",  # lines of the summary are cut to it
    "OMNISTORAGE_SERVERS": str(ROOT / ".servers"),
}
TIMEOUT = 600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?(?:\[.*?\])?)(?: - .*)?$", re.MULTILINE)


def planted(text: str, bug: dict[str, str]) -> str:
    """The source with the bug in it. ValueError if the place is not there exactly once."""
    if text.count(bug["old"]) != 1:
        raise ValueError(f"{bug['file']} holds {text.count(bug['old'])} times: {bug['old']!r}")
    return text.replace(bug["old"], bug["new"])


def copy_project(folder: pathlib.Path, root: pathlib.Path = ROOT) -> None:
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
        elif source.exists():
            shutil.copy(source, folder / name)


def run(folder: pathlib.Path, *tests: str, first: bool = True) -> tuple[list[str], str]:
    """Run tests of the copy in ``folder``, up to the ``first`` failure: the ids of those that failed, and the output.
    RuntimeError if they did not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE", *["-x"] * first]
    done = subprocess.run(
        [*command, *tests],
        cwd=folder,
        env={**os.environ, **SMALL, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{tests[0]} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return _FAILED.findall(done.stdout) if done.returncode else [], done.stdout


def is_meant(failed: str, test: str) -> bool:
    """Whether the id that pytest printed is the listed one, or lies in the file that is listed."""
    found = failed.removeprefix("tests/").partition("[")[0]
    return found == test or ("::" not in test and found.startswith(test + "::"))


def unnoticed(
    bug: dict,
    folder: pathlib.Path,
    root: pathlib.Path = ROOT,
    *,
    seen: list[str] | None = None,
    verbose: bool = False,
) -> list[str]:
    """The tests that pass in spite of the bug, planted in a copy of ``root`` that is made in ``folder``. The ids of
    those that failed are added to ``seen``."""
    copy_project(folder, root)
    target = folder / "omnistorage" / bug["file"]
    target.write_text(planted(target.read_text(), bug))
    left = set(bug["tests"])
    for test in bug["tests"]:  # one run each: of a module, the first to fail would hide the others
        started = time.monotonic()
        failed, output = run(folder, f"tests/{test}")
        if verbose:
            shown = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
            print(f"{time.monotonic() - started:.1f} s {bug['file']}", bug["new"], *shown, sep="\n    ", flush=True)
        failed = [each for each in failed if is_meant(each, test)]
        if failed:
            left.discard(test)
            if seen is not None:
                seen += failed
    return sorted(left)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("-v", "--verbose", action="store_true")
    chosen = parser.parse_args()
    bugs = [bug for bug in BUGS if not chosen.words or any(w in test for w in chosen.words for test in bug["tests"])]
    seen: list[str] = []
    bad = 0
    with tempfile.TemporaryDirectory(prefix="omnistorage-planted-") as copy:
        sound = pathlib.Path(copy)
        copy_project(sound)  # whoever edits the project meanwhile changes nothing here

        def one(bug: dict) -> list[str]:
            with tempfile.TemporaryDirectory(prefix="omnistorage-planted-") as folder:
                return unnoticed(bug, pathlib.Path(folder), sound, seen=seen, verbose=chosen.verbose)

        with concurrent.futures.ThreadPoolExecutor(chosen.j) as pool:
            for bug, left in zip(bugs, pool.map(one, bugs), strict=True):
                for test in left:
                    bad += 1
                    print(f"UNNOTICED by {test}: {bug['file']}: {bug['old']!r} -> {bug['new']!r}", flush=True)
        broken = run(sound, *sorted(set(seen)), first=False)[0] if seen else []
    for test in broken:
        print(f"FAILS without a bug, too: {test}", flush=True)
    count = sum(len(bug["tests"]) for bug in bugs)
    print(f"{len(bugs)} bugs planted, {count - bad} of {count} tests failed as they must, {len(broken)} fail anyway")
    return 1 if bad or broken or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())
