"""A 5 GiB object up to a real server and down again, in bounded memory: for ``scripts/soak servers``."""

import os
import pickle
import subprocess
import sys

import pytest

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
MIB = 5 * 1024 if int(os.environ.get("OMNISTORAGE_SCALE", "1")) >= 40 else 64


@pytest.mark.parametrize("client", ["sdk", "obstore"])
@pytest.mark.long
def test_goal_12_goal_13_a_long_stream_takes_its_parts_and_no_more(client):

    with fresh("seaweedfs", client=client) as store:
        done = subprocess.run(
            [sys.executable, "-c", CHILD.replace("\\\\", "\\"), str(MIB)], input=pickle.dumps(store),
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout) <= (store.part_size * store.concurrency >> 20) + 32
