"""Hypothesis profiles, and the rule about skips where every program must be there."""

import gc
import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

from . import servers

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), max_examples=300)
settings.register_profile("soak", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

FULL = os.environ.get("OMNISTORAGE_FULL") == "1"
_SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is not None
SECOND = ("mariadb", "s3 by obstore", "swift", *["asyncssh"] * _SSHD)
"""Parameters of tests that ask one more server, or through one more library, what another one was asked."""
REQUIRED = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS") == "all"
_LIMITED = (
    "test_what_it_writes_its_own_reader_accepts",
    "test_an_oversized_record_is_one_bad_record_and_the_rest_goes_on",
    "test_an_oversized_record_is_not_held_in_memory",
)
_TORN = "test_a_torn_tail_is_dropped_when_that_is_asked_for"
_CSV = ("Lists", "TabsAndCrLf", "AllQuoted", "Escapes", "NothingQuoted", "Dicts", "TypedDicts")
ALLOWED_SKIPS: set[str] = {
    # The toy format of the examples has no max_record and no allow_partial_tail.
    *(f"tests/examples/test_examples.py::TestLtsv::{test}" for test in (*_LIMITED, _TORN)),
    # What is left of a cut row is a sound row, most of the time: test_csv.py says when it is not. The kit's small
    # limit leaves no room for two quotes and a record.
    *(f"tests/formats/test_csv.py::Test{name}::{_TORN}" for name in _CSV),
    *(f"tests/formats/test_csv.py::TestAllQuoted::{test}" for test in _LIMITED),
    # Cut records of 65 KB each at every byte: the other subclasses do that with small ones.
    f"tests/formats/test_length_prefixed.py::TestLargeRecordsWithCrc::{_TORN}",
}
"""Test ids that may be skipped in CI."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: left to `.ci/run`, the soaks, and whoever names the test by its id")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a run in the background: what we test does not
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # workers inherit the run of the process that started them
        servers.begin()


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        servers.end()


def pytest_collection_modifyitems(config, items):
    """The default run leaves out what another test shows of the same code: of another server, or at length."""
    if FULL or any("::" in arg for arg in config.args):
        return
    left = [item for item in items if item.get_closest_marker("long") or _is_of_a_second_server(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def _is_of_a_second_server(item):
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(isinstance(value, str) and value in SECOND for value in values)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is collected is no garbage: looking for some among it would take a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session):
    """Thousands of test items and modules stay to the end: tests that collect garbage need not walk through them."""
    gc.collect()
    gc.freeze()


_module = [None]


def pytest_runtest_setup(item):
    """Nor through what the tests of other modules left: servers' objects, caches of hypothesis."""
    if item.module is not _module[0]:
        _module[0] = item.module
        gc.collect()
        gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail") and item.nodeid not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
