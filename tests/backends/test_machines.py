"""Goal 32: random calls against a dict, over the backends whose store is in this process or on this disk."""

import os

from omnistorage.backends.memory import MemoryBackend
from omnistorage.testing import BasicBackend, backend_machine

SCALE = int(os.environ.get("OMNISTORAGE_SCALE", "1"))  # 10 in CI, 20 in soak

TestGoal32Memory = backend_machine(MemoryBackend, steps=30_000 * SCALE)
TestGoal32FlatMemory = backend_machine(lambda: MemoryBackend(dirs=False), steps=10_000 * SCALE)
TestGoal32Basic = backend_machine(BasicBackend, steps=10_000 * SCALE)
