"""Azure's Blob service: Azurite, Microsoft's own emulator (flat accounts only)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import SERVERS, accepts, free_port, program, spawn, until

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "container"


def bare(info: dict[str, Any]) -> Any:
    """The SDK's own client of the container: the back door, and the peer."""
    from azure.storage.blob import ContainerClient

    return ContainerClient(
        info["endpoint"], info["container"],
        credential={"account_name": info["account_name"], "account_key": info["account_key"]}, retry_total=0,
    )  # fmt: skip


def start_azurite(folder: Path) -> tuple[Any, dict[str, Any]]:
    azurite = program(
        str(SERVERS / "node_modules" / ".bin" / "azurite-blob"), "azurite-blob",
        hint="npm install --prefix .servers azurite@3.37.0",
    )  # fmt: skip
    port = free_port()
    command = [
        azurite, "--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence", "--silent",
        "--disableTelemetry", "--skipApiVersionCheck",
    ]  # fmt: skip
    info = {
        "endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}", "port": port, "container": CONTAINER, "account_name": ACCOUNT,
        "account_key": KEY,
    }  # fmt: skip
    with bare(info) as client:  # before anything runs that a missing SDK would leave running
        process = spawn(command, folder, cwd=folder)
        until(accepts(port), process, folder)
        until(client.create_container, process, folder)
    return process, info
