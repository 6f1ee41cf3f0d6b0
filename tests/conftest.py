"""What every test of this project shares: the form of the run, servers, and the rule about skips."""

import gc
import signal
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from . import budget, servers
from .plugins import costs, hung, selection, shake

settings.register_profile(
    "default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("default"), max_examples=100)
settings.register_profile("soak", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(budget.FORM)


def pytest_addoption(parser):
    parser.addoption("--costs", metavar="FILE", help="measure wall and CPU seconds; write them to FILE as JSON")


def pytest_configure(config):
    selection.register(config)
    # A run in the background inherits an ignored interrupt. The programs that the tests start must not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # workers use the servers of the process that started them
        option = config.option
        part = option.keyword or option.markexpr or option.collectonly or option.help or option.version
        whole_run = config.args == config.getini("testpaths") and not part
        servers.begin(*servers.EARLY if whole_run else ())
    costs.register(config)
    hung.register(config)
    shake.register(config)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        servers.end()


@pytest.fixture(scope="session", autouse=True)
def _temporary(tmp_path_factory):
    """What tests make with ``tempfile`` goes where pytest removes it."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("t"))
    yield
    tempfile.tempdir = None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without the garbage collector, which would take a third of the time and find nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session):
    """Exempt test items and modules from garbage collection: they live until the end."""
    gc.collect()
    gc.freeze()


_module = [None]


def pytest_runtest_setup(item):
    """Exempt what the tests of earlier modules left, such as clients of servers and caches of hypothesis."""
    if item.module is not _module[0]:
        _module[0] = item.module
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Print one line per reason to skip, with the number of tests, and no line per test."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    if reasons:
        terminalreporter.section("not run")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:5d} tests: {reason}")
