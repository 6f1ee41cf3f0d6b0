"""Where the time of a test run goes: wall and CPU seconds by folder, test, fixture and server.

``./scripts/test --costs=FILE`` writes every measurement to FILE as JSON and prints the largest ones. CPU seconds are
those of the pytest worker and of the child processes that it waited for. Servers are counted apart, by process group.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import selection

Row = tuple[str, float, float]
"""A name, wall seconds, CPU seconds."""


def _now() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Recorder:
    """Measures one pytest process."""

    def __init__(self) -> None:
        self.tests: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.fixtures: list[Row] = []
        self.process: list[Row] = []
        self._started = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        self.process.append(("import of plugins", 0.0, _now()[1]))
        before = _now()
        result = yield
        self._add(self.process, "collection", before)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        wall, cpu = _now()
        result = yield
        after = _now()
        row = self.tests[item.nodeid]
        row[0] += after[0] - wall
        row[1] += after[1] - cpu
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        before = _now()
        result = yield
        self._add(self.fixtures, f"{fixturedef.scope} {fixturedef.baseid}::{fixturedef.argname}", before)
        return result

    @staticmethod
    def _add(rows: list[Row], name: str, before: tuple[float, float]) -> None:
        after = _now()
        rows.append((name, after[0] - before[0], after[1] - before[1]))

    def measured(self) -> dict[str, Any]:
        self._add(self.process, "whole process", (self._started[0], 0.0))
        fixtures: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for name, wall, cpu in self.fixtures:
            fixtures[name][0] += wall
            fixtures[name][1] += cpu
        return {"tests": dict(self.tests), "fixtures": dict(fixtures), "process": self.process}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["costs"] = self.measured()


class Report:
    """Gathers what the workers measured, in the process that the user started."""

    def __init__(self, file: Path, recorder: Recorder) -> None:
        self.file = file
        self.recorder = recorder
        self.workers: list[dict[str, Any]] = []
        self.servers: dict[str, float] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if "costs" in getattr(node, "workeroutput", {}):
            self.workers.append(node.workeroutput["costs"])

    def pytest_sessionfinish(self) -> None:
        self.servers = _cpu_of_servers(Path(os.environ["OMNISTORAGE_TEST_RUN"]))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        workers = self.workers or [self.recorder.measured()]
        tests = {name: row for worker in workers for name, row in worker["tests"].items()}
        fixtures = _merged(worker["fixtures"].items() for worker in workers)
        process = _merged(((name, (wall, cpu)) for name, wall, cpu in worker["process"]) for worker in workers)
        folders = _merged([((_folder(name), row) for name, row in tests.items())])
        files = _merged([((name.partition("::")[0], row) for name, row in tests.items())])
        tables = {"process": process, "folders": folders, "files": files, "fixtures": fixtures, "tests": tests}
        self.file.write_text(json.dumps({**tables, "servers": self.servers}, indent=1))
        for title, table in tables.items():
            terminalreporter.section(f"costs: {title} (wall s, CPU s)")
            for name, (wall, cpu) in sorted(table.items(), key=lambda row: -row[1][1])[:25]:
                terminalreporter.write_line(f"{wall:8.2f} {cpu:8.2f}  {name}")
        long = {name: row for name, row in tests.items() if row[0] > 1 and not selection.is_listed_as_slow(name)}
        terminalreporter.section("over one second and not in tests/slow.toml (wall s, CPU s)")
        for name, (wall, cpu) in sorted(long.items(), key=lambda row: -row[1][0]):
            terminalreporter.write_line(f"{wall:8.2f} {cpu:8.2f}  {name}")
        terminalreporter.section("costs: servers (CPU s)")
        for name, cpu in sorted(self.servers.items(), key=lambda row: -row[1]):
            terminalreporter.write_line(f"{cpu:8.2f}  {name}")


def _merged(tables: Any) -> dict[str, list[float]]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for table in tables:
        for name, (wall, cpu) in table:
            sums[name][0] += wall
            sums[name][1] += cpu
    return dict(sums)


def _folder(nodeid: str) -> str:
    parts = nodeid.partition("::")[0].split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def _cpu_of_servers(folder: Path) -> dict[str, float]:
    """CPU seconds of each server: of all processes of the group that it leads, and of those they waited for."""
    groups = {json.loads(info.read_text()).get("pid"): info.stem for info in folder.glob("*.json")}
    sums = dict.fromkeys((name for pid, name in groups.items() if pid), 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if name := groups.get(int(fields[2])):
            sums[name] += sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return sums


def register(config: pytest.Config) -> None:
    """Measure this process if ``--costs`` was given."""
    file = config.getoption("--costs")
    if not file:
        return
    recorder = Recorder()
    config.pluginmanager.register(recorder, "costs")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(Path(file), recorder), "costs-report")
