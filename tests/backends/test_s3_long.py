"""A 5 GiB object up to a real server and down again, in bounded memory: for ``scripts/soak servers``."""

import pickle
import subprocess
import sys

import pytest

from ..budget import pick
from .test_s3 import fresh

CHILD = """
import pickle, re, sys
from pathlib import Path
store = pickle.loads(sys.stdin.buffer.read())
peak = lambda: int(re.search(r"VmHWM:\\\\s+(\\\\d+) kB", Path("/proc/self/status").read_text())[1])
store.check_health()
before, size, block = peak(), int(sys.argv[1]), bytes(1 << 20)
with store.open_writer("long") as writer:
    for _ in range(size):
        writer.write(block)
with store.open_reader("long") as reader:
    left = size << 20
    while data := reader.read(1 << 20):
        assert not any(data[::4096])
        left -= len(data)
assert left == 0
store.delete("long")
print((peak() - before) >> 10)
"""
MIB = pick(default=64, ci=64, soak=5 * 1024)


@pytest.mark.parametrize("client", ["sdk", "obstore"])
@pytest.mark.ci_only
def test_goal_12_goal_13_a_long_stream_takes_its_parts_and_no_more(client):

    with fresh("seaweedfs", client=client) as store:
        done = subprocess.run(
            [sys.executable, "-c", CHILD.replace("\\\\", "\\"), str(MIB)], input=pickle.dumps(store),
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout) <= (store.part_size * store.concurrency >> 20) + 32
