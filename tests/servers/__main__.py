"""Start or stop the servers of a run by hand: ``python -m tests.servers start all``, ``python -m tests.servers stop``.

``OMNISTORAGE_TEST_RUN`` names the folder of the run. Test runs that find it set share these servers and leave them on.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import HOMES, RUN, ask
from .keeper import stop

verb, *names = sys.argv[1:]
if verb == "stop":
    stop(Path(os.environ[RUN]))
else:
    names = [*HOMES] if names == ["all"] else names
    with ThreadPoolExecutor() as pool:
        infos = dict(zip(names, pool.map(ask, names), strict=True))
    absent = {name: info.get("missing") or info["failed"] for name, info in infos.items() if "pid" not in info}
    for name, reason in absent.items():
        print(f"{name}: {reason}", file=sys.stderr)
    sys.exit(1 if absent and os.environ.get("OMNISTORAGE_REQUIRE_SERVERS") == "all" else 0)
