"""What starting costs over a bare interpreter."""

import subprocess
import sys

from common import Bench, rounds


def start(bench: Bench):
    """import omnistorage, and omnistorage --help, over python -c pass."""
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import omnistorage"],
        "help": [sys.executable, "-m", "omnistorage", "--help"],
    }
    contenders = {
        name: lambda command=command: subprocess.run(command, check=True, stdout=subprocess.PIPE)
        for name, command in commands.items()
    }
    times = rounds(contenders, 3 if bench.quick else 15, lambda name, value: None)
    for name, what, bar in (("import", "import omnistorage", 60), ("help", "omnistorage --help", 150)):
        samples = [1000 * (a - b) for a, b in zip(times[name], times["bare"], strict=True)]
        bench.add(
            f"startup_{name}", what, peer="over python -c pass", bar=bar, better="lower", unit="ms", samples=samples,
            engine="",
        )  # fmt: skip


GROUPS = {"startup": start}
