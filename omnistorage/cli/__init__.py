"""The ``omnistorage`` command. This module must work without the ``[cli]`` extra.

Verbs live in modules of their own and load when they are called; ``rich`` loads when something is really drawn:
``--help`` stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default that of the process) and return its exit code; raises nothing.

    0 ok, 1 other, 2 usage, 3 folder or bucket missing, 4 key missing, 5 retryable, 6 not worth a retry, 7 fatal
    (credentials, configuration, a missing extra), 130 and 143 after SIGINT and SIGTERM, 141 when the reader of standard
    output went away.
    """
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        from omnistorage.errors import MissingExtra

        print(f"omnistorage: error: {MissingExtra(extra='cli')}", file=sys.stderr)
        return 7
    from .runner import run

    return run(sys.argv[1:] if argv is None else argv)
