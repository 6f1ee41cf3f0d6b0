"""Real servers for the tests: started once per run, on free loopback ports.

``server("sshd")`` returns a dict with what a client needs to know. All workers of a run share the server. If its
program is missing, the test is skipped with the reason; if ``OMNISTORAGE_REQUIRE_SERVERS`` is ``all`` or names the
server, the test fails. A server that cannot start is reported by the first test that asks for it; the others are
skipped.

A server is a function ``start_NAME(folder) -> (process, info)`` in a module of this package, listed in ``HOMES``. It
returns once the server answers requests, and raises ``Missing`` if the program is not installed. A keeper process stops
all servers by their process ids when the run is over, also after SIGKILL.
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
import threading
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
EARLY = ("seaweedfs", "postgres", "fake_gcs", "asyncssh", "range_server", "wsgidav", "dfs")
"""Servers that a run of all tests starts at once, while the tests are collected."""
SERVERS = Path(__file__).parents[2] / ".servers"
"""Where programs are installed that come neither from Debian nor from the extra ``test-servers``."""
RUN = "OMNISTORAGE_TEST_RUN"


class Missing(Exception):
    """The program of a server is not on this machine; the text says what to install."""


class ReportedBefore(pytest.skip.Exception):
    """Skips a test whose server could not start. Another test has failed with the reason."""


def server(name: str) -> dict[str, Any]:
    """Return what a client of the server ``name`` needs to know. Starts the server unless it runs already."""
    info = ask(name)
    if "missing" not in info and "failed" not in info:
        return info
    required = os.environ.get("OMNISTORAGE_REQUIRE_SERVERS", "")
    if required == "all" or name in required.split(","):
        if not _first_report(name):
            raise ReportedBefore(f"the server {name} is required and did not start (one failure says why)")
        pytest.fail(f"the server {name} is required: {info.get('missing') or info['failed']}", pytrace=False)
    pytest.skip(f"no {name}: {info['missing']}" if "missing" in info else f"{name} did not start: {info['failed']}")


def ask(name: str) -> dict[str, Any]:
    """Return what the run knows of a server, or why it is not there. Starts the server if it has not started."""
    folder = Path(os.environ[RUN])
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = folder / f"{name}.json"
        if not known.exists():
            draft = folder / f"{name}.draft"
            draft.write_text(json.dumps(_started(name, folder)))
            draft.replace(known)  # the keeper must never read half of it
    info: dict[str, Any] = json.loads(known.read_text())
    return info


def _first_report(name: str) -> bool:
    """Return whether the test that runs now is the one that reports the missing server, also when it is tried again."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    record = Path(os.environ[RUN]) / f"{name}.reported"
    try:
        with open(record, "x") as file:
            file.write(test)
    except FileExistsError:
        return bool(test) and record.read_text() == test
    return True


def _started(name: str, folder: Path) -> dict[str, Any]:
    start = getattr(import_module(HOMES[name], __name__), f"start_{name}")
    (folder / name).mkdir(exist_ok=True)
    _spawned.processes = []
    try:
        process, info = start(folder / name)
    except Missing as error:
        return {"missing": str(error)}
    except Exception as error:
        for each in _spawned.processes:
            _kill(each)
        printed = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        return {"failed": (printed or str(error) or repr(error)).splitlines()[-1][:300]}
    process.returncode = 0  # the server outlives this object, whose __del__ would warn of that
    return {**info, "pid": process.pid}


_spawned = threading.local()
"""Processes that the start under way in this thread has made."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


_keeper: subprocess.Popen[bytes] | None = None
_starter: subprocess.Popen[bytes] | None = None


def begin(*early: str) -> None:
    """Make the folder in which the servers of this run are recorded, and start the keeper that stops them at the end.

    The servers named ``early`` start in a process of their own, while the tests are collected. A run that was started
    with the folder of another one uses the servers of that one.
    """
    global _keeper, _starter
    if Path(os.environ.get(RUN) or "/no such folder").is_dir():
        return
    os.environ[RUN] = tempfile.mkdtemp(prefix="omnistorage-servers-")
    command = [sys.executable, "-S", "-E", "-P", str(Path(__file__).with_name("keeper.py")), os.environ[RUN]]
    _keeper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert _keeper.stdin is not None
    if early:
        command = [sys.executable, "-m", "tests.servers", "start", *early]
        root = Path(__file__).parents[2]
        _starter = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[_keeper.stdin.fileno()],  # the keeper waits for the end of both processes
        )


def end() -> None:
    """Stop the servers of this run, by their process ids, and remove their files."""
    global _keeper, _starter
    starter, _starter = _starter, None
    if starter is not None:
        try:
            starter.wait(timeout=60)
        except subprocess.TimeoutExpired:
            _kill(starter)
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
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **kwargs,
        )
    if hasattr(_spawned, "processes"):
        _spawned.processes.append(process)
    return process


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
    if process is not None:
        _kill(process)
    output = (folder / "output").read_text(errors="replace").strip() if (folder / "output").exists() else ""
    raise RuntimeError(output.splitlines()[-1] if output else f"it did not come up: {error!r}")


def accepts(port: int) -> Callable[[], object]:
    """Whether somebody listens on ``port``, for ``until``."""
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close()
