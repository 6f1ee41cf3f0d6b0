"""Rules of the house that no single module can show."""

import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / "omnistorage"


def run(code, cwd=REPOSITORY):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_nothing_at_the_root_shadows_the_standard_library():
    """PEP 784: gzip, bz2 and lzma import from a package called compression on Python 3.14; ADR 0001."""
    printed = run("import gzip, bz2, lzma, zlib; print(gzip.__file__, bz2.__file__, lzma.__file__)")
    assert str(REPOSITORY) not in printed.replace(str(REPOSITORY / ".venv"), "")
    for path in REPOSITORY.iterdir():
        if (path / "__init__.py").exists() or path.suffix == ".py":
            assert path.stem not in sys.stdlib_module_names
            assert path.stem not in ("compression", "formats", "sync", "multi")


def test_importing_the_package_starts_no_thread_and_loads_no_third_party():
    printed = run(
        "import sys, threading, json, omnistorage;"
        "print(json.dumps([threading.active_count(), sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    threads, loaded = json.loads(printed)
    assert threads == 1
    assert not {"orjson", "zstandard", "snappy", "click", "rich", "isal", "zlib_ng", "pytest", "asyncio"} & set(loaded)


def test_every_public_name_is_there_and_says_what_it_is():
    import omnistorage

    for name in omnistorage.__all__:
        value = getattr(omnistorage, name)
        assert name == "__version__" or value.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError):
        omnistorage.no_such_name  # noqa: B018
    assert set(omnistorage.__all__) <= set(dir(omnistorage))


def test_every_module_says_why_it_exists():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__main__.py":
            assert path.read_text().lstrip().startswith('"""'), path


def test_the_package_is_typed_and_its_version_is_told_once():
    import omnistorage

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (PACKAGE / "py.typed").exists()
    assert project["version"] == omnistorage.__version__
    assert f"## [{omnistorage.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text() or (
        "## [Unreleased]" in (REPOSITORY / "CHANGELOG.md").read_text()
    )


def test_no_name_of_the_package_can_run_what_it_reads():
    """No pickle.load, eval, exec, yaml.load or shell=True in the package (goal 45)."""
    bad = re.compile(r"\bpickle\.loads?\(|(?<![\w.])(?:eval|exec)\(|yaml\.load\(|shell\s*=\s*True|os\.system")
    for path in PACKAGE.rglob("*.py"):
        if "testing" not in path.parts:
            assert not bad.search(path.read_text()), path


def test_links_in_the_documents_lead_somewhere():
    for document in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_documents_and_code_name_no_machine_of_ours():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    words = re.compile("/" + "work/|/" + r"root/\.[a-z]{3}|/" + "farm/")
    for name in listed.splitlines():
        path = REPOSITORY / name
        if path.suffix in (".py", ".md", ".toml", ".yml", "") and path.is_file() and "corpora" not in name:
            assert not words.search(path.read_text(errors="replace")), name


def test_scripts_are_posix_and_runnable():
    for name in ("demo", "test", "check", "bench", "soak", "shake", "places", "mutate", "lock"):
        path = REPOSITORY / "scripts" / name
        assert path.stat().st_mode & 0o111, name
        assert path.read_text().startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n", str(path)], check=True)


def test_the_hashes_of_the_servers_are_of_the_versions_that_are_asked_for():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = set(project["optional-dependencies"]["test-servers"])
    lines = [
        line for line in (REPOSITORY / "tests/servers/requirements.txt").read_text().splitlines() if line[0] != "#"
    ]
    assert len(lines) >= 4
    for line in lines:
        version, _, digest = line.partition(" --hash=sha256:")
        assert version in pinned
        assert len(digest) == 64


def locked():
    """Name to version and hashes of what requirements-dev.lock installs; several versions of a name are for several
    Pythons."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (REPOSITORY / "requirements-dev.lock").read_text()):
        if not entry.startswith("#"):
            requirement = Requirement(entry.partition(" \\")[0])
            (version,) = requirement.specifier
            hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
            found.setdefault(canonicalize_name(requirement.name), []).append((version.version, hashes))
    return found


def declared(extra, extras):
    for text in extras[extra]:
        requirement = Requirement(text)
        if requirement.name == "omnistorage":
            for inner in requirement.extras:
                yield from declared(inner, extras)
        else:
            yield requirement


def test_the_lock_holds_what_the_project_asks_for_and_a_hash_of_each():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    found = locked()
    wanted = [Requirement(text) for text in project["project"]["dependencies"]]
    wanted += [Requirement(text) for text in project["build-system"]["requires"]]
    wanted += declared("dev", project["project"]["optional-dependencies"])
    for requirement in wanted:
        for version, _ in found[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"run ./scripts/lock: {requirement} is locked at {version}"
    assert all(hashes for versions in found.values() for _, hashes in versions)
    assert {"hatchling", "editables"} <= found.keys()


def test_the_oldest_versions_that_ci_installs_are_the_floors_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    oldest = {}
    for line in (REPOSITORY / "constraints-floor.txt").read_text().splitlines():
        if line and line[0] != "#":
            name, _, version = line.partition("==")
            oldest[canonicalize_name(name)] = Version(version)
    extras = project["optional-dependencies"]
    for requirement in [*map(Requirement, project["dependencies"]), *declared("all", extras)]:
        (floor,) = requirement.specifier
        assert floor.operator == ">="
        assert oldest[canonicalize_name(requirement.name)] in SpecifierSet(f"=={floor.version}.*"), requirement


def test_the_lock_and_the_hashes_of_the_servers_agree():
    found = locked()
    for line in (REPOSITORY / "tests/servers/requirements.txt").read_text().splitlines():
        if line[0] != "#":
            name, _, rest = line.partition("==")
            version, _, digest = rest.partition(" --hash=sha256:")
            assert (version, True) == (found[canonicalize_name(name)][0][0], digest in found[name][0][1])


def test_the_source_distribution_holds_the_package_and_nothing_else(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (made,) = tmp_path.iterdir()
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    rest = {name for name in names if not name.startswith("omnistorage/")}
    # Hatchling adds the ignored names of the repository, and PKG-INFO.
    assert rest == {
        "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md", "pyproject.toml", ".gitignore",
    }  # fmt: skip
    modules = {path.relative_to(REPOSITORY).as_posix() for path in PACKAGE.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_every_test_listed_as_slow_exists():
    for listed in tomllib.loads((REPOSITORY / "tests/slow.toml").read_text()):
        file, name = listed.split("::")
        assert re.search(rf"\b{name}\b", (REPOSITORY / "tests" / file).read_text()), listed


def test_modules_and_tests_of_mutation_testing_exist():
    groups = tomllib.loads((REPOSITORY / "tests/mutation.toml").read_text())
    for name, group in groups.items():
        assert all([*PACKAGE.glob(pattern)] for pattern in group["modules"]), name
        assert all((REPOSITORY / "tests" / test).exists() for test in group["tests"]), name


def test_a_type_checker_knows_every_public_name():
    import omnistorage

    text = (PACKAGE / "__init__.py").read_text()
    told = set(re.findall(r"import (\w+) as \1\b", text))
    starred = {name for module in ("core", "errors") for name in omnistorage._NAMES[module]}
    assert set(omnistorage._WHERE) - starred - told == set()
