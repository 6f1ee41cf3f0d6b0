"""A test that hangs fails, instead of the whole run: its process prints the stack of each thread and ends.

pytest-xdist reports the test as failed and goes on with another worker. The alarm also ends a process whose main thread
waits in native code, where a signal handler of Python would not run. Children that a test forks have an alarm as well.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator

import pytest

from .. import budget

LIMIT = budget.pick(default=300, ci=600, soak=7200)
"""Seconds for one test: several times ``tests.waiting.LIMIT``, because a test may wait more than once."""


class Watch:
    """Ends the process ``LIMIT`` seconds after a test began and has not ended."""

    def __init__(self) -> None:
        # The real standard error: pytest captures descriptor 2 while a test runs. A chained signal ends the process.
        faulthandler.register(signal.SIGALRM, file=os.dup(2), all_threads=True, chain=True)
        os.register_at_fork(after_in_child=lambda: signal.alarm(LIMIT // 2))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.alarm(LIMIT)
        try:
            return (yield)
        finally:
            signal.alarm(0)


def register(config: pytest.Config) -> None:
    """Watch the tests that this process runs."""
    config.pluginmanager.register(Watch(), "hung")
