"""Goal 32: random calls against a dict, over the backends whose store is in this process or on this disk."""

from omnistorage.backends.memory import MemoryBackend
from omnistorage.testing import BasicBackend, backend_machine

from ..budget import pick

STEPS = pick(default=1_500, ci=30_000, soak=1_000_000)

TestGoal32Memory = backend_machine(MemoryBackend, steps=STEPS)
TestGoal32FlatMemory = backend_machine(lambda: MemoryBackend(dirs=False), steps=STEPS // 3)
TestGoal32Basic = backend_machine(BasicBackend, steps=STEPS // 3)
