"""Which tests a run takes, and which it may skip.

A test marked ``ci_only`` is left out of the default run: it repeats for another server, client, engine or arrangement
what another test shows of the same code, or it repeats it at length. ``.ci/run``, ``./scripts/soak`` and a run that
names the test by its id take it. A test marked ``slow`` may take more than a second; ``tests/slow.toml`` lists them all
with the reasons.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import budget, servers

REQUIRED = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS") == "all"
SLOW: dict[str, str] = tomllib.loads((Path(__file__).parent.parent / "slow.toml").read_text())
"""The ids of slow tests below ``tests/``, without parameters, and why each takes its time."""
SECOND_SERVERS = frozenset({"mariadb", "s3 by obstore", "swift", "sshd"})
"""Parameters that ask one more server, or use one more client, for what another parameter shows."""

_LIMITED = (
    "test_what_it_writes_its_own_reader_accepts",
    "test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on",
    "test_an_oversized_record_is_not_held_in_memory",
)
_TORN = "test_a_torn_tail_is_dropped_when_that_is_asked_for"
_CSV = ("Lists", "TabsAndCrLf", "AllQuoted", "Escapes", "NothingQuoted", "Dicts", "TypedDicts")
ALLOWED_SKIPS: frozenset[str] = frozenset({
    # The toy format of the examples has no max_record and no allow_partial_tail.
    *(f"tests/examples/test_examples.py::TestLtsv::{test}" for test in (*_LIMITED, _TORN)),
    # The rest of a cut row is a sound row most of the time: test_csv.py says when it is not. The kit's small limit
    # leaves no room for two quotes and a record.
    *(f"tests/formats/test_csv.py::Test{name}::{_TORN}" for name in _CSV),
    *(f"tests/formats/test_csv.py::TestAllQuoted::{test}" for test in _LIMITED),
    # Cut records of 65 KB each at every byte: the other subclasses do that with small ones.
    f"tests/formats/test_length_prefixed.py::TestLargeRecordsWithCrc::{_TORN}",
})  # fmt: skip
"""Ids of tests that may be skipped where every server is required."""


def is_listed_as_slow(nodeid: str) -> bool:
    return nodeid.partition("[")[0].removeprefix("tests/").removesuffix("::runTest") in SLOW


class Selection:
    """Leaves tests out of the default run, and turns forbidden skips into failures."""

    def __init__(self, config: pytest.Config) -> None:
        self.everything = budget.FULL or any("::" in arg for arg in config.args)

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(self, obj: Any) -> Iterator[None]:
        """Make no items of a class that the run leaves out: there are thousands."""
        if not self.everything and _is_ci_only(getattr(obj, "pytestmark", ())):
            yield
            return []
        return (yield)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            if is_listed_as_slow(item.nodeid):
                item.add_marker("slow")
        if self.everything:
            return
        left = [item for item in items if item.get_closest_marker("ci_only") or _asks_second_server(item)]
        config.hook.pytest_deselected(items=left)
        left_ids = {id(item) for item in left}
        items[:] = [item for item in items if id(item) not in left_ids]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report: Any = yield
        allowed = item.nodeid in ALLOWED_SKIPS or (
            call.excinfo and isinstance(call.excinfo.value, servers.ReportedBefore)
        )
        if REQUIRED and report.skipped and not hasattr(report, "wasxfail") and not allowed:
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
        return report


def _is_ci_only(marks: Any) -> bool:
    return any(mark.name == "ci_only" for mark in (marks if isinstance(marks, (list, tuple)) else [marks]))


def _asks_second_server(item: pytest.Item) -> bool:
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(isinstance(value, str) and value in SECOND_SERVERS for value in values)


def register(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ci_only: left out of the default run (tests/plugins/selection.py)")
    config.addinivalue_line("markers", "slow: takes more than a second, for a reason in tests/slow.toml")
    config.pluginmanager.register(Selection(config), "selection")
