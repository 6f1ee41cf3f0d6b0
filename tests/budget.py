"""How much work a test does in each form of the run.

``OMNISTORAGE_BUDGET`` names the form: ``default`` (``./scripts/test``), ``ci`` (``.ci/run``) or ``soak``
(``./scripts/soak``). A test that repeats its work states the three amounts itself: ``pick(default=50, ci=200,
soak=10_000)``.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FORM = os.environ.get("OMNISTORAGE_BUDGET", "default")
if FORM not in ("default", "ci", "soak"):
    raise ValueError(f"OMNISTORAGE_BUDGET is {FORM!r}; it must be default, ci or soak")
FULL = FORM != "default"
"""Whether every case runs, not only a sample."""


def pick(default: T, ci: T, soak: T) -> T:
    """Return the amount for the form of this run."""
    return {"default": default, "ci": ci, "soak": soak}[FORM]
