"""Real servers for the tests: started when first asked for, once per run, on free loopback ports.

``server("sshd")`` returns what a client needs to know, a dict; all workers of a run share the server. Where its program
is missing the test is skipped with the reason, or fails if ``OMNISTORAGE_REQUIRE_SERVERS`` is ``all`` or names it. A
server is a module-level function ``start_NAME(folder) -> (process, info)`` in a module of this package, listed in
``HOMES``; it returns once the server really answers, and raises ``Missing`` where its program is not there. A
keeper stops them all by their process ids when the run is over, even if it was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

HOMES = {
    "nginx": ".http",
    "range_server": ".http",
    "wsgidav": ".http",
    "wsgidav_serial": ".http",
    "fake_gcs": ".gcs",
    "mariadb": ".sql",
    "postgres": ".sql",
    "asyncssh": ".ssh",
    "sshd": ".ssh",
    "azurite": ".azure",
    "dfs": ".dfs",
    "moto": ".s3",
    "moto_tiny": ".s3",
    "rclone_s3": ".s3",
    "seaweedfs": ".s3",
    "swift": ".swift",
}
SERVERS = Path(os.environ.get("OMNISTORAGE_SERVERS", Path(__file__).parents[2] / ".servers"))
"""Where programs are put that come neither with the system nor with the extra ``test-servers``; the planted bugs'
copies of the project look into the original's."""
_RUN = "OMNISTORAGE_TEST_RUN"


class Missing(Exception):
    """The program of a server is not on this machine; the text says what to install."""


def server(name: str) -> dict[str, Any]:
    """What a client of the server ``name`` needs to know. Starts it unless another test of the run has."""
    folder = Path(os.environ[_RUN])
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = folder / f"{name}.json"
        if not known.exists():
            known.write_text(json.dumps(_started(name, folder)))
    found: dict[str, Any] = json.loads(known.read_text())
    if "missing" not in found:
        return found
    required = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS", "")
    if required == "all" or name in required.split(","):
        pytest.fail(f"the server {name} is required: {found['missing']}", pytrace=False)
    pytest.skip(f"no {name}: {found['missing']}")


def _started(name: str, folder: Path) -> dict[str, Any]:
    start = getattr(import_module(HOMES[name], __name__), f"start_{name}")
    (folder / name).mkdir()
    try:
        process, info = start(folder / name)
    except Missing as error:
        return {"missing": str(error)}
    process.returncode = 0  # it outlives the object, which would warn of that
    return {**info, "pid": process.pid}


_KEEPER = """
import json, os, pathlib, shutil, signal, sys
sys.stdin.read()  # until whoever made the run is gone, however it went
folder = pathlib.Path(sys.argv[1])
for known in folder.glob("*.json"):
    pid = json.loads(known.read_text()).get("pid")
    try:
        pid and os.killpg(pid, signal.SIGKILL)  # each leads a group of its own, so that its children go with it
    except ProcessLookupError:
        pass
shutil.rmtree(folder, ignore_errors=True)
"""
_keeper: subprocess.Popen[bytes] | None = None


def begin() -> None:
    """Make the place where the servers of this run are noted, and start who stops them when the run is over."""
    global _keeper
    os.environ[_RUN] = tempfile.mkdtemp(prefix="omnistorage-servers-")
    command = [sys.executable, "-S", "-E", "-c", _KEEPER, os.environ[_RUN]]
    _keeper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def end() -> None:
    """Stop the servers of this run, by their process ids, and remove what they kept."""
    global _keeper
    keeper, _keeper = _keeper, None
    if keeper is not None:
        keeper.communicate(timeout=60)


# -- for the functions that start one ----------------------------------------------------------------------------------


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def program(*names: str, hint: str) -> str:
    """The path of the first of the programs ``names`` that is there; ``Missing`` with ``hint`` if none is."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    raise Missing(hint)


def spawn(command: list[Any], folder: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a server that leads a group of its own; what it prints goes to ``folder/output``."""
    with open(folder / "output", "ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **kwargs,
        )


def until(
    ready: Callable[[], object], process: subprocess.Popen[bytes] | None, folder: Path, seconds: float = 60
) -> None:
    """Wait until ``ready()`` neither raises nor returns False."""
    ends, error = time.monotonic() + seconds, None
    while time.monotonic() < ends and (process is None or process.poll() is None):
        try:
            if ready() is not False:
                return
        except Exception as raised:
            error = raised
        time.sleep(0.05)
    if process is not None and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    output = (folder / "output").read_text(errors="replace")[-2000:] if (folder / "output").exists() else ""
    raise RuntimeError(f"the server did not come up: {error!r}\n{output}")


def accepts(port: int) -> Callable[[], object]:
    """Whether somebody listens on ``port``, for ``until``."""
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close()
