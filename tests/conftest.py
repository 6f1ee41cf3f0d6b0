"""Hypothesis profiles, and the rule about skips where every program must be there."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), max_examples=300)
settings.register_profile("soak", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

REQUIRED = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS") == "all"
ALLOWED_SKIPS: set[str] = set()
"""Test ids that may be skipped in CI, with their reasons beside them. There are none."""


def pytest_collection_finish(session):
    """Thousands of test items and modules stay to the end: tests that collect garbage need not walk through them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail") and item.nodeid not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
