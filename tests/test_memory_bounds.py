"""Goal 13 for records over local files: the peak memory of a stream does not depend on its length."""

import pathlib
import subprocess
import sys

import pytest

from .budget import pick

CHILD = pathlib.Path(__file__).parent.parent / "benchmarks" / "memory_child.py"
SIZE = pick(default=128 << 20, ci=1 << 30, soak=10 << 30)


def peak_mib(verb, path):
    """VmHWM of a child that streams, less what its imports took."""
    command = [sys.executable, "-W", "error", CHILD, verb, path, str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return float(done.stdout)


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("suffix", [".ndjson.zst", pytest.param(".ndjson", marks=pytest.mark.ci_only)])
def test_goal_13_memory_does_not_grow_with_the_stream(suffix, tmp_path):
    path = tmp_path / f"stream{suffix}"
    assert 0 < peak_mib("write", path) <= 64
    if suffix == ".ndjson":
        assert abs(path.stat().st_size / SIZE - 1) < 0.02, "as many bytes as were asked for"
    assert 0 < peak_mib("read", path) <= 64
    path.unlink()
