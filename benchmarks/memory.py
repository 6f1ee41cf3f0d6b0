"""Peak memory of long streams: VmHWM of a child process beyond what its imports took, whatever the length."""

import subprocess
import sys

from common import REPOSITORY, Bench, version

CHILD = REPOSITORY / "benchmarks" / "memory_child.py"


def streams(bench: Bench):
    """10 GiB of records written and read, zstd and plain (the disk must hold 10 GiB for a while)."""
    gib = 1 if bench.quick else 10
    for suffix, engine in ((".zst", version("zstandard")), ("", "none")):
        path = bench.folder / f"m.ndjson{suffix}"
        for verb in ("write", "read"):
            done = subprocess.run(
                [sys.executable, CHILD, verb, path, str(gib << 30)], check=True, capture_output=True, text=True
            )
            bench.add(
                f"memory_{verb}_{suffix[1:] or 'plain'}", f"peak memory: {verb} {gib} GiB of NDJSON{suffix}",
                peer="over imports", bar=64, better="lower", unit="MiB", samples=[float(done.stdout)], engine=engine,
            )  # fmt: skip
        path.unlink()


GROUPS = {"streams": streams}
