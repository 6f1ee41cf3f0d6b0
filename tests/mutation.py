"""Mutation testing of the modules that everything rests on, with mutmut.

``./scripts/mutate`` lists the groups of ``mutation.toml``. ``./scripts/mutate stages formats`` changes the code of
these groups in one place at a time and runs their tests on each change. It prints the score of each module, and each
change that survived as a diff. A module with more mutants than ``--sample`` is tested by a random sample, which
``--seed`` repeats. Statements that raise are not changed: tests check the class of an error, and few read its message.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GROUPS = tomllib.loads((TESTS / "mutation.toml").read_text())
COPIED = ("omnistorage", "tests", "examples", "docs", "README.md", "CHANGELOG.md", "pyproject.toml")
SETTINGS = """
[tool.mutmut]
source_paths = ["omnistorage"]
only_mutate = {modules}
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist"]
do_not_mutate_patterns = ['^\\s*raise\\b', '^\\s*__slots__', '^\\s*@', '^\\s*warnings\\.warn']
timeout_constant = 2.0
timeout_multiplier = 5.0
"""
SURVIVED, NO_TESTS = {0}, {5, 33}
"""Exit codes of mutmut's workers. All others count as killed: a test failed, crashed or took too long."""


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in ``folder`` and return what it prints."""
    environment = {**os.environ, "OMNISTORAGE_BUDGET": "default", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def prepared(folder: Path, modules: list[str], tests: list[str]) -> None:
    """Copy the project into ``folder`` and tell mutmut what to do there."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    settings = SETTINGS.format(
        modules=json.dumps(modules),
        copied=json.dumps([name for name in COPIED if name != "tests"]),
        tests=json.dumps([f"tests/{test}" for test in tests]),
    )
    with open(folder / "pyproject.toml", "a") as file:
        file.write(settings)


def results(folder: Path, module: str) -> dict[str, int | None]:
    """Return the exit code of each mutant of ``module``; None if it has not run."""
    meta = folder / "mutants" / f"{module}.meta"
    codes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
    return codes


def tested(group: str, sample: int, seed: int) -> bool:
    """Test one group and print its result. Returns whether each module reached 80 %."""
    told = GROUPS[group]
    modules = [
        f"omnistorage/{found}"
        for pattern in told["modules"]
        for found in sorted(glob.glob(pattern, root_dir=ROOT / "omnistorage"))
    ]
    good = True
    with tempfile.TemporaryDirectory(prefix="omnistorage-mutants-") as name:
        folder = Path(name)
        prepared(folder, modules, told["tests"])
        first = mutmut(folder, "run", "no such mutant")  # makes them all, and sees which test reaches which
        chosen = {}
        for module in modules:
            names = sorted(results(folder, module))
            chosen[module] = random.Random(f"{seed} {module}").sample(names, min(sample, len(names)))
        if not any(chosen.values()):
            print(first[-4000:])
            print(f"mutmut made no mutants of {group}")
            return False
        second = mutmut(folder, "run", *(name for names in chosen.values() for name in names))
        if not any(code is not None for module in modules for code in results(folder, module).values()):
            print(f"mutmut tested no mutant of {group}: {second[-4000:]}")
            return False
        for module, names in chosen.items():
            good = printed(folder, module, names, seed) and good
    return good


def printed(folder: Path, module: str, names: list[str], seed: int) -> bool:
    codes = results(folder, module)
    if not names:
        return True
    survivors = [name for name in names if codes[name] in SURVIVED | NO_TESTS]
    unknown = [name for name in names if codes[name] is None]
    score = 100 * (1 - (len(survivors) + len(unknown)) / len(names))
    tried = f"{len(names)} of {len(codes)} mutants"
    print(f"{module}: {score:.0f} % of {tried} killed, {len(survivors)} survived, seed {seed}")
    if unknown:
        print(f"  {len(unknown)} did not run")
    for name in survivors:
        print(f"-- {name}{'' if codes[name] in SURVIVED else ' (no test reaches it)'}")
        lines = mutmut(folder, "show", name).splitlines()
        print("\n".join(line for line in lines if line[:1] in "+-@" and line[:3] not in ("+++", "---")), flush=True)
    return score >= 80


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"groups to test: {', '.join(GROUPS)}, or all")
    parser.add_argument("--sample", type=int, default=200, metavar="N", help="mutants of a module, at most (200)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="repeats a sample")
    chosen = parser.parse_args()
    if not chosen.names:
        parser.print_help()
        return 2
    names = list(GROUPS) if chosen.names == ["all"] else chosen.names
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"no group {unknown[0]}; there are {', '.join(GROUPS)}")
    good = [tested(name, chosen.sample, chosen.seed) for name in names]  # all of them, also after a bad one
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
