"""Start servers ahead of the tests that ask for them: ``python -m tests.servers NAME ...``."""

import sys
from concurrent.futures import ThreadPoolExecutor

from . import _ask

with ThreadPoolExecutor() as pool:
    list(pool.map(_ask, sys.argv[1:]))
