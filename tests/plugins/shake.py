"""Random sleeps in background threads: a test that depends on which thread is faster fails with them.

``./scripts/shake`` switches this on with ``OMNISTORAGE_SHAKE=SEED``. Whenever a thread other than the main one calls a
function of the package, it sleeps with a small probability for up to 20 milliseconds.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

SEED = os.environ.get("OMNISTORAGE_SHAKE")
PACKAGE = str(Path(__file__).parents[2] / "omnistorage") + os.sep
PROBABILITY = 0.004
LONGEST = 0.02
"""Seconds."""


class Shaker:
    """Sleeps in background threads, and counts the sleeps."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.sleeps = 0
        self._random = random.Random(f"{seed} {os.environ.get('PYTEST_XDIST_WORKER', '')}")

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if self._random.random() < PROBABILITY:
            self.sleeps += 1
            time.sleep(self._random.random() * LONGEST)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        threading.setprofile(None)
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["sleeps"] = self.sleeps


class Report:
    """Prints how often the workers slept."""

    def __init__(self, shaker: Shaker) -> None:
        self.shaker = shaker

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.shaker.sleeps += getattr(node, "workeroutput", {}).get("sleeps", 0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.shaker.sleeps:  # a run that was not shaken shows nothing
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_line(
            f"shaken: {self.shaker.sleeps} sleeps in background threads, seed {self.shaker.seed}"
        )


def register(config: pytest.Config) -> None:
    """Shake this process if ``OMNISTORAGE_SHAKE`` is set."""
    if not SEED:
        return
    shaker = Shaker(SEED)
    threading.setprofile(shaker)
    sys.setswitchinterval(0.0005)
    config.pluginmanager.register(shaker, "shake")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(shaker), "shake-report")
