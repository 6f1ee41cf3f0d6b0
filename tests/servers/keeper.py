"""Stop the servers of a run after the run has ended: ``python -P keeper.py FOLDER < pipe``.

The end of standard input is the signal, so that servers also stop after SIGKILL of the run. Standard library only.
"""

import json
import os
import pathlib
import shutil
import signal
import sys


def stop(folder: pathlib.Path) -> None:
    """Kill the servers recorded in ``folder`` by their process ids, and remove their files."""
    for record in folder.glob("*.json"):
        info = json.loads(record.read_text())
        if "pid" in info:
            try:
                os.killpg(info["pid"], signal.SIGKILL)  # each leads a group of its own, with its children
            except ProcessLookupError:
                pass
        if "folder" in info:  # it may lie outside of the folder of the run
            shutil.rmtree(info["folder"], ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(pathlib.Path("/dev/shm") / folder.name, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    stop(pathlib.Path(sys.argv[1]))
