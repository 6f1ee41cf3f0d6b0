"""The double of a hierarchical Azure account (``dfs_double.py``): what we know of one without having one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import accepts, free_port, spawn, until
from .azure import ACCOUNT, CONTAINER, KEY, bare


def start_dfs(folder: Path) -> tuple[Any, dict[str, Any]]:
    port = free_port()
    info = {
        "endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}", "dfs_endpoint": f"http://127.0.0.1:{port}/dfs/{ACCOUNT}",
        "port": port, "container": CONTAINER, "account_name": ACCOUNT, "account_key": KEY,
    }  # fmt: skip
    with bare(info) as client:
        process = spawn([sys.executable, "-P", Path(__file__).with_name("dfs_double.py"), port], folder)
        until(accepts(port), process, folder)
        until(client.create_container, process, folder)
    return process, info
